//! Files of lines that begin with a key, as Kaldi's and ESPnet's do: a key, one space or tab, the value.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Number, Value};

use super::lines::{Lines, Origin, Source};
use super::record::{Defect, Record};
use crate::{Error, Result};

/// One line.
pub(super) struct Entry {
    pub key: String,
    /// As it is, spaces and all.
    pub value: String,
    pub line: u64,
}

/// Reads the entries of a file, with a look at the next one.
pub(super) struct Keyed {
    lines: Lines,
    next: Option<Entry>,
}

impl Keyed {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Keyed { lines: Lines::new(Source::open(Some(path))?), next: None })
    }

    pub fn origin(&self) -> &Origin {
        self.lines.origin()
    }

    /// What is wrong with the entry that was read last.
    pub fn defect(&self, problem: impl Into<String>, hint: impl Into<String>) -> Error {
        self.lines.defect(Defect::new(problem, hint))
    }

    /// The entry that comes next; `None` at the end.
    pub fn peek(&mut self) -> Result<Option<&Entry>> {
        if self.next.is_none() && self.lines.advance()? {
            let text = self.lines.text()?;
            let (key, value) = text.split_once([' ', '\t']).unwrap_or((text, ""));
            if key.is_empty() {
                return Err(self.defect("the line begins with a space", "begin each line with an id"));
            }
            let line = self.lines.number();
            self.next = Some(Entry { key: key.into(), value: value.into(), line });
        }
        Ok(self.next.as_ref())
    }

    pub fn take(&mut self) -> Result<Option<Entry>> {
        self.peek()?;
        Ok(self.next.take())
    }

    /// The value of `key`, which must come next.
    pub fn expect(&mut self, key: &str) -> Result<String> {
        let found = match self.take()? {
            Some(entry) if entry.key == key => return Ok(entry.value),
            Some(entry) => entry.key,
            None => "the end of the file".into(),
        };
        let hint = "the files of a folder must have the same ids in the same order";
        Err(self.defect(format!("expected {key}, found {found}"), hint))
    }

    /// The finite number that `key`, which must come next, has.
    pub fn expect_number(&mut self, key: &str) -> Result<f64> {
        let text = self.expect(key)?;
        number(&text).map_err(|problem| self.defect(problem, NOT_FINITE))
    }
}

/// What to do about a score that is no finite number.
pub(super) const NOT_FINITE: &str = "write a finite score, or leave the hypothesis out";

/// A finite number as recognisers write it: plain, or as `tensor(-1.5)`, also with a device and in brackets.
pub(super) fn number(text: &str) -> Result<f64, String> {
    let inner = text.trim();
    let inner = match inner.strip_prefix("tensor(").and_then(|rest| rest.strip_suffix(')')) {
        Some(tensor) => tensor.split(',').next().unwrap_or_default().trim().trim_matches(['[', ']']),
        None => inner,
    };
    match inner.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err(format!("{text} is not a finite number")),
        Err(_) => Err(format!("expected a number, found {text:?}")),
    }
}

/// A number as JSON.
pub(super) fn json(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// Checks what a file of keyed lines can hold of an utterance.
#[derive(Default)]
pub(super) struct Checked {
    ids: HashSet<String>,
}

impl Checked {
    /// # Errors
    /// [`Error::Usage`] where an utterance before had the same id.
    pub fn check_id(&mut self, id: &str) -> Result<()> {
        if !self.ids.insert(id.into()) {
            let hint = "this format tells utterances by their ids";
            return Err(Error::Usage(format!("utterance {id} comes twice: {hint}")));
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Usage`] where an id is none for such files, is that of an utterance before, or a text has a line
    /// break.
    pub fn check(&mut self, record: &Record) -> Result<()> {
        let id = &record.id;
        if id.is_empty()
            || id.starts_with('\u{feff}')
            || id.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            let hint = "this format needs ids without spaces and control characters: rename it";
            return Err(Error::Usage(format!("utterance {id:?}: {hint}")));
        }
        self.check_id(id)?;
        record.hypotheses.iter().enumerate().try_for_each(|(i, hypothesis)| check_text(id, i, hypothesis))
    }
}

/// # Errors
/// [`Error::Usage`] where a line cannot hold the text.
pub(super) fn check_text(id: &str, i: usize, hypothesis: &serde_json::Map<String, Value>) -> Result<()> {
    match super::record::text(hypothesis).contains(['\n', '\r']) {
        true => Err(Error::Usage(format!(
            "utterance {id}: hyps[{i}].text has a line break, which this format cannot hold; write spaces instead"
        ))),
        false => Ok(()),
    }
}

/// Writes such a file into a folder that has not got its name yet.
pub(super) struct KeyedWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl KeyedWriter {
    pub fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(|e| Error::io(&path, "create it", e))?;
        Ok(KeyedWriter { path, file: BufWriter::with_capacity(1 << 14, file) })
    }

    pub fn write(&mut self, key: &str, value: &str) -> Result<()> {
        writeln!(self.file, "{key} {value}").map_err(|e| Error::io(&self.path, "write it", e))
    }

    pub fn finish(self) -> Result<()> {
        let failed = |e: io::Error| Error::io(&self.path, "write it", e);
        let file = self.file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_recognisers_write_them() {
        for text in ["-1.5", "tensor(-1.5)", "tensor(-1.5, device='cuda:0')", " tensor([-1.5]) ", "-15e-1"] {
            assert_eq!(number(text), Ok(-1.5), "{text}");
        }
        for text in ["", "tensor()", "tensor(-1.5", "-inf", "tensor(nan)", "a"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
