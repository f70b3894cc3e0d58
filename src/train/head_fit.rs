//! Where the classifier starts: at the least-squares fit of the hypotheses' errors on the base's own features.
//!
//! A classifier drawn at random says nothing about errors, and what reaches A and B through it is noise: with some
//! seeds MWER then stays at the first pass's for most of an epoch. Fitting the head on frozen features before the rest
//! is trained is linear probing followed by fine-tuning (Kumar et al., arXiv 2202.10054).
//!
//! With P the first pass's posterior over the hypotheses of a list, z the features and e the errors, each less its mean
//! under P, the fit minimises the sum over lists of sum_i P_i (w z_i + e_i)^2: near g = 0 its solution is the
//! Gauss-Newton step of MWER. How far it is trusted is found by two-fold cross-validation.

use rayon::prelude::*;

use crate::rescore::weights::posterior;

/// Ridges tried, as parts of the mean of the covariance's diagonal.
const RIDGES: [f64; 8] = [1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0];

/// The sums over lists that a fit is made from. They are kept in f32, rounded once for each batch of lists, so that a
/// checkpoint holds them as they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeadFit {
    /// For each of two halves of the lists: sum of P z z^T [H, H], then sum of -P z e [H].
    pub sums: Vec<f32>,
}

/// The features and errors of a list's hypotheses.
pub struct FitList<'a> {
    /// [hypotheses, H]
    pub features: &'a [f32],
    /// The first-pass part of the combined score.
    pub offsets: &'a [f64],
    pub errors: &'a [u32],
}

impl HeadFit {
    /// Adds lists; every second one goes to the other half.
    pub fn add(&mut self, hidden: usize, lists: &[FitList<'_>]) {
        let half = Half::len(hidden);
        self.sums.resize(2 * half, 0.0);
        for (number, sums) in self.sums.chunks_exact_mut(half).enumerate() {
            let centred: Vec<Centred> =
                lists.iter().skip(number).step_by(2).map(|list| Centred::new(hidden, list)).collect();
            let rows = centred.iter().flat_map(|c| c.rows(hidden));
            let rows: Vec<(&[f64], f64, f64)> = rows.collect();
            let (products, targets) = sums.split_at_mut(hidden * hidden);
            products.par_chunks_exact_mut(hidden).enumerate().for_each(|(i, row)| {
                let mut sum = vec![0.0; hidden];
                for (z, _, p) in &rows {
                    let scaled = p * z[i];
                    sum.iter_mut().zip(*z).for_each(|(s, z)| *s += scaled * z);
                }
                row.iter_mut().zip(sum).for_each(|(row, s)| *row += s as f32);
            });
            for (i, target) in targets.iter_mut().enumerate() {
                *target -= rows.iter().map(|(z, e, p)| p * z[i] * e).sum::<f64>() as f32;
            }
        }
    }

    /// The classifier's weight [H], at the ridge and scale that predict each half best from the other; `None` where no
    /// ridge predicts anything.
    pub fn weight(&self, hidden: usize) -> Option<Vec<f32>> {
        let mut halves = self.sums.chunks_exact(Half::len(hidden)).map(|sums| Half::new(hidden, sums));
        let (a, b) = (halves.next()?, halves.next()?);
        let mut best: Option<(f64, f64, f64)> = None;
        for ridge in RIDGES {
            let (Some(from_a), Some(from_b)) = (a.solve(ridge), b.solve(ridge)) else { continue };
            // Held-out squared error against w = 0, of weights scaled by t: t^2 quadratic - 2 t linear.
            let quadratic = b.quadratic(&from_a) + a.quadratic(&from_b);
            let linear = dot(&b.target, &from_a) + dot(&a.target, &from_b);
            let scale = (linear / quadratic).min(1.0);
            let gain = 2.0 * scale * linear - scale * scale * quadratic;
            if scale > 0.0 && best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, ridge, scale));
            }
        }
        let (_, ridge, scale) = best?;
        let weight = a.plus(&b).solve(ridge)?;
        Some(weight.into_iter().map(|w| (scale * w) as f32).collect())
    }
}

