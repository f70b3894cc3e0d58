//! Pruning: a hypothesis whose first-pass score trails the best of its list too far is not scored.

use std::ops::AddAssign;
use std::str::FromStr;
use std::time::Instant;

use serde::Serialize;

use super::rescorer::{Rescorer, Scored};
use super::tune::ScoredList;
use super::weights::Weights;
use crate::Result;
use crate::nbest::Utterance;

/// How far a first-pass score may trail the best of its list, in the units of that score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Margin(f64);

impl Margin {
    /// Nothing is pruned.
    pub const NONE: Margin = Margin(f64::INFINITY);

    /// `None` unless it is a number from 0: so that the best hypothesis is always kept.
    pub fn new(margin: f64) -> Option<Margin> {
        (0.0..f64::INFINITY).contains(&margin).then_some(Margin(margin))
    }

    pub fn value(self) -> f64 {
        self.0
    }

    /// Of the first-pass scores of a list, whether each is near enough to the best.
    pub fn keeps(self, scores: impl Iterator<Item = f64> + Clone) -> impl Iterator<Item = bool> {
        gaps(scores).map(move |gap| gap <= self.0)
    }
}

impl FromStr for Margin {
    type Err = String;

    fn from_str(text: &str) -> Result<Margin, String> {
        text.parse().ok().and_then(Margin::new).ok_or_else(|| "expected a number from 0".into())
    }
}

/// How far each score trails the best.
fn gaps(scores: impl Iterator<Item = f64> + Clone) -> impl Iterator<Item = f64> {
    let best = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    scores.map(move |score| best - score)
}

/// The smallest margin with which `weights` choose at most `points` more errors per hundred reference units
/// from `lists` than without pruning. It is one of the gaps to the best first-pass scores; none without lists.
///
/// All gaps are looked at, as the errors do not fall steadily: what a margin lets in may be better or worse.
pub fn smallest_margin(lists: &[ScoredList], weights: &Weights, points: f64) -> Margin {
    let mut changes: Vec<(f64, i64)> = lists.iter().flat_map(|list| changes(list, weights)).collect();
    changes.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let sum = |changes: &[(f64, i64)]| changes.iter().map(|(_, change)| change).sum::<i64>();
    let units: u64 = lists.iter().map(|list| list.reference_units).sum();
    let most = sum(&changes) as f64 + points / 100.0 * units as f64;
    let mut errors = 0;
    for same_gap in changes.chunk_by(|(a, _), (b, _)| a == b) {
        errors += sum(same_gap);
        if errors as f64 <= most {
            return Margin(same_gap[0].0);
        }
    }
    Margin::NONE
}

/// The gaps at which a growing margin changes what `weights` choose from `list`, each with the change of the
/// errors; at gap 0 these are the errors of what is chosen first.
fn changes(list: &ScoredList, weights: &Weights) -> Vec<(f64, i64)> {
    let score = |i: usize| weights.combined(&list.hypotheses[i].features);
    let errors = |i: usize| list.hypotheses[i].errors as i64;
    let gaps = gaps(list.hypotheses.iter().map(|h| h.features.first_pass));
    let mut by_gap: Vec<(f64, usize)> = gaps.zip(0..).collect();
    by_gap.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut chosen = None;
    let mut changes = Vec::new();
    for (gap, i) in by_gap {
        // Of equal scores the first of the list is chosen.
        if chosen.is_none_or(|c| score(i) > score(c) || score(i) == score(c) && i < c) {
            changes.push((gap, errors(i) - chosen.map_or(0, errors)));
            chosen = Some(i);
        }
    }
    changes
}

/// Scores lists with and without pruning, and measures what each costs.
pub struct Comparison {
    margin: Margin,
    batches: u64,
    costs: Costs,
}

/// What some lists cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Costs {
    pub all: Cost,
    /// With those alone that are near enough to the best.
    pub kept: Cost,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cost {
    pub hypotheses: u64,
    pub tokens: u64,
    /// Of tokenising and scoring.
    pub seconds: f64,
}

impl Comparison {
    pub fn new(margin: Margin) -> Self {
        Comparison { margin, batches: 0, costs: Costs::default() }
    }

