use std::path::PathBuf;

use clap::Args;
use lorb_engine::nbest::{Dropped, Fields, Format, ListReader, ListWriter};
use lorb_engine::{Error, Result};

use super::Missing;
use super::output::note;

/// Convert lists between the formats of recognisers
///
/// Says what the target cannot hold. docs/formats.md describes the formats.
#[derive(Args)]
pub struct Convert {
    /// The lists, a file (also gzip or zstd) or a folder; - for JSON lines from the standard input
    input: PathBuf,
    /// Where they go, compressed if a name ends in .gz or .zst; - for JSON lines to the standard output
    output: PathBuf,
    /// What they are: jsonl, espnet, kaldi, nemo, mlm, csv or parquet [default: recognised]
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,
    /// What they become [default: by the name of OUTPUT]
    #[arg(long, value_name = "FORMAT")]
    to: Option<Format>,
    #[command(flatten)]
    missing: Missing,
}

impl Convert {
    pub fn run(self) -> Result<()> {
        let mut reading = self.missing.reading(self.from);
        let from = reading.format_of(Some(&self.input))?;
        reading.format = Some(from);
        let to = self.to.or(Format::of_name(&self.output)).ok_or_else(|| {
            Error::Usage(format!(
                "the name {} does not tell a format: give one with --to",
                self.output.display()
            ))
        })?;
        let mut input = ListReader::open_as(Some(&self.input), &Fields::default(), &reading)?;
        note_left_out(&input);
        let mut output = ListWriter::create(Some(&self.output), to)?;
        let mut hypotheses = 0;
        while let Some(record) = input.next_record() {
            let record = record?;
            hypotheses += record.hypotheses.len();
            output.write(&record)?;
        }
        if input.utterances_read() == 0 {
            return Err(input.no_utterances());
        }
        let dropped = output.finish()?;
        let utterances = input.utterances_read();
        note(format!("converted {utterances} utterances, {hypotheses} hypotheses, from {from} to {to}"));
        note_dropped(&dropped);
        Ok(())
    }
}

/// Says which columns of a table are not read.
pub fn note_left_out(lists: &ListReader) {
    if !lists.left_out().is_empty() {
        let columns = lists.left_out().join(", ");
        note(format!("not read, as they are neither numbers, strings nor booleans: {columns}"));
    }
}

/// Says what a format could not hold.
pub fn note_dropped(dropped: &Dropped) {
    if !dropped.is_empty() {
        note(format!("dropped, as the format cannot hold it: {dropped}"));
    }
}
