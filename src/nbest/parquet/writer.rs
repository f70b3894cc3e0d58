//! Writes one utterance a row. The columns are the fields of the first utterances.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{io, iter, mem};

use arrow_array::{ArrayRef, ListArray, RecordBatch, StringArray, StructArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::Value;

use super::columns::{Column, columns};
use crate::atomic::AtomicFile;
use crate::nbest::fields::{HYPS, ID, REF, TEXT};
use crate::nbest::format::Format;
use crate::nbest::record::{Record, text};
use crate::nbest::writer::{Dropped, Sink};
use crate::{Error, Result};

/// Utterances that become arrays together, at most, and the bytes of their texts.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 256 << 10;

/// The row group that is being written is in memory, compressed but for a page of each column.
const ROW_GROUP_BYTES: usize = 4 << 20;
const PAGE_BYTES: usize = 128 << 10;

pub struct Writer {
    path: PathBuf,
    /// Until the first utterances tell the columns.
    file: Option<AtomicFile>,
    table: Option<Table>,
    waiting: Vec<Record>,
    bytes: usize,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        if Format::of_name(path) == Some(Format::Parquet) && path.extension().is_none_or(|e| e != "parquet") {
            let problem = "Parquet is compressed within, and not read where it is compressed as a whole";
            return Err(Error::file(path, problem, "give a name that ends in .parquet"));
        }
        let file = Some(AtomicFile::create(path)?);
        Ok(Writer { path: path.into(), file, table: None, waiting: Vec::new(), bytes: 0 })
    }
}

impl Sink for Writer {
    fn write(&mut self, record: &Record, dropped: &mut Dropped) -> Result<()> {
        self.bytes += record.hypotheses.iter().map(|h| text(h).len()).sum::<usize>();
        self.waiting.push(record.clone());
        if self.waiting.len() < BATCH && self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.write_waiting(dropped)
    }

    fn write_waiting(&mut self, dropped: &mut Dropped) -> Result<()> {
        let records = mem::take(&mut self.waiting);
        self.bytes = 0;
        let failed = |e| failed(&self.path, e);
        if let Some(file) = self.file.take() {
            self.table = Some(Table::create(file, &records).map_err(failed)?);
        }
        let Some(table) = &mut self.table else { return Ok(()) };
        records.iter().for_each(|record| table.count_dropped(record, dropped));
        table.write(&records).map_err(failed)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        match self.table {
            Some(table) => table.writer.into_inner().map_err(|e| failed(&self.path, e))?.commit(),
            None => Ok(()),
        }
    }
}

fn failed(path: &Path, error: ParquetError) -> Error {
    let error = match error {
        ParquetError::External(error) => error.downcast().map_or_else(io::Error::other, |error| *error),
        other => io::Error::other(other),
    };
    Error::io(path, "write it", error)
}

/// The columns besides `id`, `ref`, and `text` in `hyps`, and where they go.
struct Table {
    of_utterances: Vec<Column>,
    of_hypotheses: Vec<Column>,
    writer: ArrowWriter<AtomicFile>,
    schema: SchemaRef,
    /// What an item of `hyps` is.
    hypothesis: FieldRef,
    fields: Fields,
}

impl Table {
    fn create(file: AtomicFile, first: &[Record]) -> Result<Self, ParquetError> {
        let of_utterances = columns(first.iter().map(|record| &record.fields), &[ID, REF, HYPS]);
        let of_hypotheses = columns(first.iter().flat_map(|record| &record.hypotheses), &[TEXT]);
        let of_hypotheses: Vec<Column> = of_hypotheses.into_iter().map(Column::of_scores).collect();

        let text = Field::new(TEXT, DataType::Utf8, false);
        let fields: Fields = iter::once(text).chain(of_hypotheses.iter().map(Column::field)).collect();
        let hypothesis = Arc::new(Field::new("element", DataType::Struct(fields.clone()), false));
        let all = [
            Field::new(ID, DataType::Utf8, false),
            Field::new(REF, DataType::Utf8, true),
            Field::new(HYPS, DataType::List(hypothesis.clone()), false),
        ];
        let all: Vec<Field> = all.into_iter().chain(of_utterances.iter().map(Column::field)).collect();
        let schema = Arc::new(Schema::new(all));

        let properties = WriterProperties::builder()
            .set_created_by(concat!("lorb-engine ", env!("CARGO_PKG_VERSION")).into())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            // Hardly a text or a score comes twice.
            .set_dictionary_enabled(false)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_offset_index_disabled(true)
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build();
        // What is in the schema of Arrow is in that of Parquet too.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, schema.clone(), options)?;
        Ok(Table { of_utterances, of_hypotheses, writer, schema, hypothesis, fields })
    }

    fn count_dropped(&self, record: &Record, dropped: &mut Dropped) {
        let holds = |columns: &[Column], name: &str, value: &Value| {
            columns.iter().any(|column| column.name == *name && column.holds(value))
        };
        dropped.of_utterance(record, |name, value| {
            [ID, REF].contains(&name) || holds(&self.of_utterances, name, value)
        });
        for hypothesis in &record.hypotheses {
            dropped.of_hypothesis(hypothesis, |name, value| holds(&self.of_hypotheses, name, value));
        }
    }

    fn write(&mut self, records: &[Record]) -> Result<(), ParquetError> {
        let hypotheses = || records.iter().flat_map(|record| &record.hypotheses);
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(hypotheses().map(text)));
        let scores = self.of_hypotheses.iter().map(|column| column.array(hypotheses()));
        let columns = iter::once(texts).chain(scores).collect();
        let structs = StructArray::try_new(self.fields.clone(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(records.iter().map(|record| record.hypotheses.len()));
        let lists = ListArray::try_new(self.hypothesis.clone(), offsets, Arc::new(structs), None)?;

        let start: [ArrayRef; 3] = [
            Arc::new(StringArray::from_iter_values(records.iter().map(|record| &record.id))),
            Arc::new(records.iter().map(|record| record.reference.as_deref()).collect::<StringArray>()),
            Arc::new(lists),
        ];
        let others = self.of_utterances.iter().map(|column| column.array(records.iter().map(|r| &r.fields)));
        let batch = RecordBatch::try_new(self.schema.clone(), start.into_iter().chain(others).collect())?;
        self.writer.write(&batch)
    }
}
