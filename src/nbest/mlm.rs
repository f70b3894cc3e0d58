//! The JSON of mlm-scoring: `{"id": {"hyp_1": {"score": -1.5, "text": "…"}, …, "ref": "…"}, …}`, one object for all
//! utterances, of which one is held at a time.
//!
//! A score alone is the first pass's, "am" here; with "am" beside it, all fields are as in JSON lines.

mod members;

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use self::members::{Member, Members};
use super::fields::{AM, HYPS, ID, SCORE};
use super::file::ListFile;
use super::keyed::Checked;
use super::lines::{Origin, Source};
use super::reader::Records;
use super::record::{Defect, Record};
use super::writer::{Dropped, Sink};
use crate::Result;

const HYP: &str = "hyp_";

/// Whether a file that begins so is one.
pub(super) fn recognise(start: &str) -> bool {
    static START: LazyLock<Regex> = LazyLock::new(|| {
        let start = r#"^\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{\s*"(?:hyp_[0-9]+|ref)"\s*:"#;
        Regex::new(start).expect("a constant")
    });
    START.is_match(start)
}

/// The rank in a key such as `hyp_1`.
fn rank(key: &str) -> Option<usize> {
    key.strip_prefix(HYP)?.parse().ok()
}

pub(super) struct Reader(Members);

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Reader(Members::new(Source::open(Some(path))?)))
    }
}

impl Records for Reader {
    fn next(&mut self) -> Option<Result<Record>> {
        let member = self.0.next()?;
        Some(member.and_then(|Member { key, fields }| {
            record(key, fields).map_err(|defect| self.0.origin().defect(self.0.line(), defect))
        }))
    }

    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    fn line(&self) -> u64 {
        self.0.line()
    }
}

fn record(id: String, fields: Map<String, Value>) -> Result<Record, Defect> {
    let mut line = Map::from_iter([(ID.to_owned(), Value::from(id.as_str()))]);
    let mut ranked = Vec::new();
    for (key, value) in fields {
        match (rank(&key), value) {
            (Some(n), Value::Object(hypothesis)) => ranked.push((n, hypothesis)),
            (Some(_), other) => {
                let hint = "write each hypothesis as {\"score\": …, \"text\": …}";
                return Err(Defect::expected(&format!("{id}: {key}"), "an object", &other, hint));
            }
            (None, _) if [ID, HYPS].contains(&&key[..]) => {}
            (None, value) => drop(line.insert(key, value)),
        }
    }
    ranked.sort_by_key(|(n, _)| *n);
    if let Some(n) =
        ranked.iter().zip(1..).find_map(|((n, _), expected)| (*n != expected).then_some(expected))
    {
        let problem = format!("{id}: there is no hyp_{n}, but there are others after it");
        return Err(Defect::new(problem, "number hypotheses from 1"));
    }
    let hypotheses = ranked.into_iter().map(|(_, h)| Value::Object(renamed(h, SCORE, AM)));
    line.insert(HYPS.into(), Value::Array(hypotheses.collect()));
    Record::new(line).map_err(|defect| Defect::new(format!("{id}: {}", defect.problem), defect.hint))
}

/// `hypothesis` with its field `from` called `to`, unless it has one of that name.
fn renamed(hypothesis: Map<String, Value>, from: &str, to: &str) -> Map<String, Value> {
    if hypothesis.get(to).is_some_and(|value| !value.is_null()) {
        return hypothesis;
    }
    let name = |name: String| if name == from { to.to_owned() } else { name };
    hypothesis.into_iter().filter(|(name, _)| name != to).map(|(n, value)| (name(n), value)).collect()
}

/// Writes one utterance a line.
pub(super) struct Writer {
    file: ListFile,
    checked: Checked,
    empty: bool,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Writer { file: ListFile::create(Some(path))?, checked: Checked::default(), empty: true })
    }
}

impl Sink for Writer {
    fn write(&mut self, record: &Record, dropped: &mut Dropped) -> Result<()> {
        self.checked.check_id(&record.id)?;
        let mut fields = Map::new();
        for (i, hypothesis) in record.hypotheses.iter().enumerate() {
            let hypothesis = renamed(hypothesis.clone(), AM, SCORE);
            fields.insert(format!("{HYP}{}", i + 1), Value::Object(hypothesis));
        }
        dropped.of_utterance(record, |name, _| rank(name).is_none());
        let kept = |name: &String| ![ID, HYPS].contains(&&name[..]) && rank(name).is_none();
        let others = record.fields.iter().filter(|(name, _)| kept(name));
        fields.extend(others.map(|(name, value)| (name.clone(), value.clone())));
        let start = if self.empty { "{\n" } else { ",\n" };
        self.empty = false;
        let id = Value::from(record.id.as_str());
        self.file.write(format!("{start}{id}: {}", Value::Object(fields)).as_bytes())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.file.write(if self.empty { b"{}\n" } else { b"\n}\n" })?;
        self.file.finish()
    }
}
