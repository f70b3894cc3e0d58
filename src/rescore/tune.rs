//! Weights of the scores that make the fewest expected errors on given lists.

use rayon::prelude::*;

use super::prune::Margin;
use super::weights::{Features, Weights, posterior};
use crate::nbest::Utterance;
use crate::nbest::normalise::{Normaliser, Unit, units};
use crate::nbest::word_errors::Reference;

/// What tuning knows of a hypothesis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredHypothesis {
    pub features: Features,
    pub errors: u64,
    /// Whether this engine left it without a score, while it scored others of the list.
    pub pruned: bool,
}

/// What tuning knows of an utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredList {
    /// In the order of the list.
    pub hypotheses: Vec<ScoredHypothesis>,
    pub reference_units: u64,
}

impl ScoredList {
    /// Counts the errors of an utterance, both sides normalised; `None` where it has no reference. `scores`
    /// are those of each hypothesis, `None` where it was pruned; without them those of the list count, or 0.
    pub fn new(
        utterance: &Utterance,
        scores: Option<&[Option<Features>]>,
        normaliser: &Normaliser,
        unit: Unit,
    ) -> Option<Self> {
        let reference = normaliser.normalise(utterance.reference.as_deref()?);
        let reference_words = units(&reference, unit);
        let reference = Reference::new(&reference_words);
        let is_scored = |i: usize| match scores {
            Some(scores) => scores[i].is_some(),
            None => utterance.hypotheses[i].lorb.is_some(),
        };
        let scored = (0..utterance.hypotheses.len()).any(is_scored);
        let hypotheses = utterance.hypotheses.iter().enumerate().map(|(i, hypothesis)| {
            let text = normaliser.normalise(&hypothesis.text);
            let words = units(&text, unit);
            let own = || {
                let (lorb, ngram) = (hypothesis.lorb.unwrap_or(0.0), hypothesis.ngram.unwrap_or(0.0));
                Features::new(hypothesis, lorb, words.len(), ngram)
            };
            ScoredHypothesis {
                features: scores.and_then(|scores| scores[i]).unwrap_or_else(own),
                errors: reference.distance(&words),
                pruned: scored && !is_scored(i),
            }
        });
        Some(ScoredList { hypotheses: hypotheses.collect(), reference_units: reference_words.len() as u64 })
    }

    /// The index of the hypothesis that `weights` choose, the first of equal ones; 0 in an empty list.
    pub fn chosen(&self, weights: &Weights) -> usize {
        best_of(self.hypotheses.iter().enumerate(), weights)
    }

    /// The same among those that were scored and lie within `margin`.
    pub fn chosen_within(&self, weights: &Weights, margin: Margin) -> usize {
        let keeps = margin.keeps(self.hypotheses.iter().map(|h| h.features.first_pass));
        let kept = self.hypotheses.iter().enumerate().zip(keeps).filter(|((_, h), keep)| *keep && !h.pruned);
        best_of(kept.map(|(hypothesis, _)| hypothesis), weights)
    }

    /// The index of the hypothesis with the fewest errors, the first of equal ones; 0 in an empty list.
    pub fn oracle(&self) -> usize {
        let fewest = self.hypotheses.iter().enumerate().min_by_key(|(_, h)| h.errors);
        fewest.map_or(0, |(i, _)| i)
    }

    fn errors_of(&self, chosen: usize) -> u64 {
        self.hypotheses.get(chosen).map_or(0, |h| h.errors)
    }
}

/// The index of the best of `hypotheses`, the first of equal ones.
fn best_of<'h>(hypotheses: impl Iterator<Item = (usize, &'h ScoredHypothesis)>, weights: &Weights) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, hypothesis) in hypotheses {
        let score = weights.combined(&hypothesis.features);
        if score > best.1 {
            best = (i, score);
        }
    }
    best.0
}

/// By list, the index of the hypothesis that `weights` choose.
pub fn chosen(lists: &[ScoredList], weights: &Weights) -> Vec<usize> {
    lists.iter().map(|list| list.chosen(weights)).collect()
}

/// By list, the index of the hypothesis with the fewest errors: no weights can do better.
pub fn oracle(lists: &[ScoredList]) -> Vec<usize> {
    lists.iter().map(ScoredList::oracle).collect()
}

