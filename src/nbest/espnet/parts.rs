//! The parts of a score: a dictionary as JSON or Python writes it, its values plain numbers or tensors.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::nbest::keyed::number;

/// `'name': value` at the start of the rest of a dictionary, where the value may be `tensor(…)`.
static ITEM: LazyLock<Regex> = LazyLock::new(|| {
    let item = r#"^\s*(?:'([^']*)'|"([^"]*)")\s*:\s*['"]?(tensor\([^)]*\)|[^,'"}]*)['"]?\s*(?:,|$)"#;
    Regex::new(item).expect("a constant")
});

/// The parts by name, in their order.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn parse(text: &str) -> Result<Vec<(String, f64)>, String> {
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(parts) => parts.into_iter().map(|(name, value)| part(name, value)).collect(),
        Err(_) => python(text),
    }
}

fn part(name: String, value: Value) -> Result<(String, f64), String> {
    let number = match &value {
        Value::Number(number) => number.as_f64().ok_or_else(|| format!("{number} is no number")),
        Value::String(text) => number(text),
        other => Err(format!("expected a number, found {other}")),
    };
    number.map(|number| (name.clone(), number)).map_err(|problem| format!("{name}: {problem}"))
}

fn python(text: &str) -> Result<Vec<(String, f64)>, String> {
    let inner = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let mut rest = inner.ok_or_else(|| format!("expected a dictionary of scores, found {text:?}"))?.trim();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let item = ITEM.captures(rest).ok_or_else(|| format!("expected 'name': number, found {rest:?}"))?;
        let name = item.get(1).or(item.get(2)).map_or("", |name| name.as_str());
        let value = number(item.get(3).map_or("", |value| value.as_str()));
        parts.push((name.to_owned(), value.map_err(|problem| format!("{name}: {problem}"))?));
        rest = rest[item.get(0).map_or(rest.len(), |item| item.end())..].trim_start();
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn json_and_python_give_the_same() {
        for text in [
            r#"{"decoder": "tensor(-1.5)", "ctc": "tensor(-0.5)"}"#,
            r#"{"decoder": -1.5, "ctc": -0.5}"#,
            "{'decoder': tensor(-1.5), 'ctc': tensor(-0.5, device='cuda:0')}",
            "{'decoder': -1.5, 'ctc': -0.5, }",
            "{'decoder': 'tensor(-1.5)','ctc':'tensor(-0.5)'}",
        ] {
            assert_eq!(parse(text), Ok(vec![("decoder".into(), -1.5), ("ctc".into(), -0.5)]), "{text}");
        }
        assert_eq!(parse("{}"), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("-1.5", "expected a dictionary"),
            ("{'ctc': tensor(-inf)}", "ctc: tensor(-inf) is not a finite"),
            ("{\"ctc\": [1]}", "ctc: expected a number"),
            ("{ctc: 1}", "expected 'name': number"),
            ("{'ctc': 1 2}", "ctc: expected a number"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[{]?('.{0,3}'|\"|:|tensor\\(|\\)|,|1|ü){0,12}[}]?") {
            let _ = parse(&text);
        }
    }
}
