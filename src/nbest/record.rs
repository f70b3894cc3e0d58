//! An utterance as JSON lines hold it, whatever the format that it came from: what all formats are read into, and
//! written from.

use std::collections::HashSet;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::fields::{Fields, HYPS, ID, LORB, NGRAM, PRUNED, REF, TEXT};
use super::{Hypothesis, Utterance};

/// What is wrong with a line, and what to do about it.
#[derive(Debug)]
pub(crate) struct Defect {
    pub problem: String,
    pub hint: String,
}

impl Defect {
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Defect { problem: problem.into(), hint: hint.into() }
    }

    pub fn expected(place: &str, expected: &str, found: &Value, hint: &str) -> Self {
        Defect::new(format!("{place}: expected {expected}, found {}", described(found)), hint)
    }
}

/// An utterance whose shape is right, whatever scores it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub id: String,
    /// What was said, where known; also in `fields`.
    pub reference: Option<String>,
    /// In the order of the list; never empty, and each has a string in "text".
    pub hypotheses: Vec<Map<String, Value>>,
    /// All fields of the utterance, in order; only "hyps" is null here.
    pub fields: Map<String, Value>,
}

impl Record {
    /// Takes apart what a line of JSON lines holds.
    pub(crate) fn new(mut fields: Map<String, Value>) -> Result<Record, Defect> {
        let id = match fields.get(ID) {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            Some(other) => {
                let hint = "give each utterance a name";
                return Err(Defect::expected(ID, "a string or a number", other, hint));
            }
            None => return Err(Defect::new("\"id\" is missing", "give each utterance a name in \"id\"")),
        };
        let reference = match fields.get(REF) {
            None | Some(Value::Null) => None,
            Some(Value::String(reference)) => Some(reference.clone()),
            Some(other) => {
                let hint = "write what was said, or leave \"ref\" out";
                return Err(Defect::expected(REF, "a string", other, hint));
            }
        };

        const HINT: &str = "give \"hyps\" a list of at least one {\"text\": …, scores …}";
        let hypotheses = match fields.get_mut(HYPS).map(Value::take) {
            None => return Err(Defect::new("\"hyps\" is missing", HINT)),
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(Defect::new("\"hyps\" is empty", HINT));
            }
            Some(Value::Array(list)) => list,
            Some(other) => return Err(Defect::expected(HYPS, "a list", &other, HINT)),
        };
        let hypotheses = hypotheses.into_iter().enumerate().map(|(i, value)| with_text(i, value));
        let hypotheses = hypotheses.collect::<Result<_, _>>()?;
        Ok(Record { id, reference, hypotheses, fields })
    }

    /// One that a format without further fields holds.
    pub(crate) fn of(id: String, hypotheses: Vec<Map<String, Value>>) -> Record {
        let fields = Map::from_iter([(ID.into(), id.as_str().into()), (HYPS.into(), Value::Null)]);
        Record { id, reference: None, hypotheses, fields }
    }

    pub(crate) fn set_reference(&mut self, reference: &str) {
        self.reference = Some(reference.into());
        self.fields.insert(REF.into(), reference.into());
    }

    /// The utterance, with the scores that `names` asks for.
    pub(crate) fn utterance(self, names: &Fields) -> Result<Utterance, Defect> {
        let hypotheses = self.hypotheses.into_iter().enumerate().map(|(i, h)| hypothesis(i, h, names));
        let hypotheses = hypotheses.collect::<Result<Vec<_>, _>>()?;
        if let Some(lm) = &names.lm {
            all_or_none(hypotheses.iter().map(|h| h.lm.is_some()).enumerate(), lm)?;
        }
        let pruned = pruned(&self.fields);
        let scored = hypotheses.iter().map(|h| h.lorb.is_some()).enumerate();
        all_or_none(scored.filter(|(i, scored)| *scored || !pruned.contains(i)), LORB)?;
        Ok(Utterance { id: self.id, reference: self.reference, hypotheses, fields: self.fields })
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            match name.as_str() {
                HYPS => map.serialize_entry(name, &self.hypotheses)?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}

/// The words of a hypothesis of a [`Record`].
pub(crate) fn text(hypothesis: &Map<String, Value>) -> &str {
    hypothesis.get(TEXT).and_then(Value::as_str).unwrap_or_default()
}

fn with_text(i: usize, value: Value) -> Result<Map<String, Value>, Defect> {
    let fields = match value {
        Value::Object(fields) => fields,
        other => {
            let hint = "write each hypothesis as {\"text\": …, scores …}";
            return Err(Defect::expected(&format!("hyps[{i}]"), "an object", &other, hint));
        }
    };
    const HINT: &str = "write the words of the hypothesis in \"text\"";
    match fields.get(TEXT) {
        Some(Value::String(_)) => Ok(fields),
        Some(other) => Err(Defect::expected(&format!("hyps[{i}].text"), "a string", other, HINT)),
        None => Err(missing(i, TEXT, &fields, HINT)),
    }
}

fn hypothesis(i: usize, fields: Map<String, Value>, names: &Fields) -> Result<Hypothesis, Defect> {
    let first_pass = score(i, &names.first_pass, &fields)?.ok_or_else(|| {
        let parts = fields.contains_key("decoder") && fields.contains_key("ctc");
        let hint = match parts {
            true => "give the weight of the CTC score with --ctc-weight W, or a score with --first-pass NAME",
            false => "name the first pass's log-score with --first-pass NAME",
        };
        missing(i, &names.first_pass, &fields, hint)
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
    // In lists from elsewhere the field may hold anything.
    let ngram = fields.get(NGRAM).and_then(Value::as_f64);
    Ok(Hypothesis { text: text(&fields).into(), first_pass, lm, lorb, ngram, fields })
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