/// The errors of the hypotheses that were chosen.
pub fn total_errors(lists: &[ScoredList], chosen: &[usize]) -> u64 {
    lists.iter().zip(chosen).map(|(list, &i)| list.errors_of(i)).sum()
}

/// The weights for `lists`: of the LM where they have one, of this engine's score if `lorb`, and of the words and
/// of the n-gram model where that helps by more than one standard error over lists, since on few lists one more
/// weight fits chance. That of the n-gram model comes last, with the others as they are without it: they are for
/// lists that are strange to it as well.
///
/// They make the fewest *expected* errors, sum_i P_i e_i with P = softmax(c s) as in the MWER loss, by a
/// compass search. The count of errors itself has steps, and on few lists its minimum fits chance (seen:
/// weights that minimise it on 557 lists, by exact line searches, lost 0.04 points of WER on 2,620 others
/// to those of this search). c makes the first pass alone as sure on average as [`CONFIDENCE`] says.
/// Deterministic, whatever the number of threads.
pub fn tune_weights(lists: &[ScoredList], lorb: bool) -> Weights {
    let scale = sharpness(lists, &Weights::default());
    let search = |from, scores: &[Coordinate]| search(lists, scale, from, scores);
    let gains = |before: &Weights, after: &Weights| gains(lists, scale, before, after);
    let mut scores = vec![LM];
    if lorb {
        scores.push(LORB);
    }
    let mut best = search(Weights::default(), &scores);
    scores.push(WORDS);
    for more in [&scores[..], &[NGRAM]] {
        let more = search(best, more);
        if gains(&best, &more) {
            best = more;
        }
    }
    best
}

/// Whether `after` makes fewer expected errors than `before` by more than one standard error.
fn gains(lists: &[ScoredList], scale: f64, before: &Weights, after: &Weights) -> bool {
    let [before, after] = [before, after].map(|weights| expected_errors(lists, scale, weights));
    let (mut gain, mut squares) = (0.0, 0.0);
    for (before, after) in before.into_iter().zip(after) {
        gain += before - after;
        squares += (before - after).powi(2);
    }
    gain > squares.sqrt()
}

/// What tuning makes least: the expected errors of all lists with P as sharp as it has it.
pub fn total_expected_errors(lists: &[ScoredList], weights: &Weights) -> f64 {
    let scale = sharpness(lists, &Weights::default());
    expected_errors(lists, scale, weights).iter().sum()
}

/// Tries a step up and down in each weight from `best` on, and halves the steps where none helps.
fn search(lists: &[ScoredList], scale: f64, mut best: Weights, coordinates: &[Coordinate]) -> Weights {
    let total = |weights: &Weights| expected_errors(lists, scale, weights).iter().sum::<f64>();
    // At first, steps in which each score counts about as much as the first pass's, or a nat where that prefers nothing.
    let unit = match spread(lists, |f| f.first_pass) {
        0.0 => (lists.len() as f64).sqrt(),
        unit => unit,
    };
    let mut steps: Vec<(Coordinate, f64)> = coordinates
        .iter()
        .map(|&c| (c, unit / spread(lists, c.feature)))
        .filter(|(_, step)| step.is_finite() && *step > 0.0)
        .collect();
    let mut fewest = total(&best);
    for _ in 0..HALVINGS {
        let mut moved = true;
        while moved {
            moved = false;
            for (coordinate, step) in &steps {
                for step in [*step, -step] {
                    let mut weights = best;
                    let weight = (coordinate.weight)(&mut weights);
                    *weight = (*weight + step).max(coordinate.least);
                    let errors = total(&weights);
                    // A gain too small to matter must not keep the search going.
                    if errors < fewest * (1.0 - 1e-7) {
                        (best, fewest, moved) = (weights, errors, true);
                    }
                }
            }
        }
        steps.iter_mut().for_each(|(_, step)| *step /= 2.0);
    }
    best
}

/// The last steps are a ten-thousandth of the first.
const HALVINGS: usize = 14;

/// sum_i P_i e_i of each list, P = softmax(scale s).
fn expected_errors(lists: &[ScoredList], scale: f64, weights: &Weights) -> Vec<f64> {
    let of = |list: &ScoredList| {
        let scores: Vec<f64> = list.hypotheses.iter().map(|h| weights.combined(&h.features)).collect();
        let posterior = posterior(&scores, scale);
        posterior.iter().zip(&list.hypotheses).map(|(p, h)| p * h.errors as f64).sum()
    };
    lists.par_iter().map(of).collect()
}

