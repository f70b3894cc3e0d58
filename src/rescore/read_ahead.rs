//! Reads and parses lists in a thread of its own, a bounded number of utterances ahead.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::nbest::{Fields, ListReader, Reading, Utterance};
use crate::{Error, Result};

/// Utterances of a batch, at most, and as many more are parsed ahead.
pub const MAX_UTTERANCES: usize = 64;

/// A batch ends with the utterance that reaches this length: about 16,000 tokens, enough for every worker.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// A list that is read ahead of its use, in bounded memory.
pub struct ReadAhead {
    lines: Receiver<Line>,
}

/// Some utterances in the order of the list, and what was wrong with the line after them.
#[derive(Default)]
pub struct Batch {
    pub utterances: Vec<Utterance>,
    /// The line of each utterance, counted from 1.
    pub lines: Vec<u64>,
    pub failure: Option<Failure>,
}

/// What could not be read.
pub struct Failure {
    /// [`Error::List`] for one line, after which reading goes on; the list ends after any other.
    pub error: Error,
    /// The bytes of that line, without its newline.
    pub line: Vec<u8>,
}

struct Line {
    number: u64,
    utterance: Result<Utterance, Failure>,
}

impl ReadAhead {
    /// Starts to read `path`, or the standard input for `None` and `-`. Whatever goes wrong, even in opening
    /// it, is in a batch; so is an [`Error::File`] where there is nothing in it.
    pub fn start(path: Option<&Path>, fields: &Fields, reading: &Reading) -> ReadAhead {
        let (sender, lines) = sync_channel(MAX_UTTERANCES);
        let (path, fields, reading) = (path.map(PathBuf::from), fields.clone(), reading.clone());
        // It ends with the list, or when nobody listens any more. Nobody waits for it: it may hang in a read
        // of a terminal.
        thread::spawn(move || read(path.as_deref(), &fields, &reading, &sender));
        ReadAhead { lines }
    }

    /// The first of the utterances that are still to come, with those behind it that are there already: so
    /// that who sends one utterance and waits for the answer gets it. `None` at the end.
    pub fn next_batch(&mut self) -> Option<Batch> {
        let first = self.lines.recv().ok();
        self.batch_from(first)
    }

    /// The same where the first of them is there already; `None` at the end too.
    pub fn batch_that_is_there(&mut self) -> Option<Batch> {
        let first = self.lines.try_recv().ok();
        self.batch_from(first)
    }

    fn batch_from(&mut self, first: Option<Line>) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let mut next = first;
        while let Some(Line { number, utterance }) = next {
            match utterance {
                Ok(utterance) => {
                    bytes += utterance.hypotheses.iter().map(|h| h.text.len()).sum::<usize>();
                    batch.utterances.push(utterance);
                    batch.lines.push(number);
                }
                Err(failure) => {
                    batch.failure = Some(failure);
                    return Some(batch);
                }
            }
            let full = batch.utterances.len() == MAX_UTTERANCES || bytes >= MAX_TEXT_BYTES;
            next = if full { None } else { self.lines.try_recv().ok() };
        }
        (!batch.utterances.is_empty()).then_some(batch)
    }
}

fn read(path: Option<&Path>, fields: &Fields, reading: &Reading, sender: &SyncSender<Line>) {
    let failed = |error| Line { number: 0, utterance: Err(Failure { error, line: Vec::new() }) };
    let mut reader = match ListReader::open_as(path, fields, reading) {
        Ok(reader) => reader,
        Err(error) => {
            // Nobody listens where it cannot be sent, here and below.
            let _ = sender.send(failed(error));
            return;
        }
    };
    let mut nothing = true;
    while let Some(utterance) = reader.next() {
        nothing = false;
        let utterance = utterance.map_err(|error| Failure { error, line: reader.raw_line().to_vec() });
        if sender.send(Line { number: reader.line_number(), utterance }).is_err() {
            return;
        }
    }
    if nothing {
        let _ = sender.send(failed(reader.no_utterances()));
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn batches(text: &str) -> Vec<Batch> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut reader = ReadAhead::start(Some(file.path()), &Fields::default(), &Reading::default());
        std::iter::from_fn(|| reader.next_batch()).collect()
    }

    #[test]
    fn everything_comes_once_and_in_order_in_bounded_batches() {
        let mut text = String::from("\n");
        for i in 0..500 {
            let words = "word ".repeat(i);
            writeln!(text, r#"{{"id":{i},"hyps":[{{"text":"{words}","am":0}}]}}"#).unwrap();
        }
        let batches = batches(&text);
        let ids: Vec<String> =
            batches.iter().flat_map(|b| b.utterances.iter().map(|u| u.id.clone())).collect();
        assert_eq!(ids, (0..500).map(|i| i.to_string()).collect::<Vec<_>>());
        let lines: Vec<u64> = batches.iter().flat_map(|b| b.lines.clone()).collect();
        assert_eq!(lines, (2..=501).collect::<Vec<_>>());
        for batch in &batches {
            let bytes: usize = batch.utterances.iter().map(|u| u.hypotheses[0].text.len()).sum();
            assert!(batch.utterances.len() <= MAX_UTTERANCES && bytes < MAX_TEXT_BYTES + 5 * 500);
            assert!(batch.failure.is_none());
        }
    }

    #[test]
    fn a_bad_line_ends_its_batch_and_no_more() {
        let good = r#"{"id":"u","hyps":[{"text":"A","am":0}]}"#;
        let batches = batches(&format!("{good}\nbad\n{good}\n"));
        let failure = batches.iter().find_map(|b| b.failure.as_ref()).unwrap();
        assert!(matches!(failure.error, Error::List { line: 2, .. }));
        assert_eq!(failure.line, b"bad");
        assert_eq!(batches.iter().map(|b| b.utterances.len()).sum::<usize>(), 2);
    }

    #[test]
    fn nothing_is_an_error_of_the_file() {
        for text in ["", "\n \n"] {
            let batches = batches(text);
            let failure = batches[0].failure.as_ref().unwrap();
            assert!(matches!(&failure.error, Error::File { .. }) && batches.len() == 1);
        }
        let mut missing =
            ReadAhead::start(Some(Path::new("/no/such/file")), &Fields::default(), &Reading::default());
        assert!(matches!(missing.next_batch().unwrap().failure.unwrap().error, Error::Io { .. }));
        assert!(missing.next_batch().is_none());
    }
}
