//! N-best lists: utterances, their hypotheses, their files, and word errors.

mod csv;
pub mod edits;
mod espnet;
pub(crate) mod fields;
mod file;
pub mod format;
pub mod jsonl;
mod kaldi;
mod keyed;
mod lines;
mod mlm;
mod nemo;
pub mod normalise;
mod parquet;
mod reader;
mod record;
mod references;
mod rows;
pub mod sample;
pub mod trn;
pub mod wer;
pub mod word_errors;
mod writer;

pub use fields::Fields;
pub use format::{Format, Reading};
pub use lines::MAX_LINE_BYTES;
pub use reader::{ListReader, read_all};
pub use record::Record;
pub use writer::{Dropped, ListWriter};

use serde_json::{Map, Value};

/// One utterance of a first pass: a reference, where known, and the N-best list.
#[derive(Debug, Clone, PartialEq)]
pub struct Utterance {
    pub id: String,
    /// What was said, as in the file (not normalised); needed to train and to evaluate.
    pub reference: Option<String>,
    /// In the order of the file; never empty.
    pub hypotheses: Vec<Hypothesis>,
    /// The whole line as read, in order, so that rescoring loses nothing; only "hyps" is null here, as its
    /// content is in `hypotheses`.
    pub fields: Map<String, Value>,
}

impl Utterance {
    /// Whether rescoring gave any hypothesis its score: those that it pruned have none.
    pub fn is_rescored(&self) -> bool {
        self.hypotheses.iter().any(|h| h.lorb.is_some())
    }
}

/// One hypothesis: its words and the first pass's log-scores (higher is better).
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// As in the file (not normalised).
    pub text: String,
    /// a_i: the first-pass log-score, finite.
    pub first_pass: f64,
    /// l_i: the score of a language model that the first pass used, where the list has one; finite.
    pub lm: Option<f64>,
    /// g_i: this engine's score, where the file was rescored already and the hypothesis not pruned; finite.
    pub lorb: Option<f64>,
    /// d_i: what the n-gram model of an adapter's domain gave it then.
    pub ngram: Option<f64>,
    /// All fields of the hypothesis as read, in order.
    pub fields: Map<String, Value>,
}

impl Hypothesis {
    /// s_i, where rescoring wrote it: in JSON lines beside the first pass's own score, in other formats in its place.
    pub fn total(&self) -> Option<f64> {
        self.fields.get(fields::TOTAL).or_else(|| self.fields.get(fields::SCORE))?.as_f64()
    }
}
