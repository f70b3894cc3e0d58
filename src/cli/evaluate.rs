use std::path::PathBuf;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::nbest::word_errors::Alignment;
use lorb_engine::rescore::evaluate::{self, Prune};

use super::output::{note, print};
use super::scoring::Scoring;
use super::{Compute, Lists};

/// Count the word errors of lists, and tune the weights of their scores
///
/// With --model or --adapter the lists are scored anew. Without, their own scores count: those of the first
/// pass, and those that rescore wrote.
#[derive(Args)]
pub struct Evaluate {
    /// The lists to evaluate, with references
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    scoring: Scoring,
    /// Tune the weights on this list first, and save them beside the adapter; may be repeated
    #[arg(long, value_name = "FILE")]
    tune: Vec<PathBuf>,
    /// Compare with what rescore --prune MARGIN would choose and cost; auto finds the smallest margin that costs
    /// at most 0.01 points of WER on the lists of --tune
    #[arg(long, value_name = "MARGIN", allow_negative_numbers = true)]
    prune: Option<Prune>,
    /// Align as sclite does, so that substitutions, deletions and insertions are those that sclite -s counts, rather
    /// than count the fewest errors
    #[arg(long, value_name = "levenshtein|sclite", default_value = "levenshtein")]
    align: Alignment,
    /// Write what was said and what each system chose into this folder, as .trn files for sclite
    #[arg(long, value_name = "DIR")]
    trn: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    compute: Compute,
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        let scores_anew = self.scoring.model.is_some() || self.scoring.adapter.is_some();
        let evaluate = evaluate::Evaluate {
            files: self.files,
            tune: self.tune,
            prune: self.prune,
            alignment: self.align,
            transcripts: self.trn,
            lists: self.lists.options(),
        };
        evaluate.check(scores_anew)?;
        let device = self.compute.start()?;
        let head = scores_anew.then(|| self.scoring.open(&self.lists)).transpose()?;
        if !evaluate.tune.is_empty() && head.as_ref().is_some_and(|head| head.dir.is_none()) {
            note("the weights are not saved: what the Hub's cache holds is not changed");
        }
        let report = evaluate.run(device, head)?;
        let text = if self.json { report.json() } else { report.text() };
        print(&text)
    }
}