/// The standard deviation of a score within lists, times the root of their number.
fn spread(lists: &[ScoredList], feature: fn(&Features) -> f64) -> f64 {
    let of = |list: &ScoredList| {
        let scores: Vec<f64> = list.hypotheses.iter().map(|h| feature(&h.features)).collect();
        // Of equal scores the mean may be another number, by its rounding.
        if are_equal(&scores) {
            return 0.0;
        }
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n
    };
    lists.iter().map(of).sum::<f64>().sqrt()
}

/// Whether the scores of a list prefer none of its hypotheses.
fn are_equal(scores: &[f64]) -> bool {
    scores.windows(2).all(|pair| pair[0] == pair[1])
}

/// One weight, the score that it multiplies, and the least value that it may have.
#[derive(Clone, Copy)]
struct Coordinate {
    weight: fn(&mut Weights) -> &mut f64,
    feature: fn(&Features) -> f64,
    /// 0 or minus infinity.
    least: f64,
}

const LM: Coordinate = Coordinate { weight: |w| &mut w.lm, feature: |f| f.lm, least: 0.0 };
const LORB: Coordinate = Coordinate { weight: |w| &mut w.lorb, feature: |f| f.lorb, least: 0.0 };
const NGRAM: Coordinate = Coordinate { weight: |w| &mut w.ngram, feature: |f| f.ngram, least: 0.0 };
const WORDS: Coordinate =
    Coordinate { weight: |w| &mut w.words, feature: |f| f.words, least: f64::NEG_INFINITY };

/// The mean of max P over the lists at which the first pass is neither sure of everything nor of nothing:
/// raw log-scores saturate the softmax.
pub const CONFIDENCE: f64 = 0.7;

