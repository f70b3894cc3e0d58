//! Writing lists in any format, and what a format could not hold.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use serde_json::{Map, Value};

use super::fields::{BEST, CONFIDENCE, ORDER, PRUNED, SCORE, TEXT, TOTAL};
use super::file::ListFile;
use super::format::Format;
use super::record::Record;
use super::{csv, espnet, jsonl, kaldi, mlm, nemo, parquet};
use crate::{Error, Result};

/// Writes the utterances of one format.
pub(super) trait Sink {
    fn write(&mut self, record: &Record, dropped: &mut Dropped) -> Result<()>;

    /// Writes the last records, where they are written several at a time.
    fn write_waiting(&mut self, _: &mut Dropped) -> Result<()> {
        Ok(())
    }

    /// Gives what was written its name; without this there is nothing.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Writes utterances to a file or folder that appears whole, or line by line to the standard output.
pub struct ListWriter {
    format: Format,
    sink: Box<dyn Sink>,
    dropped: Dropped,
}

impl ListWriter {
    /// Opens `path`. A file is compressed if its name ends in `.gz` or `.zst`; one of Parquet is within, by itself. `None` and `-` are the standard
    /// output, for JSON lines alone.
    ///
    /// # Errors
    /// Where it cannot be written; [`Error::Usage`] where the format cannot go there.
    pub fn create(path: Option<&Path>, format: Format) -> Result<Self> {
        let file = path.filter(|path| *path != Path::new("-"));
        let sink: Box<dyn Sink> = match (format, file) {
            (Format::Jsonl, _) => Box::new(jsonl::Writer::new(ListFile::create(file)?)),
            (_, None) => {
                return Err(Error::Usage(format!(
                    "{format} cannot go to the standard output: give a name, or write jsonl"
                )));
            }
            (Format::Espnet, Some(path)) => Box::new(espnet::Writer::create(path)?),
            (Format::Kaldi, Some(path)) => Box::new(kaldi::Writer::create(path)?),
            (Format::Nemo, Some(path)) => Box::new(nemo::Writer::create(path)?),
            (Format::Mlm, Some(path)) => Box::new(mlm::Writer::create(path)?),
            (Format::Csv, Some(path)) => Box::new(csv::Writer::create(path)?),
            (Format::Parquet, Some(path)) => Box::new(parquet::Writer::create(path)?),
        };
        Ok(ListWriter { format, sink, dropped: Dropped::default() })
    }

    /// Writes one utterance.
    ///
    /// # Errors
    /// [`Error::Io`], of kind [`BrokenPipe`](std::io::ErrorKind::BrokenPipe) if whoever read the output has gone;
    /// [`Error::Usage`] where the format cannot hold it.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.sink.write(record, &mut self.dropped)
    }

    /// Writes what [`rescored`](crate::rescore::output::rescored) gave: as it is in JSON lines, which keep the order of
    /// the first pass; in the other formats in the new order, the total in "score".
    ///
    /// # Errors
    /// As for [`write`](Self::write); [`Error::Usage`] too where hypotheses were pruned, whose place only JSON lines
    /// tell.
    pub fn write_rescored(&mut self, line: Map<String, Value>) -> Result<()> {
        let record = Record::new(line).map_err(|d| Error::Usage(format!("{}; {}", d.problem, d.hint)))?;
        match self.format {
            Format::Jsonl => self.write(&record),
            _ => self.write(&ranked(record)?),
        }
    }

    /// Gives the file or the folder its name; without this there is none. What the format could not hold comes back.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(mut self) -> Result<Dropped> {
        self.sink.write_waiting(&mut self.dropped)?;
        self.sink.finish()?;
        Ok(self.dropped)
    }
}

/// The best hypothesis first, and its total as its score.
fn ranked(mut record: Record) -> Result<Record> {
    if record.fields.shift_remove(PRUNED).is_some() {
        let id = &record.id;
        return Err(Error::Usage(format!(
            "utterance {id}: pruned hypotheses have no score: rescore without --prune, or write jsonl"
        )));
    }
    [BEST, CONFIDENCE].iter().for_each(|name| drop(record.fields.shift_remove(*name)));
    let order = record.fields.shift_remove(ORDER);
    let order = order.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_u64);
    record.hypotheses = order
        .filter_map(|i| record.hypotheses.get_mut(i as usize).map(std::mem::take))
        .map(|mut hypothesis| {
            if let Some(total) = hypothesis.shift_remove(TOTAL) {
                hypothesis.insert(SCORE.into(), total);
            }
            hypothesis
        })
        .collect();
    Ok(record)
}

