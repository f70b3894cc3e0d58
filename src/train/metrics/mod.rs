//! `metrics.jsonl`: what a run is and does, a line at a time while it does it, for whoever looks on and for
//! [`crate::report`].

mod reader;
mod writer;

pub use reader::History;
pub use writer::Metrics;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::summary::SetSummary;
use super::{StepReport, Validation};
use crate::nbest::normalise::Unit;
use crate::rescore::weights::Weights;

/// The file's name in the folder of a run.
pub const NAME: &str = "metrics.jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Record {
    /// The first.
    Run(Box<Setting>),
    Step(StepReport),
    Validation {
        #[serde(flatten)]
        validation: Validation,
        /// In percent, for readers that do not reckon; `None` where nothing was said.
        wer: Option<f64>,
    },
    /// The last.
    Result(Box<Finished>),
}

/// What is trained, on what, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Of this program.
    pub version: String,
    /// When, as RFC 3339 writes it.
    pub started: String,
    /// What was typed, where anything was.
    pub command: Option<String>,
    /// The processor's name.
    pub device: String,
    /// What decides the last bits of a result.
    pub instruction_set: String,
    pub threads: usize,
    pub base: String,
    pub base_parameters: usize,
    pub trained_parameters: usize,
    /// The recipe, by the options' names.
    pub options: Value,
    /// What errors are counted in.
    pub unit: Unit,
    pub lists: Vec<Lists>,
}

/// Some of the lists of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lists {
    /// What they are for.
    pub role: String,
    /// Where they come from.
    pub name: String,
    pub utterances: usize,
    pub hypotheses: usize,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The one that was kept, from 1.
    pub epoch: u32,
    /// Those that were trained.
    pub epochs: u32,
    pub seconds: f64,
    /// Tuned on the validation lists, with this engine's score and without it.
    pub weights: Weights,
    pub weights_without_lorb: Weights,
    pub sets: Vec<SetSummary>,
}