/// The c at which softmax(c s) has a mean maximum of [`CONFIDENCE`] over the lists whose hypotheses have different
/// scores, s being those that `weights` combine; found by bisection; 1 where there is no such list.
pub fn sharpness(lists: &[ScoredList], weights: &Weights) -> f64 {
    let scores: Vec<Vec<f64>> = lists
        .iter()
        .map(|l| l.hypotheses.iter().map(|h| weights.combined(&h.features)).collect())
        .filter(|scores: &Vec<f64>| !are_equal(scores))
        .collect();
    if scores.is_empty() {
        return 1.0;
    }
    let mean_maximum = |scale: f64| {
        let of = |scores: &Vec<f64>| {
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            1.0 / scores.iter().map(|s| (scale * (s - largest)).exp()).sum::<f64>()
        };
        scores.iter().map(of).sum::<f64>() / scores.len() as f64
    };
    // In the logarithm: recognisers' scores differ by orders of magnitude.
    let (mut low, mut high) = (1e-6f64.ln(), 1e6f64.ln());
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if mean_maximum(middle.exp()) < CONFIDENCE { low = middle } else { high = middle }
    }
    low.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbest::normalise::NormaliseOptions;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    /// Lists whose scores tell `signal` of the errors each, and much else.
    fn random_lists(seed: u64, count: usize, [first_pass, lm, lorb]: [f64; 3]) -> Vec<ScoredList> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = || f64::from(random.next_u32()) / f64::from(u32::MAX);
        let mut hypothesis = || {
            let errors = (8.0 * uniform()) as u64;
            let mut noisy = |signal: f64| 4.0 * uniform() - signal * errors as f64;
            let features = Features {
                first_pass: noisy(first_pass),
                lm: noisy(lm),
                lorb: noisy(lorb),
                words: noisy(0.0),
                ngram: 0.0,
            };
            ScoredHypothesis { features, errors, pruned: false }
        };
        let mut list =
            || ScoredList { hypotheses: (0..8).map(|_| hypothesis()).collect(), reference_units: 9 };
        (0..count).map(|_| list()).collect()
    }

    fn errors(lists: &[ScoredList], weights: &Weights) -> u64 {
        total_errors(lists, &chosen(lists, weights))
    }

    #[test]
    fn what_is_tuned_on_some_lists_serves_others() {
        let signal = [0.1, 0.2, 0.4];
        let (some, others) = (random_lists(1, 500, signal), random_lists(2, 2000, signal));
        let (with, without) = (tune_weights(&some, true), tune_weights(&some, false));
        assert_eq!(without.lorb, 0.0);
        let [first, lm, all] = [Weights::default(), without, with].map(|w| errors(&others, &w));
        assert!(all < lm && lm < first, "{all} {lm} {first}");
        // No point of a grid around does better by more than 2 %.
        for l in [0.5, 1.0, 2.0] {
            for g in [0.5, 1.0, 2.0] {
                let near = Weights { lm: with.lm * l, lorb: with.lorb * g, ..with };
                assert!(all as f64 <= 1.02 * errors(&others, &near) as f64, "{near:?} beats {with:?}");
            }
        }
    }

    #[test]
    fn what_tells_nothing_weighs_little() {
        let lists = random_lists(3, 1000, [0.5, 0.0, 0.5]);
        let w = tune_weights(&lists, true);
        assert!(w.lorb > 0.3 && w.lm < 0.1 && w.words.abs() < 0.1, "{w:?}");
    }

    #[test]
    fn an_ngram_model_counts_where_it_tells_something() {
        let with_ngram = |tells: bool| {
            let mut lists = random_lists(8, 300, [0.1, 0.0, 0.1]);
            for (i, h) in lists.iter_mut().flat_map(|l| &mut l.hypotheses).enumerate() {
                let errors = if tells { h.errors } else { (i * 5 % 8) as u64 };
                h.features.ngram = (i % 3) as f64 - errors as f64;
            }
            let [with, without] = [true, false].map(|lorb| tune_weights(&lists, lorb));
            let mut unknown = lists.clone();
            unknown.iter_mut().flat_map(|l| &mut l.hypotheses).for_each(|h| h.features.ngram = 0.0);
            assert_eq!(Weights { ngram: 0.0, ..with }, tune_weights(&unknown, true));
            assert!(total_expected_errors(&lists, &with) <= total_expected_errors(&lists, &without));
            [with.ngram, without.ngram]
        };
        assert!(with_ngram(true).iter().all(|w| *w > 0.1));
        assert!(with_ngram(false).iter().all(|w| *w < 0.05));
    }

    #[test]
    fn words_may_count_against_a_hypothesis() {
        let mut lists = random_lists(9, 300, [0.1, 0.0, 0.0]);
        for h in lists.iter_mut().flat_map(|l| &mut l.hypotheses) {
            h.features.words += h.errors as f64;
        }
        let w = tune_weights(&lists, true);
        assert!(w.words < -0.1, "{w:?}");
    }

    #[test]
    fn what_was_pruned_is_not_chosen() {
        let hypothesis = |first_pass, lorb, pruned| ScoredHypothesis {
            features: Features { first_pass, lorb, ..Features::default() },
            errors: 0,
            pruned,
        };
        // Without a score it has g = 0, and the highest total.
        let hypotheses = vec![hypothesis(-1.0, -5.0, false), hypothesis(-2.0, 0.0, true)];
        let list = ScoredList { hypotheses, reference_units: 1 };
        let weights = Weights { lorb: 1.0, ..Weights::default() };
        assert_eq!((list.chosen(&weights), list.chosen_within(&weights, Margin::NONE)), (1, 0));
    }

    #[test]
    fn a_weight_never_falls_below_zero() {
        let w = tune_weights(&random_lists(4, 300, [0.5, -0.5, -0.5]), true);
        assert_eq!((w.lm, w.lorb), (0.0, 0.0));
    }

    #[test]
    fn lists_that_say_nothing_leave_the_first_pass() {
        assert_eq!(tune_weights(&[], true), Weights::default());
        let mut one = random_lists(5, 1, [0.5, 0.5, 0.5]);
        one[0].hypotheses.truncate(1);
        assert_eq!(tune_weights(&one, true), Weights::default());
    }

    #[test]
    fn huge_scores_give_finite_weights() {
        let mut lists = random_lists(6, 20, [0.5, 0.5, 0.5]);
        lists[3].hypotheses[2].features.lm = -1e300;
        lists[4].hypotheses[1].features.lorb = 1e300;
        let w = tune_weights(&lists, true);
        assert!(w.lm.is_finite() && w.lorb.is_finite() && w.words.is_finite(), "{w:?}");
    }

    #[test]
    fn sharpness_reaches_the_confidence_asked_for() {
        let lists = random_lists(7, 200, [0.5, 0.0, 0.0]);
        let scale = sharpness(&lists, &Weights::default());
        let of = |l: &ScoredList| {
            let scores: Vec<f64> = l.hypotheses.iter().map(|h| h.features.first_pass).collect();
            posterior(&scores, scale).into_iter().fold(0.0, f64::max)
        };
        let mean = lists.iter().map(of).sum::<f64>() / 200.0;
        assert!((mean - CONFIDENCE).abs() < 1e-6, "{mean}");

        // Of a list of one everything is sure, and of equal scores nothing ever is.
        let mut more = lists.clone();
        more.extend(random_lists(8, 200, [0.5, 0.0, 0.0]));
        more[200..].iter_mut().for_each(|list| list.hypotheses.truncate(1));
        more.extend(without_first_pass(random_lists(9, 200, [0.5, 0.0, 0.0])));
        assert_eq!(sharpness(&more, &Weights::default()), scale);
        assert_eq!(sharpness(&more[200..], &Weights::default()), 1.0);
    }

    /// The lists where the first pass finds all hypotheses of a list as good.
    fn without_first_pass(mut lists: Vec<ScoredList>) -> Vec<ScoredList> {
        for (i, list) in lists.iter_mut().enumerate() {
            // Of three the mean of -0.1 is not -0.1.
            list.hypotheses.truncate(if i % 2 == 0 { 3 } else { 8 });
            list.hypotheses.iter_mut().for_each(|h| h.features.first_pass = -0.1 * (i % 5) as f64);
        }
        lists
    }

    #[test]
    fn where_the_first_pass_prefers_nothing_the_other_scores_choose() {
        for count in [12, 500] {
            let some = without_first_pass(random_lists(10, count, [0.0, 0.0, 0.5]));
            let others = without_first_pass(random_lists(11, 500, [0.0, 0.0, 0.5]));
            let w = tune_weights(&some, true);
            assert!(w.lorb > 0.1 && w.lorb.is_finite() && w.lm < w.lorb / 2.0, "{w:?}");
            assert!(errors(&others, &w) < errors(&others, &Weights::default()) * 2 / 3, "{w:?}");
        }
        // A score that says nothing either has no weight, however its mean is rounded.
        let mut lists = random_lists(12, 20, [0.0, 0.0, 0.0]);
        lists.iter_mut().for_each(|list| list.hypotheses.truncate(3));
        lists.iter_mut().flat_map(|list| &mut list.hypotheses).for_each(|h| h.features.lorb = -0.1);
        assert_eq!(tune_weights(&lists, true).lorb, 0.0);
    }

    #[test]
    fn a_list_is_scored_from_an_utterance() {
        let hypothesis = |text: &str, lorb| crate::nbest::Hypothesis {
            text: text.into(),
            first_pass: -1.0,
            lm: None,
            lorb,
            ngram: lorb.map(|lorb| lorb / 2.0),
            fields: Default::default(),
        };
        let mut utterance = Utterance {
            id: "u".into(),
            reference: Some("a b C".into()),
            hypotheses: vec![hypothesis("A C", Some(0.5)), hypothesis("a b c", None)],
            fields: Default::default(),
        };
        let options: NormaliseOptions = serde_json::from_str(r#"{"case":"lower"}"#).unwrap();
        let normaliser = Normaliser::new(&options).unwrap();
        let scored = ScoredList::new(&utterance, None, &normaliser, Unit::Word).unwrap();
        assert_eq!((scored.reference_units, scored.oracle()), (3, 1));
        let facts = |l: &ScoredList| {
            let facts =
                |h: &ScoredHypothesis| (h.errors, h.features.lorb, h.features.ngram, h.features.words);
            l.hypotheses.iter().map(facts).collect::<Vec<_>>()
        };
        assert_eq!(facts(&scored), [(1, 0.5, 0.25, 2.0), (0, 0.0, 0.0, 3.0)]);
        let given = Features { lorb: 7.0, words: 2.0, ngram: -1.0, ..Features::default() };
        let scored =
            ScoredList::new(&utterance, Some(&[Some(given), None]), &normaliser, Unit::Word).unwrap();
        assert_eq!(facts(&scored), [(1, 7.0, -1.0, 2.0), (0, 0.0, 0.0, 3.0)]);
        assert!(!scored.hypotheses[0].pruned && scored.hypotheses[1].pruned);
        utterance.reference = None;
        assert!(ScoredList::new(&utterance, None, &normaliser, Unit::Word).is_none());
    }
}
