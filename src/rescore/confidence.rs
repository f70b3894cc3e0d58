//! How sure the posterior may be. Log-scores are in nats of the systems that gave them, and a posterior of
//! them as they are is overconfident: one factor on all scores, found on lists with references, mends that.

use super::tune::ScoredList;
use super::weights::Weights;

/// The factor c for which the hypotheses with the fewest errors of their list, together, have the greatest
/// mean log posterior under softmax(c s), s being the combined scores.
///
/// It is sought from 1e-4 to 1e4: first coarsely, as the likelihood of a set may have several maxima, then
/// by golden section. It is 1 where no list tells hypotheses apart.
pub fn fit_confidence_scale(lists: &[ScoredList], weights: &Weights) -> f64 {
    let lists: Vec<Gaps> = lists.iter().filter_map(|list| Gaps::new(list, weights)).collect();
    if lists.is_empty() {
        return 1.0;
    }
    let likelihood = |log_scale: f64| lists.iter().map(|l| l.log_likelihood(log_scale.exp())).sum::<f64>();
    const STEP: f64 = 0.5;
    let end = 1e4f64.ln();
    let points = (0..).map(|i| -end + f64::from(i) * STEP).take_while(|&x| x < end);
    let best = points.map(|x| (likelihood(x), x)).reduce(|a, b| if b.0 > a.0 { b } else { a });
    let middle = best.map_or(0.0, |(_, x)| x);
    golden_section(middle - STEP, middle + STEP, likelihood).clamp(-end, end).exp()
}

/// How far the scores of a list lie below its highest.
struct Gaps {
    fewest_errors: Vec<f64>,
    others: Vec<f64>,
}

impl Gaps {
    /// `None` where every hypothesis has the same errors, which says nothing, or the scores overflow.
    fn new(list: &ScoredList, weights: &Weights) -> Option<Gaps> {
        let fewest = list.hypotheses.iter().map(|h| h.errors).min()?;
        let scores: Vec<f64> = list.hypotheses.iter().map(|h| weights.combined(&h.features)).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut gaps = Gaps { fewest_errors: Vec::new(), others: Vec::new() };
        for (hypothesis, score) in list.hypotheses.iter().zip(scores) {
            let gap = score - highest;
            if !gap.is_finite() {
                return None;
            }
            if hypothesis.errors == fewest { &mut gaps.fewest_errors } else { &mut gaps.others }.push(gap);
        }
        (!gaps.others.is_empty()).then_some(gaps)
    }

    /// ln of the posterior of all hypotheses with the fewest errors.
    fn log_likelihood(&self, scale: f64) -> f64 {
        let (good, bad) = (log_sum_exp(&self.fewest_errors, scale), log_sum_exp(&self.others, scale));
        let higher = good.max(bad);
        good - (higher + ((good - higher).exp() + (bad - higher).exp()).ln())
    }
}

/// ln sum_i exp(scale x_i)
fn log_sum_exp(values: &[f64], scale: f64) -> f64 {
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scale * highest + values.iter().map(|x| (scale * (x - highest)).exp()).sum::<f64>().ln()
}

/// Where `f` is greatest between `low` and `high`, to 1e-4, if it has one maximum there (Kiefer 1953).
fn golden_section(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    const RATIO: f64 = 0.618_033_988_749_894_9;
    let (mut a, mut b) = (high - RATIO * (high - low), low + RATIO * (high - low));
    let (mut at_a, mut at_b) = (f(a), f(b));
    while high - low > 1e-4 {
        if at_a > at_b {
            (high, b, at_b) = (b, a, at_a);
            a = high - RATIO * (high - low);
            at_a = f(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = low + RATIO * (high - low);
            at_b = f(b);
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::super::tune::ScoredHypothesis;
    use super::super::weights::Features;
    use super::*;

    fn list(hypotheses: &[(f64, u64)]) -> ScoredList {
        let hypothesis = |&(first_pass, errors): &(f64, u64)| ScoredHypothesis {
            features: Features { first_pass, ..Default::default() },
            errors,
            pruned: false,
        };
        ScoredList { hypotheses: hypotheses.iter().map(hypothesis).collect(), reference_units: 1 }
    }

    fn fit(lists: &[ScoredList]) -> f64 {
        fit_confidence_scale(lists, &Weights::default())
    }

    #[test]
    fn the_posterior_becomes_the_share_that_is_right() {
        // The first of two is right in 3 of 4 lists, so its posterior must be 3/4 = 1 / (1 + exp(-c gap)).
        for gap in [0.01, 1.0, 50.0] {
            let right = list(&[(0.0, 0), (-gap, 1)]);
            let wrong = list(&[(0.0, 1), (-gap, 0)]);
            let scale = fit(&[right.clone(), right.clone(), right, wrong]);
            assert!((scale * gap - 3f64.ln()).abs() < 1e-3, "gap {gap}: {scale}");
        }
    }

    #[test]
    fn hypotheses_that_are_as_good_count_together() {
        // Of three equal scores two are right: the likelihood is 2/3 at any scale, and adds a constant.
        let tied = list(&[(0.0, 0), (0.0, 0), (0.0, 1)]);
        let lists = [list(&[(0.0, 0), (-1.0, 1)]), list(&[(0.0, 1), (-1.0, 0)]), tied];
        assert!(fit(&lists) < 1.1e-4, "at a chance of 1/2 the posterior should be flat");
        assert!(
            fit(&lists[..1]) > 9e3
                || Gaps::new(&lists[0], &Weights::default()).unwrap().log_likelihood(fit(&lists[..1]))
                    > -1e-9
        );
    }

    #[test]
    fn lists_that_say_nothing_give_one() {
        assert_eq!(fit(&[]), 1.0);
        assert_eq!(fit(&[list(&[(0.0, 2), (-3.0, 2)]), list(&[(0.0, 0)])]), 1.0);
        assert_eq!(fit(&[list(&[(f64::MAX, 0), (-f64::MAX, 1)])]), 1.0);
    }
}