/// A list's features and errors less their means under its posterior P.
struct Centred {
    features: Vec<f64>,
    errors: Vec<f64>,
    posterior: Vec<f64>,
}

impl Centred {
    fn new(hidden: usize, list: &FitList<'_>) -> Self {
        let posterior = posterior(list.offsets, 1.0);
        let mut mean = vec![0.0; hidden];
        for (z, p) in list.features.chunks_exact(hidden).zip(&posterior) {
            mean.iter_mut().zip(z).for_each(|(m, z)| *m += p * f64::from(*z));
        }
        let less_mean = |z: &[f32]| z.iter().zip(&mean).map(|(z, m)| f64::from(*z) - m).collect::<Vec<_>>();
        let expected: f64 = list.errors.iter().zip(&posterior).map(|(e, p)| p * f64::from(*e)).sum();
        Centred {
            features: list.features.chunks_exact(hidden).flat_map(less_mean).collect(),
            errors: list.errors.iter().map(|e| f64::from(*e) - expected).collect(),
            posterior,
        }
    }

    /// Of each hypothesis: features, errors, P.
    fn rows(&self, hidden: usize) -> impl Iterator<Item = (&[f64], f64, f64)> {
        let others = self.errors.iter().zip(&self.posterior);
        self.features.chunks_exact(hidden).zip(others).map(|(z, (&e, &p))| (z, e, p))
    }
}

/// The sums over one half of the lists.
struct Half {
    /// [H, H]
    covariance: Vec<f64>,
    /// [H]
    target: Vec<f64>,
}

impl Half {
    /// Numbers in the sums of a half.
    fn len(hidden: usize) -> usize {
        hidden * hidden + hidden
    }

    fn new(hidden: usize, sums: &[f32]) -> Self {
        let (covariance, target) = sums.split_at(hidden * hidden);
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect();
        Half { covariance: wide(covariance), target: wide(target) }
    }

    fn plus(&self, other: &Half) -> Half {
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Half {
            covariance: sum(&self.covariance, &other.covariance),
            target: sum(&self.target, &other.target),
        }
    }

    /// w^T covariance w
    fn quadratic(&self, w: &[f64]) -> f64 {
        self.covariance.chunks_exact(w.len()).zip(w).map(|(row, w_i)| w_i * dot(row, w)).sum()
    }

