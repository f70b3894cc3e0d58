//! The margin of pruning that an evaluation looks at.

use std::str::FromStr;

use serde::Serialize;

use crate::nbest::wer::percent;
use crate::rescore::prune::{Margin, smallest_margin};
use crate::rescore::tune::{ScoredList, total_errors};
use crate::rescore::weights::Weights;

/// What `--prune auto` may cost on the tuning lists, in errors per hundred reference units.
const POINTS: f64 = 0.01;

/// What `--prune` says.
#[derive(Clone, Copy, PartialEq)]
pub enum Prune {
    Auto,
    Given(Margin),
}

impl FromStr for Prune {
    type Err = String;

    fn from_str(text: &str) -> Result<Prune, String> {
        match text {
            "auto" => Ok(Prune::Auto),
            _ => text.parse().map(Prune::Given).map_err(|expected| format!("{expected}, or auto")),
        }
    }
}

impl Prune {
    /// The margin; for `auto` the smallest that costs next to nothing on `lists`, which were scored in full.
    pub fn on(self, lists: &[ScoredList], weights: &Weights) -> Pruning {
        let margin = match self {
            Prune::Auto => smallest_margin(lists, weights, POINTS),
            Prune::Given(margin) => margin,
        };
        let units = lists.iter().map(|list| list.reference_units).sum();
        let wer = |margin| {
            let chosen: Vec<usize> = lists.iter().map(|list| list.chosen_within(weights, margin)).collect();
            percent(total_errors(lists, &chosen), units)
        };
        let both = wer(Margin::NONE).zip(wer(margin));
        let tuned = both.map(|(unpruned, pruned)| TunedWer { unpruned, pruned });
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
