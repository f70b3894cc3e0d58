//! The rows of Parquet files, a few of them in memory at a time, however large their row groups are.

use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use arrow_array::{Array, StructArray};
use arrow_schema::Schema;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Map, Value};

use super::MAGIC;
use super::damage::guarded;
use super::values::{self, Infinite};
use crate::nbest::fields::{HYPS, ID, TEXT};
use crate::nbest::keyed::NOT_FINITE;
use crate::nbest::lines::Origin;
use crate::nbest::record::Defect;
use crate::{Error, Result};

/// Rows that are decoded together.
const BATCH: usize = 64;

const COLUMNS: &str = "give it the columns id and hyps, a list of structs with text and scores; or one row a hypothesis \
                       with the columns id and text; and ref where it is known";

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layout {
    Utterances,
    Hypotheses,
}

/// The rows of some files, one after another.
pub struct Table {
    files: VecDeque<PathBuf>,
    part: Part,
    number: u64,
    ended: bool,
}

/// An open file.
struct Part {
    origin: Origin,
    layout: Layout,
    left_out: Vec<String>,
    batches: ParquetRecordBatchReader,
    rows: StructArray,
    next: usize,
}

impl Table {
    /// # Panics
    /// If there is no file.
    pub fn open(files: Vec<PathBuf>) -> Result<Self> {
        let mut files = VecDeque::from(files);
        let part = Part::open(&files.pop_front().expect("a file"))?;
        Ok(Table { files, part, number: 0, ended: false })
    }

    pub fn layout(&self) -> Layout {
        self.part.layout
    }

    pub fn origin(&self) -> &Origin {
        &self.part.origin
    }

    /// The number of the last row in its file, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The columns that are not read, with their types.
    pub fn left_out(&self) -> &[String] {
        &self.part.left_out
    }

    /// What is wrong with the last row.
    pub fn defect(&self, defect: Defect) -> Error {
        self.origin().defect(self.number, defect)
    }

    /// The cells of the next row that are not null. After an error of a file it ends.
    pub fn row(&mut self) -> Result<Option<Map<String, Value>>> {
        match self.advance() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.ended = true;
                return Err(error);
            }
        }
        self.number += 1;
        let fields = values::fields(&self.part.rows, self.part.next);
        self.part.next += 1;
        let infinite = |Infinite { place, value }| {
            self.defect(Defect::new(format!("{place}: {value} is not a finite number"), NOT_FINITE))
        };
        fields.map(Some).map_err(infinite)
    }

    /// Decodes rows where there are none left; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        while !self.ended && self.part.next == self.part.rows.len() {
            let path = &self.part.origin.path;
            let rows = guarded(|| self.part.batches.next());
            match rows.map_err(|problem| damaged(path, &problem, self.number))? {
                Some(rows) => {
                    let rows = rows.map_err(|e| failed(path, &e, self.number))?;
                    (self.part.rows, self.part.next) = (rows.into(), 0);
                }
                None => match self.files.pop_front() {
                    Some(file) => self.go_on_with(&file)?,
                    None => self.ended = true,
                },
            }
        }
        Ok(!self.ended)
    }

    fn go_on_with(&mut self, file: &Path) -> Result<()> {
        let part = Part::open(file)?;
        if part.layout != self.part.layout {
            let other = self.part.origin.path.display();
            let problem = format!("a row of it is not what one of {other} is, an utterance or a hypothesis");
            return Err(Error::file(file, problem, "convert the files one by one"));
        }
        (self.part, self.number) = (part, 0);
        Ok(())
    }
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io(path, "open it", e))?;
        check_magic(path, &mut file)?;
        let length = file.metadata().map_err(|e| Error::io(path, "read it", e))?.len();
        // Types as they are in the file, not as whoever wrote it had them in memory: a string is a string, whether it was
        // a category or not.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new_with_options(file, options));
        let builder =
            builder.map_err(|problem| damaged(path, &problem, 0))?.map_err(|e| failed(path, &e, 0))?;
        check_columns(path, builder.metadata(), length)?;
        let layout = layout(builder.schema())
            .ok_or_else(|| Error::file(path, "its columns are not those of lists", COLUMNS))?;
        let leaves = builder.schema().fields().iter().flat_map(|field| values::leaves(field));
        let (readable, mut left_out) = (&mut Vec::new(), Vec::new());
        for (i, leaf) in leaves.enumerate() {
            match leaf.left_out {
                None => readable.push(i),
                Some(kind) => left_out.push(format!("{} ({kind})", leaf.name)),
            }
        }
        left_out.dedup();
        let readable = ProjectionMask::leaves(builder.parquet_schema(), readable.iter().copied());
        let batches = guarded(|| builder.with_projection(readable).with_batch_size(BATCH).build());
        let batches =
            batches.map_err(|problem| damaged(path, &problem, 0))?.map_err(|e| failed(path, &e, 0))?;
        let rows = StructArray::new_empty_fields(0, None);
        Ok(Part { origin: Origin::of(path.into()), layout, left_out, batches, rows, next: 0 })
    }
}

fn layout(schema: &Schema) -> Option<Layout> {
    let has = |name: &str| schema.column_with_name(name).is_some();
    match (has(ID), has(HYPS), has(TEXT)) {
        (true, true, _) => Some(Layout::Utterances),
        (true, false, true) => Some(Layout::Hypotheses),
        _ => None,
    }
}

fn check_magic(path: &Path, file: &mut File) -> Result<()> {
    let mut magic = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(|e| Error::io(path, "read it", e))?;
    match magic == MAGIC.as_bytes() {
        true => Ok(()),
        false => Err(Error::file(
            path,
            format!("it is not Parquet, which begins with {MAGIC}"),
            "unpack it where it is compressed, or say what it is with --format, or --from of convert",
        )),
    }
}

/// What the footer of a file says of its columns, which is believed after this.
fn check_columns(path: &Path, metadata: &ParquetMetaData, length: u64) -> Result<()> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        match column.compression() {
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) => {
            }
            other => {
                let other = format!("{other:?}");
                let codec = other.split('(').next().unwrap_or_default();
                let problem = format!("it is compressed with {codec}, which is not read");
                return Err(Error::file(path, problem, "write it with snappy, gzip, zstd or none"));
            }
        }
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let within = |start, bytes| {
            let end = u64::try_from(start).ok()?.checked_add(u64::try_from(bytes).ok()?)?;
            (end <= length).then_some(())
        };
        if within(start, column.compressed_size()).is_none() {
            let problem = format!("the footer says that column {} is beyond the file", column.column_path());
            return Err(Error::file(path, problem, "it is truncated or damaged: copy or make it again"));
        }
    }
    Ok(())
}

/// What the system refuses has an error number; the rest is the file's fault.
fn failed(path: &Path, error: &(dyn std::error::Error + 'static), rows: u64) -> Error {
    let mut cause = Some(error);
    while let Some(found) = cause {
        if let Some(number) = found.downcast_ref().and_then(io::Error::raw_os_error) {
            return Error::io(path, "read it", io::Error::from_raw_os_error(number));
        }
        cause = found.source();
    }
    damaged(path, error, rows)
}

fn damaged(path: &Path, problem: &(impl Display + ?Sized), rows: u64) -> Error {
    let problem = format!("the Parquet data is truncated or damaged ({problem})");
    Error::file(path, problem, format!("the first {rows} rows could be read; copy or make it again"))
}
