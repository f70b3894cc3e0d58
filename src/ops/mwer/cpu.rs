use std::ops::Range;

use super::{MeanMwer, Mwer, MwerInputs};

/// The loss of one utterance, in f64: a list is small, and its scores may lie hundreds apart.
pub fn mwer(inputs: MwerInputs<'_>) -> Mwer {
    let MwerInputs { offsets, scores, errors, beta } = inputs;
    let s: Vec<f64> = offsets.iter().zip(scores).map(|(a, &g)| a + beta * f64::from(g)).collect();
    let largest = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut p: Vec<f64> = s.iter().map(|s| (s - largest).exp()).collect();
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= total);
    let mean = errors.iter().map(|&e| f64::from(e)).sum::<f64>() / errors.len().max(1) as f64;
    let expected: f64 = p.iter().zip(errors).map(|(p, &e)| p * f64::from(e)).sum();
    let d: Vec<f64> = p.iter().zip(errors).map(|(p, &e)| p * (f64::from(e) - expected)).collect();
    Mwer {
        loss: p.iter().zip(errors).map(|(p, &e)| p * (f64::from(e) - mean)).sum(),
        d_scores: d.iter().map(|d| (beta * d) as f32).collect(),
        d_theta: d.iter().zip(scores).map(|(d, &g)| d * beta * f64::from(g)).sum(),
    }
}

/// The mean over `utterances`, each a range of the hypotheses, one after the other.
pub fn mean_mwer(inputs: MwerInputs<'_>, utterances: &[Range<usize>]) -> MeanMwer {
    part_of_mean_mwer(inputs, utterances, utterances.len())
}

/// What `utterances` add to the mean over a step of `of`.
pub fn part_of_mean_mwer(inputs: MwerInputs<'_>, utterances: &[Range<usize>], of: usize) -> MeanMwer {
    let MwerInputs { offsets, scores, errors, beta } = inputs;
    let share = 1.0 / of.max(1) as f64;
    let mut mean =
        MeanMwer { loss: 0.0, loss_without: 0.0, d_scores: Vec::with_capacity(scores.len()), d_theta: 0.0 };
    for range in utterances {
        let with = |beta| {
            mwer(MwerInputs {
                offsets: &offsets[range.clone()],
                scores: &scores[range.clone()],
                errors: &errors[range.clone()],
                beta,
            })
        };
        let one = with(beta);
        mean.loss += share * one.loss;
        mean.loss_without += share * with(0.0).loss;
        mean.d_scores.extend(one.d_scores.iter().map(|d| d * share as f32));
        mean.d_theta += share * one.d_theta;
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: [f64; 4] = [-1.0, -1.5, -3.0, -300.0];
    const ERRORS: [u32; 4] = [2, 0, 5, 1];

    fn of(scores: &[f32], theta: f64) -> Mwer {
        mwer(MwerInputs { offsets: &OFFSETS, scores, errors: &ERRORS, beta: theta.exp() })
    }

    #[test]
    fn gradients_follow_finite_differences() {
        let (scores, theta, h) = ([0.3f32, -0.2, 1.1, 0.7], -0.4, 1.0 / 1024.0);
        let m = of(&scores, theta);
        for i in 0..4 {
            let (mut up, mut down) = (scores, scores);
            up[i] += h as f32;
            down[i] -= h as f32;
            let slope = (of(&up, theta).loss - of(&down, theta).loss) / (2.0 * h);
            assert!((slope - f64::from(m.d_scores[i])).abs() < 1e-6, "score {i}: {slope} {m:?}");
        }
        let slope = (of(&scores, theta + h).loss - of(&scores, theta - h).loss) / (2.0 * h);
        assert!((slope - m.d_theta).abs() < 1e-6, "theta: {slope} {m:?}");
    }

    #[test]
    fn one_hypothesis_has_no_gradient() {
        let m = mwer(MwerInputs { offsets: &[5.0], scores: &[2.0], errors: &[3], beta: 1.0 });
        assert_eq!(m, Mwer { loss: 0.0, d_scores: vec![0.0], d_theta: 0.0 });
    }

    #[test]
    fn distant_scores_stay_finite() {
        let n = 1000;
        let offsets: Vec<f64> = (0..n).map(|i| -1e4 * f64::from(i)).collect();
        let errors: Vec<u32> = (0..n).map(|i| i as u32 % 7).collect();
        let m = mwer(MwerInputs {
            offsets: &offsets,
            scores: &vec![1.0; n as usize],
            errors: &errors,
            beta: 1.0,
        });
        assert!(m.loss.is_finite() && m.d_scores.iter().all(|d| d.is_finite()));
    }
}
