//! One line of an N-best list: checked, and turned into an utterance.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Fields, LORB, PRUNED};
use crate::nbest::{Hypothesis, Utterance};

/// What is wrong with a line, and what to do about it.
#[derive(Debug)]
pub(super) struct Defect {
    pub problem: String,
    pub hint: String,
}

impl Defect {
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Defect { problem: problem.into(), hint: hint.into() }
    }

    fn expected(place: &str, expected: &str, found: &Value, hint: &str) -> Self {
        Defect::new(format!("{place}: expected {expected}, found {}", described(found)), hint)
    }
}

/// Parses the bytes of one line, without its newline.
pub(super) fn utterance(line: &[u8], names: &Fields) -> Result<Utterance, Defect> {
    let text = std::str::from_utf8(line).map_err(|e| {
        Defect::new(
            format!("invalid UTF-8 at byte {} of the line", e.valid_up_to()),
            "save the file as UTF-8",
        )
    })?;
    of_value(serde_json::from_str(text).map_err(|e| broken_json(text, &e))?, names)
}

/// Checks what a line holds.
pub(super) fn of_value(value: Value, names: &Fields) -> Result<Utterance, Defect> {
    let mut fields = match value {
        Value::Object(fields) => fields,
        other => return Err(Defect::expected("the line", "an object", &other, "write one utterance a line")),
    };

    let id = match fields.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        Some(other) => {
            return Err(Defect::expected("id", "a string or a number", other, "give each utterance a name"));
        }
        None => return Err(Defect::new("\"id\" is missing", "give each utterance a name in \"id\"")),
    };
    let reference = match fields.get("ref") {
        None | Some(Value::Null) => None,
        Some(Value::String(reference)) => Some(reference.clone()),
        Some(other) => {
            return Err(Defect::expected(
                "ref",
                "a string",
                other,
                "write what was said, or leave \"ref\" out",
            ));
        }
    };

    const HYPS: &str = "give \"hyps\" a list of at least one {\"text\": …, scores …}";
    let hypotheses = match fields.get_mut("hyps").map(Value::take) {
        None => return Err(Defect::new("\"hyps\" is missing", HYPS)),
        Some(Value::Array(list)) if list.is_empty() => return Err(Defect::new("\"hyps\" is empty", HYPS)),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(Defect::expected("hyps", "a list", &other, HYPS)),
    };
    let hypotheses = hypotheses.into_iter().enumerate().map(|(i, value)| hypothesis(i, value, names));
    let hypotheses = hypotheses.collect::<Result<Vec<_>, _>>()?;
    if let Some(lm) = &names.lm {
        all_or_none(hypotheses.iter().map(|h| h.lm.is_some()).enumerate(), lm)?;
    }
    let pruned = pruned(&fields);
    let scored = hypotheses.iter().map(|h| h.lorb.is_some()).enumerate();
    all_or_none(scored.filter(|(i, scored)| *scored || !pruned.contains(i)), LORB)?;
    Ok(Utterance { id, reference, hypotheses, fields })
}

fn hypothesis(i: usize, value: Value, names: &Fields) -> Result<Hypothesis, Defect> {
    let fields = match value {
        Value::Object(fields) => fields,
        other => {
            let hint = "write each hypothesis as {\"text\": …, scores …}";
            return Err(Defect::expected(&format!("hyps[{i}]"), "an object", &other, hint));
        }
    };
    const TEXT: &str = "write the words of the hypothesis in \"text\"";
    let text = match fields.get("text") {
        Some(Value::String(text)) => text.clone(),
        Some(other) => return Err(Defect::expected(&format!("hyps[{i}].text"), "a string", other, TEXT)),
        None => return Err(missing(i, "text", &fields, TEXT)),
    };
    let first_pass = score(i, &names.first_pass, &fields)?.ok_or_else(|| {
        missing(i, &names.first_pass, &fields, "name the first pass's log-score with --first-pass NAME")
    })?;
    let lm = match &names.lm {
        None => None,
        Some(name) => match score(i, name, &fields)? {
            None if names.lm_required => {
                return Err(missing(i, name, &fields, "name a score that is there, or do without it"));
            }
            lm => lm,
        },
    };
    let lorb = score(i, LORB, &fields)?;
    Ok(Hypothesis { text, first_pass, lm, lorb, fields })
}

/// The score `name`, `None` where it is absent or null. What parses as JSON is finite.
fn score(i: usize, name: &str, fields: &Map<String, Value>) -> Result<Option<f64>, Defect> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| {
            Defect::expected(&format!("hyps[{i}].{name}"), "a number", value, "write scores as plain numbers")
        }),
    }
}

/// The hypotheses that rescoring did not score; in lists from elsewhere the field may hold anything.
fn pruned(fields: &Map<String, Value>) -> HashSet<usize> {
    let list = fields.get(PRUNED).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|i| usize::try_from(i.as_u64()?).ok()).collect()
}

/// A score that only some hypotheses have cannot rank the list. `there` says of each whether it has `name`.
fn all_or_none(mut there: impl Iterator<Item = (usize, bool)> + Clone, name: &str) -> Result<(), Defect> {
    match (there.clone().find(|(_, there)| *there), there.find(|(_, there)| !there)) {
        (Some((with, _)), Some((without, _))) => Err(Defect::new(
            format!("hyps[{without}] has no \"{name}\", while hyps[{with}] has"),
            "give it to all hypotheses of a list or to none",
        )),
        _ => Ok(()),
    }
}

fn missing(i: usize, name: &str, fields: &Map<String, Value>, hint: &str) -> Defect {
    let present: Vec<String> = fields.keys().map(|key| format!("\"{key}\"")).collect();
    let present = if present.is_empty() { "nothing".into() } else { present.join(", ") };
    let problem = match fields.get(name) {
        Some(_) => format!("hyps[{i}].{name} is null; the hypothesis has {present}"),
        None => format!("hyps[{i}] has no \"{name}\"; it has {present}"),
    };
    Defect::new(problem, hint)
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
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let problem = format!("broken JSON at column {}: {message}", error.column());
    Defect::new(problem, "write one JSON object a line")
}

/// The key, in its quotes, of the value that would follow `text`.
fn last_key(text: &str) -> Option<&str> {
    let key = text.trim_end().strip_suffix(':')?.trim_end();
    let open = key.strip_suffix('"')?.rfind('"')?;
    key.get(open..)
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) if s.chars().count() <= 40 => format!("the string {s:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
