//! One line of JSON lines: checked, and turned into a record.

use serde_json::{Map, Value};

use crate::nbest::lines::utf8;
use crate::nbest::record::{Defect, Record};

/// Parses the bytes of one line, without its newline.
pub(super) fn record(line: &[u8]) -> Result<Record, Defect> {
    Record::new(object(line)?)
}

/// The object that a line is.
pub(in crate::nbest) fn object(line: &[u8]) -> Result<Map<String, Value>, Defect> {
    let text = utf8(line)?;
    as_object(serde_json::from_str(text).map_err(|e| broken_json(text, &e))?)
}

/// Checks what a line holds.
pub(super) fn of_value(value: Value) -> Result<Record, Defect> {
    Record::new(as_object(value)?)
}

fn as_object(value: Value) -> Result<Map<String, Value>, Defect> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(Defect::expected("the line", "an object", &other, "write one utterance a line")),
    }
}

/// Explains a syntax error. Python's json module writes NaN and infinities bare, which JSON does not know,
/// so the token at the error decides between "not finite" and "broken".
fn broken_json(text: &str, error: &serde_json::Error) -> Defect {
    let bytes = text.as_bytes();
    let of_token = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    // The column counts bytes from 1; a line holds no newline, so it counts from the start of `text`.
    let at = error.column().saturating_sub(1).min(bytes.len());
    let start = at - bytes[..at].iter().rev().take_while(|b| of_token(b)).count();
    let end = at + bytes[at..].iter().take_while(|b| of_token(b)).count();
    let token = text.get(start..end).unwrap_or_default();

    let name = token.trim_start_matches(['+', '-']);
    let not_finite = ["nan", "inf", "infinity"].iter().any(|n| name.eq_ignore_ascii_case(n));
    let overflows = token.parse::<f64>().is_ok_and(f64::is_infinite);
    if not_finite || overflows {
        let key = text.get(..start).and_then(last_key).unwrap_or("a number");
        let hint = "leave hypotheses without a finite score out of the list";
        return Defect::new(format!("{key} is {token}, not a finite number"), hint);
    }
    let problem = format!("broken JSON at column {}: {}", error.column(), without_place(error));
    Defect::new(problem, "write one JSON object a line")
}

/// What is wrong with JSON, without where: its own count of lines begins with what it was given.
pub(in crate::nbest) fn without_place(error: &serde_json::Error) -> String {
    error.to_string().split(" at line ").next().unwrap_or_default().into()
}