/// What a format could not hold, by its name and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    of_utterances: BTreeMap<String, u64>,
    of_hypotheses: BTreeMap<String, u64>,
}

impl Dropped {
    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.of_utterances.is_empty() && self.of_hypotheses.is_empty()
    }

    /// Counts the fields of an utterance, but for nulls, of which `kept` does not say that they were written.
    pub(super) fn of_utterance(&mut self, record: &Record, kept: impl Fn(&str, &Value) -> bool) {
        count(&mut self.of_utterances, &record.fields, kept);
    }

    /// The same of a hypothesis, whose text always is.
    pub(super) fn of_hypothesis(
        &mut self,
        hypothesis: &Map<String, Value>,
        kept: impl Fn(&str, &Value) -> bool,
    ) {
        count(&mut self.of_hypotheses, hypothesis, |name, value| name == TEXT || kept(name, value));
    }
}

fn count(
    counts: &mut BTreeMap<String, u64>,
    fields: &Map<String, Value>,
    kept: impl Fn(&str, &Value) -> bool,
) {
    for (name, _) in fields.iter().filter(|(name, value)| !value.is_null() && !kept(name, value)) {
        match counts.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(counts.insert(name.clone(), 1)),
        }
    }
}

impl Display for Dropped {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let utterances = self.of_utterances.iter().map(|(name, n)| format!("{name} of {n} utterances"));
        let hypotheses = self.of_hypotheses.iter().map(|(name, n)| format!("{name} of {n} hypotheses"));
        f.write_str(&utterances.chain(hypotheses).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::nbest::{Fields, read_all};
    use serde_json::json;

    fn record(value: Value) -> Record {
        Record::new(value.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        for (name, magic) in
            [("a.jsonl", b"{\"".as_slice()), ("a.gz", b"\x1f\x8b"), ("a.zst", b"\x28\xb5\x2f\xfd")]
        {
            let path = dir.path().join(name);
            let mut writer = ListWriter::create(Some(&path), Format::Jsonl).unwrap();
            for i in 0..3 {
                let am = -0.1 * f64::from(i);
                writer.write(&record(json!({"id": i, "hyps": [{"text": "É\n", "am": am}]}))).unwrap();
            }
            assert!(!path.exists());
            writer.finish().unwrap();
            assert!(std::fs::read(&path).unwrap().starts_with(magic), "{name}");
            let lists = read_all(&[path], &Fields::default()).unwrap();
            assert_eq!(lists.iter().map(|u| u.id.as_str()).collect::<Vec<_>>(), ["0", "1", "2"]);
            assert_eq!(
                (lists[2].hypotheses[0].first_pass, lists[2].hypotheses[0].text.as_str()),
                (-0.2, "É\n")
            );
        }
    }

    #[test]
    fn unfinished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ListWriter::create(Some(&dir.path().join("a.gz")), Format::Jsonl).unwrap();
        writer.write(&record(json!({"id": 1, "hyps": [{"text": "A"}]}))).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_reader_who_left_is_an_error_of_its_own_kind() {
        let (reader, stdout) = io::pipe().unwrap();
        let mut file = ListFile::stream("<stdout>".into(), Box::new(stdout));
        file.write(b"{}\n").unwrap();
        drop(reader);
        let error = file.write(b"{}\n").unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe),
            "{error}"
        );
    }

    #[test]
    fn what_was_rescored_is_ranked() {
        let line = json!({"id": "u", "ref": "B", "hyps": [{"text": "A", "am": -1, "total": 1.5},
            {"text": "B", "am": -2, "score": 7, "total": 3.5}], "best": "B", "confidence": 0.9, "order": [1, 0]});
        let line = ranked(record(line)).unwrap();
        let expected = json!({"id": "u", "ref": "B", "hyps": [{"text": "B", "am": -2, "score": 3.5},
            {"text": "A", "am": -1, "score": 1.5}]});
        assert_eq!(serde_json::to_value(&line).unwrap(), expected);
        let pruned = json!({"id": "u", "hyps": [{"text": "A"}], "order": [0], "pruned": [0]});
        assert!(ranked(record(pruned)).is_err());
    }
}
