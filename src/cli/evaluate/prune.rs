//! The margin of pruning that an evaluation looks at.

use lorb_engine::rescore::prune::{Margin, smallest_margin};
use lorb_engine::rescore::tune::ScoredList;
use lorb_engine::rescore::weights::Weights;
use serde::Serialize;

use crate::cli::parse_margin;

/// What `--prune auto` may cost on the tuning lists, in errors per hundred reference units.
const POINTS: f64 = 0.01;

/// What `--prune` says.
#[derive(Clone, Copy, PartialEq)]
pub enum Prune {
    Auto,
    Given(Margin),
}

impl Prune {
    pub fn parse(text: &str) -> Result<Prune, String> {
        match text {
            "auto" => Ok(Prune::Auto),
            _ => parse_margin(text).map(Prune::Given).map_err(|expected| format!("{expected}, or auto")),
        }
    }

    /// The margin; for `auto` the smallest that costs next to nothing on `lists`, which were scored in full.
    pub fn on(self, lists: &[ScoredList], weights: &Weights) -> Pruning {
        let margin = match self {
            Prune::Auto => smallest_margin(lists, weights, POINTS),
            Prune::Given(margin) => margin,
        };
        let units: u64 = lists.iter().map(|list| list.reference_units).sum();
        let errors = |margin| {
            let chosen = |list: &ScoredList| list.hypotheses[list.chosen_within(weights, margin)].errors;
            lists.iter().map(chosen).sum::<u64>()
        };
        let wer = |margin| 100.0 * errors(margin) as f64 / units as f64;
        let tuned = (units > 0).then(|| TunedWer { unpruned: wer(Margin::NONE), pruned: wer(margin) });
        Pruning { margin, auto: self == Prune::Auto, tuned }
    }
}

/// A margin, and what it costs on the lists that the weights were tuned on.
#[derive(Clone, Copy, Serialize)]
pub struct Pruning {
    pub margin: Margin,
    /// Whether it was sought on those lists.
    pub auto: bool,
    pub tuned: Option<TunedWer>,
}

/// In percent.
#[derive(Clone, Copy, Serialize)]
pub struct TunedWer {
    pub unpruned: f64,
    pub pruned: f64,
}