/// The key, in its quotes, of the value that would follow `text`.
fn last_key(text: &str) -> Option<&str> {
    let key = text.trim_end().strip_suffix(':')?.trim_end();
    let open = key.strip_suffix('"')?.rfind('"')?;
    key.get(open..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbest::{Fields, Utterance};
    use proptest::prelude::*;

    fn utterance(line: &[u8], names: &Fields) -> Result<Utterance, Defect> {
        record(line)?.utterance(names)
    }

    fn problem(line: &str) -> String {
        problem_with(line, &Fields::default())
    }

    fn problem_with(line: &str, names: &Fields) -> String {
        let defect = utterance(line.as_bytes(), names).unwrap_err();
        assert!(!defect.hint.is_empty());
        format!("{}; {}", defect.problem, defect.hint)
    }

    #[test]
    fn a_line_is_read_whole() {
        let line = r#"{"id":3,"hyps":[{"text":"A B","am":-1,"lm":-2.5,"lorb":0.5}],"ref":"A","more":[1]}"#;
        let u = utterance(line.as_bytes(), &Fields::default()).unwrap();
        assert_eq!((u.id.as_str(), u.reference.as_deref()), ("3", Some("A")));
        let h = &u.hypotheses[0];
        assert_eq!((h.text.as_str(), h.first_pass, h.lm, h.lorb), ("A B", -1.0, Some(-2.5), Some(0.5)));
        assert_eq!(u.fields.keys().collect::<Vec<_>>(), ["id", "hyps", "ref", "more"]);
        assert!(u.fields["hyps"].is_null());
    }

    #[test]
    fn every_defect_is_named() {
        for (line, expected) in [
            (r#"{"id":"#, "broken JSON at column 6: EOF"),
            (r#"[1]"#, "expected an object, found a list"),
            (r#"{"hyps":[]}"#, "\"id\" is missing"),
            (r#"{"id":null}"#, "id: expected a string or a number, found null"),
            (r#"{"id":"u"}"#, "\"hyps\" is missing"),
            (r#"{"id":"u","hyps":[]}"#, "\"hyps\" is empty"),
            (r#"{"id":"u","hyps":{}}"#, "hyps: expected a list, found an object"),
            (r#"{"id":"u","ref":1,"hyps":[]}"#, "ref: expected a string, found the number 1"),
            (r#"{"id":"u","hyps":[7]}"#, "hyps[0]: expected an object, found the number 7"),
            (r#"{"id":"u","hyps":[{"am":1}]}"#, "hyps[0] has no \"text\"; it has \"am\""),
            (
                r#"{"id":"u","hyps":[{"am":1,"text":2}]}"#,
                "hyps[0].text: expected a string, found the number 2",
            ),
            (
                r#"{"id":"u","hyps":[{"text":"","am":"-1"}]}"#,
                "hyps[0].am: expected a number, found the string \"-1\"",
            ),
            (r#"{"id":"u","hyps":[{"text":"","am":null}]}"#, "hyps[0].am is null"),
            (
                r#"{"id":"u","hyps":[{"text":"","am":1,"lm":1},{"text":"","am":1}]}"#,
                "hyps[1] has no \"lm\", while hyps[0] has",
            ),
            (
                r#"{"id":"u","pruned":[0],"hyps":[{"text":"","am":1},{"text":"","am":1,"lorb":1},{"text":"","am":1}]}"#,
                "hyps[2] has no \"lorb\", while hyps[1] has",
            ),
        ] {
            let problem = problem(line);
            assert!(problem.contains(expected), "{line}\n  gave {problem}\n  not  {expected}");
        }
    }

    #[test]
    fn a_missing_first_pass_score_lists_what_is_there() {
        let line = r#"{"id":"u","hyps":[{"text":"A","score":-1,"ctc":2}]}"#;
        let problem = problem(line);
        assert!(problem.contains("has no \"am\"; it has \"text\", \"score\", \"ctc\""), "{problem}");
        assert!(problem.contains("--first-pass NAME"), "{problem}");
        let names = Fields { first_pass: "ctc".into(), ..Fields::default() };
        assert_eq!(utterance(line.as_bytes(), &names).unwrap().hypotheses[0].first_pass, 2.0);
    }

    #[test]
    fn a_language_model_is_missed_only_where_it_was_named() {
        let line = r#"{"id":"u","hyps":[{"text":"A","am":-1}]}"#;
        assert_eq!(utterance(line.as_bytes(), &Fields::default()).unwrap().hypotheses[0].lm, None);
        let named = Fields { lm_required: true, ..Fields::default() };
        assert!(problem_with(line, &named).contains("has no \"lm\""));
    }

    #[test]
    fn scores_that_are_not_finite_are_called_so() {
        for token in ["NaN", "Infinity", "-Infinity", "nan", "-inf", "1e999", "-1e999"] {
            let problem =
                problem(&format!(r#"{{"id":"NaN","hyps":[{{"text":"A NaN","am" : {token},"x":1}}]}}"#));
            assert!(problem.contains(&format!("\"am\" is {token}, not a finite number")), "{problem}");
        }
        assert!(problem("{\"id\": [NaN").starts_with("a number is NaN"));
        assert!(problem("{\"id\": Nano").starts_with("broken JSON at column "));
    }

    #[test]
    fn invalid_utf8_is_located() {
        let defect = utterance(b"{\"id\":\"\xff\"}", &Fields::default()).unwrap_err();
        assert!(defect.problem.contains("byte 7"), "{}", defect.problem);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = utterance(&line, &Fields::default());
        }

        #[test]
        fn damaged_lines_never_panic(at in 0usize..90, byte: u8, length in 0usize..90) {
            let mut line = r#"{"id":"ü","ref":"é NaN","hyps":[{"text":"ß","am":-1.5e3,"lm":-Infinity,"lorb":0}]}"#
                .as_bytes()
                .to_vec();
            line.truncate(length);
            if let Some(b) = line.get_mut(at) {
                *b = byte;
            }
            let _ = utterance(&line, &Fields::default());
        }
    }
}
