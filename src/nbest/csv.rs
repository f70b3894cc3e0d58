//! CSV: a header and one hypothesis a row. `id` and `text` must be there; `rank` counts the hypotheses of an utterance
//! from 1, `ref` is what was said, and any other column a field of the hypothesis, absent where its cell is empty.

use std::io::BufRead;
use std::path::Path;

use csv::{ErrorKind, StringRecord};
use serde_json::{Map, Number, Value};

use super::fields::{ID, REF, TEXT};
use super::file::ListFile;
use super::keyed::json;
use super::lines::{Origin, Source};
use super::record::{Defect, Record, text};
use super::rows::{RANK, Row, Rows};
use super::writer::{Dropped, Sink};
use crate::{Error, Result};

const COLUMNS: &str = "give it a header with the columns id and text, and with rank, am, lm, score, ref where there \
                       are such";

/// Whether a file that begins with this line is one.
pub(super) fn recognise(line: &str) -> bool {
    let mut header = StringRecord::new();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
    let read = reader.read_record(&mut header).unwrap_or(false);
    read && [ID, TEXT].iter().all(|name| header.iter().any(|column| column == *name))
}

/// The finite number that a cell holds: an f64, but for whole ones that it would round.
fn number(cell: &str) -> Option<Value> {
    const ALL_ARE_THERE: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;
    let rounded = cell.parse().ok().filter(|number: &f64| number.is_finite())?;
    if rounded.abs() >= ALL_ARE_THERE
        && let Ok(whole) = cell.parse::<Number>()
        && !whole.is_f64()
    {
        return Some(whole.into());
    }
    Some(json(rounded))
}

/// Reads one hypothesis a row.
pub(super) struct Reader {
    rows: csv::Reader<Box<dyn BufRead + Send>>,
    origin: Origin,
    header: StringRecord,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        let Source { origin, reader } = Source::open(Some(path))?;
        let mut rows = csv::Reader::from_reader(reader);
        let header = rows.headers().cloned().map_err(|e| failed(&origin, e, 1))?;
        let twice = header.iter().enumerate().find(|(i, name)| header.iter().take(*i).any(|n| n == *name));
        if let Some((_, name)) = twice {
            return Err(origin.defect(1, Defect::new(format!("there are two columns {name:?}"), COLUMNS)));
        }
        for name in [ID, TEXT] {
            if !header.iter().any(|column| column == name) {
                return Err(origin.defect(1, Defect::new(format!("there is no column {name}"), COLUMNS)));
            }
        }
        Ok(Reader { rows, origin, header })
    }
}

impl Rows for Reader {
    fn row(&mut self) -> Result<Option<Row>> {
        let mut cells = StringRecord::new();
        let at = self.rows.position().line();
        if !self.rows.read_record(&mut cells).map_err(|e| failed(&self.origin, e, at))? {
            return Ok(None);
        }
        let line = cells.position().map_or(at, |position| position.line());
        let mut row = Row { id: String::new(), rank: None, reference: None, fields: Map::new(), line };
        for (name, cell) in self.header.iter().zip(&cells) {
            match name {
                ID => row.id = cell.into(),
                REF => row.reference = Some(cell.into()),
                TEXT => drop(row.fields.insert(name.into(), cell.into())),
                RANK => {
                    let rank = cell.parse().map_err(|_| {
                        let hint = "number the hypotheses of an utterance from 1";
                        self.origin
                            .defect(line, Defect::new(format!("expected a rank, found {cell:?}"), hint))
                    });
                    row.rank = Some(rank?);
                }
                _ if cell.is_empty() => {}
                _ => drop(row.fields.insert(name.into(), number(cell).unwrap_or_else(|| cell.into()))),
            }
        }
        Ok(Some(row))
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

fn failed(origin: &Origin, error: csv::Error, line: u64) -> Error {
    let line = error.position().map_or(line, |position| position.line());
    let problem = match error.into_kind() {
        ErrorKind::Io(error) => return origin.read_error(error, line),
        ErrorKind::Utf8 { err, .. } => format!("invalid UTF-8 in column {}", err.field() + 1),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("expected {expected_len} columns as in the header, found {len}")
        }
        _ => "the row is broken".into(),
    };
    origin.defect(line, Defect::new(problem, "write UTF-8, and quote what has commas, quotes or line breaks"))
}

/// Writes the columns that the first utterance has.
pub(super) struct Writer {
    file: ListFile,
    header: Option<Header>,
}

struct Header {
    fields: Vec<String>,
    reference: bool,
}

impl Header {
    fn of(record: &Record) -> Header {
        let mut fields: Vec<String> = Vec::new();
        for name in record.hypotheses.iter().flat_map(|h| h.keys()) {
            if ![ID, RANK, TEXT, REF].contains(&&name[..]) && !fields.contains(name) {
                fields.push(name.clone());
            }
        }
        Header { fields, reference: record.reference.is_some() }
    }

    fn names(&self) -> Vec<&str> {
        let fields = self.fields.iter().map(String::as_str);
        [ID, RANK, TEXT].into_iter().chain(fields).chain(self.reference.then_some(REF)).collect()
    }
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Writer { file: ListFile::create(Some(path))?, header: None })
    }
}

/// What a cell can hold of a value: numbers, and strings that are none.
fn cell(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => (!text.is_empty() && number(text).is_none()).then(|| text.clone()),
        _ => None,
    }
}

impl Sink for Writer {
    fn write(&mut self, record: &Record, dropped: &mut Dropped) -> Result<()> {
        let mut rows = csv::Writer::from_writer(Vec::new());
        let mut write = |cells: &[&str]| rows.write_record(cells).map_err(|e| self.file.error(e.into()));
        if self.header.is_none() {
            write(&Header::of(record).names())?;
        }
        let header = self.header.get_or_insert_with(|| Header::of(record));
        let reference = match (&record.reference, header.reference) {
            (Some(reference), true) => Some(reference.as_str()),
            (None, true) => {
                let problem = "has no reference, as those before have, and an empty cell would be one";
                return Err(Error::Usage(format!("utterance {} {problem}", record.id)));
            }
            _ => None,
        };
        dropped.of_utterance(record, |name, _| name == ID || name == REF && reference.is_some());
        for (i, hypothesis) in record.hypotheses.iter().enumerate() {
            let rank = (i + 1).to_string();
            let values =
                header.fields.iter().map(|name| hypothesis.get(name).and_then(cell).unwrap_or_default());
            let values: Vec<String> = values.collect();
            let start = [record.id.as_str(), &rank, text(hypothesis)];
            write(
                &start
                    .into_iter()
                    .chain(values.iter().map(String::as_str))
                    .chain(reference)
                    .collect::<Vec<_>>(),
            )?;
            dropped.of_hypothesis(hypothesis, |name, value| {
                cell(value).is_some() && header.fields.iter().any(|kept| kept == name)
            });
        }
        let rows = rows.into_inner().map_err(|e| self.file.error(e.into_error()))?;
        self.file.write(&rows)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.file.finish()
    }
}