    /// The scores of all hypotheses. Which of the two goes first alternates, as what goes second finds the
    /// memory warm.
    ///
    /// # Errors
    /// As for [`Rescorer::score`].
    pub fn score(&mut self, rescorer: &Rescorer, utterances: &[Utterance]) -> Result<Scored> {
        if self.batches == 0 {
            // The first call of all also wakes the workers.
            rescorer.score(utterances, self.margin)?;
        }
        self.batches += 1;
        let Costs { all, kept } = &mut self.costs;
        if self.batches.is_multiple_of(2) {
            kept.of(rescorer, utterances, self.margin)?;
            all.of(rescorer, utterances, Margin::NONE)
        } else {
            let scored = all.of(rescorer, utterances, Margin::NONE)?;
            kept.of(rescorer, utterances, self.margin)?;
            Ok(scored)
        }
    }

    /// What was measured since the last call.
    pub fn take(&mut self) -> Costs {
        std::mem::take(&mut self.costs)
    }
}

impl Cost {
    fn of(&mut self, rescorer: &Rescorer, utterances: &[Utterance], margin: Margin) -> Result<Scored> {
        let start = Instant::now();
        let scored = rescorer.score(utterances, margin)?;
        self.seconds += start.elapsed().as_secs_f64();
        self.hypotheses += scored.features.iter().flatten().flatten().count() as u64;
        self.tokens += scored.tokens;
        Ok(scored)
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.hypotheses += other.hypotheses;
        self.tokens += other.tokens;
        self.seconds += other.seconds;
    }
}

impl AddAssign for Costs {
    fn add_assign(&mut self, other: Costs) {
        self.all += other.all;
        self.kept += other.kept;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tune::ScoredHypothesis;
    use super::super::weights::Features;
    use super::*;

    fn kept(margin: f64, scores: &[f64]) -> Vec<bool> {
        Margin::new(margin).unwrap().keeps(scores.iter().copied()).collect()
    }

    #[test]
    fn what_trails_by_more_is_not_kept() {
        let scores = [-3.0, -1.0, -2.5, -1.0];
        assert_eq!(kept(0.0, &scores), [false, true, false, true]);
        assert_eq!(kept(1.5, &scores), [false, true, true, true]);
        assert_eq!(kept(0.0, &[7.0]), [true]);
        assert_eq!(kept(1e300, &[f64::MAX, -f64::MAX]), [true, false]);
        assert!(Margin::NONE.keeps([f64::MAX, -f64::MAX].into_iter()).all(|kept| kept));
        assert!([-0.1, f64::NAN, f64::INFINITY].iter().all(|&m| Margin::new(m).is_none()));
    }

    fn errors(lists: &[ScoredList], weights: &Weights, margin: f64) -> u64 {
        let of = |list: &ScoredList| list.hypotheses[list.chosen_within(weights, Margin(margin))].errors;
        lists.iter().map(of).sum()
    }

    proptest! {
        #[test]
        fn the_margin_is_the_smallest_that_costs_no_more(
            lists in proptest::collection::vec(proptest::collection::vec((0i8..12, -6i8..6, 0u64..4), 1..7), 1..12),
            allowed in 0u64..3,
        ) {
            let hypothesis = |&(first_pass, lorb, errors): &(i8, i8, u64)| ScoredHypothesis {
                features: Features { first_pass: first_pass.into(), lorb: lorb.into(), ..Default::default() },
                errors,
                pruned: false,
            };
            let list = |list: &Vec<_>| ScoredList {
                hypotheses: list.iter().map(hypothesis).collect(),
                reference_units: 10,
            };
            let lists: Vec<ScoredList> = lists.iter().map(list).collect();
            let weights = Weights { lorb: 1.0, ..Weights::default() };
            // Half an error more, so that the product's rounding cannot matter.
            let points = 100.0 * (allowed as f64 + 0.5) / (10 * lists.len()) as f64;
            let most = errors(&lists, &weights, f64::INFINITY) + allowed;
            let margins = (0..12).map(f64::from);
            let expected = margins.filter(|&m| errors(&lists, &weights, m) <= most).reduce(f64::min).unwrap();
            prop_assert_eq!(smallest_margin(&lists, &weights, points), Margin(expected));
        }
    }
}
