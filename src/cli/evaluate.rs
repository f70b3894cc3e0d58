use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cpu::Cpu;
use lorb_engine::nbest::word_errors::Alignment;
use lorb_engine::rescore::domains::Heads;
use lorb_engine::rescore::evaluate::{self, Prune};

use super::output::{note, print};
use super::scoring::Scoring;
use super::{Compute, Lists, find_adapter, find_model};

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
    /// The adapter for the utterances whose field "domain" is DOMAIN; may be repeated. --adapter is then the one for
    /// all others
    #[arg(long, value_name = "DOMAIN=DIR|ID")]
    adapter_for: Vec<AdapterFor>,
    /// Tune the weights on this list first, and save them beside the adapter; may be repeated. With --adapter-for,
    /// those of each adapter on the utterances that it scores
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

/// A domain and its adapter as it was named.
#[derive(Clone)]
struct AdapterFor {
    domain: String,
    adapter: PathBuf,
}

impl FromStr for AdapterFor {
    type Err = String;

    fn from_str(text: &str) -> Result<AdapterFor, String> {
        match text.split_once('=') {
            Some((domain, adapter)) if !domain.is_empty() && !adapter.is_empty() => {
                Ok(AdapterFor { domain: domain.into(), adapter: adapter.into() })
            }
            _ => Err("expected DOMAIN=DIR or DOMAIN=ID".into()),
        }
    }
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        let scores_anew =
            self.scoring.model.is_some() || self.scoring.adapter.is_some() || !self.adapter_for.is_empty();
        let evaluate = evaluate::Evaluate {
            files: self.files,
            tune: self.tune,
            prune: self.prune,
            alignment: self.align,
            transcripts: self.trn,
            lists: self.lists.options(),
        };
        evaluate.check(scores_anew)?;
        let device = match scores_anew {
            true => self.compute.start()?,
            false => {
                // To count errors no GPU is asked for.
                self.compute.start_workers()?;
                AnyDevice::Cpu(Cpu::of_environment()?)
            }
        };
        let heads = scores_anew.then(|| open(&self.scoring, &self.adapter_for, &self.lists)).transpose()?;
        let mut kept = heads.iter().flat_map(|heads| &heads.heads);
        if !evaluate.tune.is_empty() && kept.any(|head| head.dir.is_none()) {
            note("the weights are not saved: what the Hub's cache holds is not changed");
        }
        let report = evaluate.run(device, heads)?;
        report.warnings.iter().for_each(|warning| note(format!("warning: {warning}")));
        let text = if self.json { report.json() } else { report.text() };
        print(&text)
    }
}

/// Opens the adapter, or those of the domains and the one for all others.
fn open(scoring: &Scoring, adapter_for: &[AdapterFor], lists: &Lists) -> Result<Heads> {
    if adapter_for.is_empty() {
        return scoring.open(lists).map(Heads::from);
    }
    let base = find_model(&scoring.model)?;
    let found = |AdapterFor { domain, adapter }: &AdapterFor| Ok((domain.clone(), find_adapter(adapter)?));
    let by_domain = adapter_for.iter().map(found).collect::<Result<_>>()?;
    let others = scoring.adapter.as_deref().map(find_adapter).transpose()?;
    Heads::open(Some(&base), by_domain, others, &lists.options())
}