    /// (covariance + ridge I)^-1 target through Cholesky's factors; `None` where that matrix is not positive definite.
    fn solve(&self, ridge: f64) -> Option<Vec<f64>> {
        let n = self.target.len();
        let mean = (0..n).map(|i| self.covariance[i * n + i]).sum::<f64>() / n as f64;
        let mut factor = self.covariance.clone();
        for i in 0..n {
            factor[i * n + i] += ridge * mean;
            let (above, row) = factor.split_at_mut(i * n);
            for j in 0..i {
                let other = &above[j * n..];
                row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
            }
            let pivot = row[i] - dot(&row[..i], &row[..i]);
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            row[i] = pivot.sqrt();
        }
        let mut w = self.target.clone();
        for i in 0..n {
            w[i] = (w[i] - dot(&factor[i * n..i * n + i], &w[..i])) / factor[i * n + i];
        }
        for i in (0..n).rev() {
            w[i] /= factor[i * n + i];
            let solved = w[i];
            w[..i].iter_mut().zip(&factor[i * n..]).for_each(|(w, f)| *w -= solved * f);
        }
        Some(w)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::sampling::random;
    use rand_chacha::rand_core::RngCore;

    const HIDDEN: usize = 5;

    /// Lists of 4 whose errors follow `signal` times the first feature.
    fn fit(lists: usize, signal: f64) -> HeadFit {
        let mut random = random(7, 0);
        let mut uniform = || (random.next_u32() >> 8) as f64 / (1 << 23) as f64 - 1.0;
        let mut fit = HeadFit::default();
        for _ in 0..lists / 2 {
            let features: Vec<f32> = (0..2 * 4 * HIDDEN).map(|_| uniform() as f32).collect();
            let errors: Vec<u32> = features
                .chunks_exact(HIDDEN)
                .map(|z| (5.0 - signal * f64::from(z[0]) + uniform()).round() as u32)
                .collect();
            let offsets: Vec<f64> = (0..8).map(|_| uniform()).collect();
            let list = |n: usize| FitList {
                features: &features[n * 4 * HIDDEN..][..4 * HIDDEN],
                offsets: &offsets[n * 4..][..4],
                errors: &errors[n * 4..][..4],
            };
            fit.add(HIDDEN, &[list(0), list(1)]);
        }
        fit
    }

    #[test]
    fn it_finds_the_direction_that_tells_errors() {
        let w = fit(400, 3.0).weight(HIDDEN).unwrap();
        assert!((w[0] - 3.0).abs() < 0.2, "{w:?}");
        assert!(w[1..].iter().all(|w| w.abs() < 0.2), "{w:?}");
    }

    #[test]
    fn it_trusts_little_of_what_is_noise() {
        let w = fit(400, 0.0).weight(HIDDEN).unwrap_or(vec![0.0; HIDDEN]);
        assert!(w.iter().all(|w| w.abs() < 0.1), "{w:?}");
    }

    /// Two lists, one a half, of two hypotheses with one feature: 1 and -1.
    fn of_halves(errors: [[u32; 2]; 2]) -> Option<Vec<f32>> {
        let list = |errors| FitList { features: &[1.0, -1.0], offsets: &[0.0, 0.0], errors };
        let mut fit = HeadFit::default();
        fit.add(1, &[list(&errors[0]), list(&errors[1])]);
        fit.weight(1)
    }

    #[test]
    fn what_one_half_says_must_hold_in_the_other() {
        assert_eq!(of_halves([[0, 6], [2, 0]]), None);
        // Alone they say 3 and 1. Scaled by t these miss the other's errors by (1 - 3 t)^2 + (3 - t)^2, which is least
        // at t = 0.6; both together say 2.
        let w = of_halves([[0, 6], [0, 2]]).unwrap();
        assert!((w[0] - 1.2).abs() < 1e-3, "{w:?}");
    }

    #[test]
    fn what_the_first_pass_rules_out_does_not_count() {
        let features = [0.5, -1.0, 2.0, 0.25, 1.0, -0.5, 90.0, -70.0];
        let sums = |hypotheses: usize| {
            let mut fit = HeadFit::default();
            let list = FitList {
                features: &features[..2 * hypotheses],
                offsets: &[0.0, -0.5, -1.0, -1e4][..hypotheses],
                errors: &[1, 0, 2, 50][..hypotheses],
            };
            fit.add(2, &[list]);
            fit.sums
        };
        assert_eq!(sums(3), sums(4));
    }

    #[test]
    fn without_lists_there_is_no_fit() {
        assert_eq!(HeadFit::default().weight(HIDDEN), None);
        let mut fit = HeadFit::default();
        fit.add(HIDDEN, &[FitList { features: &[0.0; HIDDEN], offsets: &[0.0], errors: &[3] }]);
        assert_eq!(fit.weight(HIDDEN), None, "one hypothesis says nothing of others");
    }

    #[test]
    fn the_solution_solves() {
        let half = Half { covariance: vec![4.0, 2.0, 2.0, 3.0], target: vec![1.0, 2.0] };
        let w = half.solve(0.0).unwrap();
        assert!(
            (4.0 * w[0] + 2.0 * w[1] - 1.0).abs() < 1e-12 && (2.0 * w[0] + 3.0 * w[1] - 2.0).abs() < 1e-12
        );
        let singular = Half { covariance: vec![0.0; 4], target: vec![0.0; 2] };
        assert_eq!(singular.solve(1.0), None);
    }
}
