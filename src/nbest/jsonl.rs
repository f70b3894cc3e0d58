//! N-best lists as JSON lines: one utterance a line,
//! `{"id": …, "ref": …, "hyps": [{"text": …, "am": …, "lm": …}, …]}`, plain, gzip or zstd.

pub(super) mod parse;

use std::path::Path;

use serde_json::Value;

use super::file::ListFile;
use super::lines::{self, Origin, Source};
use super::reader::Records;
use super::record::{Defect, Record};
use super::writer::{Dropped, Sink};
use super::{Fields, Utterance};
use crate::{Error, Result};

/// An utterance from what its line would hold: for lists that are in memory. `list` names them in errors, and
/// `number` is this one's among them, from 1.
///
/// # Errors
/// [`Error::List`] where it is not what a line should be.
pub fn utterance(value: Value, fields: &Fields, list: &Path, number: u64) -> Result<Utterance> {
    let defect = |Defect { problem, hint }| Error::List { path: list.into(), line: number, problem, hint };
    parse::of_value(value).and_then(|record| record.utterance(fields)).map_err(defect)
}

/// Reads one utterance a line.
pub(super) struct Lines(lines::Lines);

impl Lines {
    pub fn new(source: Source) -> Self {
        Lines(lines::Lines::new(source))
    }
}

impl Records for Lines {
    fn next(&mut self) -> Option<Result<Record>> {
        match self.0.advance() {
            Ok(true) => Some(parse::record(self.0.bytes()).map_err(|defect| self.0.defect(defect))),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    fn line(&self) -> u64 {
        self.0.number()
    }

    fn raw_line(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Writes one utterance a line.
pub(super) struct Writer {
    file: ListFile,
    line: Vec<u8>,
}

impl Writer {
    pub fn new(file: ListFile) -> Self {
        Writer { file, line: Vec::new() }
    }
}

impl Sink for Writer {
    fn write(&mut self, record: &Record, _: &mut Dropped) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record).map_err(|e| self.file.error(e.into()))?;
        self.line.push(b'\n');
        self.file.write(&self.line)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.file.finish()
    }
}
