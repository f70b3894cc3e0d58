//! Parquet, as pandas, pyarrow and Spark write it: a row an utterance, with the columns `id`, `ref` and `hyps`, a list of
//! structs; or a row a hypothesis, as in CSV. A file, or a folder of such.

mod columns;
mod damage;
mod table;
mod values;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::table::{Layout, Table};
use super::fields::{ID, REF, TEXT};
use super::lines::Origin;
use super::reader::Records;
use super::record::{Defect, Record};
use super::rows::{Grouped, RANK, Row, Rows};
use crate::{Error, Result};

pub(super) use writer::Writer;

const MAGIC: &str = "PAR1";

/// What a folder of such files looks like.
pub(super) const FOLDER: &str = "part-0.parquet, part-1.parquet … as Spark writes them";

/// Whether a file that begins so is one. After the letters comes the header of a page or of the footer, which no line of
/// text begins with.
pub(super) fn recognise(start: &str) -> bool {
    start
        .strip_prefix(MAGIC)
        .is_some_and(|rest| rest.chars().next().is_none_or(|next| next.is_control() && !next.is_whitespace()))
}

/// Whether a folder holds some.
pub(super) fn recognise_folder(path: &Path) -> Result<bool> {
    Ok(!files(path)?.is_empty())
}

/// The files of a folder in the order of their names, without those that Spark hides.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder, "read the folder", e);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".parquet") && !name.starts_with(['.', '_']) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Opens a file or a folder.
pub(super) fn open(path: &Path) -> Result<Box<dyn Records>> {
    let files = if path.is_dir() { files(path)? } else { vec![path.into()] };
    if files.is_empty() {
        return Err(Error::file(path, "there is no .parquet file in it", format!("expected {FOLDER}")));
    }
    let table = Table::open(files)?;
    Ok(match table.layout() {
        Layout::Utterances => Box::new(Utterances(table)),
        Layout::Hypotheses => Box::new(Grouped::new(Hypotheses(table))),
    })
}

/// One utterance a row.
struct Utterances(Table);

impl Records for Utterances {
    fn next(&mut self) -> Option<Result<Record>> {
        let row = self.0.row().transpose()?;
        Some(row.and_then(|row| Record::new(row).map_err(|defect| self.0.defect(defect))))
    }

    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    fn line(&self) -> u64 {
        self.0.number()
    }

    fn left_out(&self) -> &[String] {
        self.0.left_out()
    }
}

/// One hypothesis a row.
struct Hypotheses(Table);

impl Rows for Hypotheses {
    fn row(&mut self) -> Result<Option<Row>> {
        match self.0.row()? {
            Some(cells) => hypothesis(cells, self.0.number()).map(Some).map_err(|d| self.0.defect(d)),
            None => Ok(None),
        }
    }

    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    fn left_out(&self) -> &[String] {
        self.0.left_out()
    }
}

fn hypothesis(mut cells: Map<String, Value>, line: u64) -> Result<Row, Defect> {
    let expected = |name: &str, what: &str, found: &Value| {
        let hint = "give each row an id and a text, and where there are such a rank from 1 and a ref";
        Err(Defect::expected(name, what, found, hint))
    };
    let id = match cells.shift_remove(ID).unwrap_or_default() {
        Value::String(id) => id,
        Value::Number(id) => id.to_string(),
        other => return expected(ID, "a string or a number", &other),
    };
    let rank = match cells.shift_remove(RANK) {
        None => None,
        Some(rank) => match rank.as_u64() {
            Some(rank) => Some(rank),
            None => return expected(RANK, "a rank", &rank),
        },
    };
    let reference = match cells.shift_remove(REF) {
        None => None,
        Some(Value::String(reference)) => Some(reference),
        Some(other) => return expected(REF, "a string", &other),
    };
    match cells.get(TEXT).unwrap_or(&Value::Null) {
        Value::String(_) => Ok(Row { id, rank, reference, fields: cells, line }),
        other => expected(TEXT, "a string", other),
    }
}
