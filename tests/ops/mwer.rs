use lorb_engine::ops::mwer::{MwerInputs, mwer};

use crate::autodiff::{Operation, Real, pull_back};
use crate::harness::{Random, check_derivatives};
use crate::oracle;

#[derive(Debug)]
struct Case {
    offsets: Vec<f64>,
    errors: Vec<u32>,
}

/// The loss, of [scores, theta].
impl Operation for Case {
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R> {
        let (theta, scores) = x.split_last().unwrap();
        vec![oracle::mwer(&self.offsets, scores, &self.errors, theta.exp())]
    }
}

fn case(n: usize, spread: f32) -> (Case, Vec<f32>) {
    let mut random = Random::new(17);
    let offsets = (0..n).map(|_| f64::from(random.value() * spread)).collect();
    let errors = (0..n).map(|_| random.below(9) as u32).collect();
    (Case { offsets, errors }, random.values(n + 1))
}

/// The kernel is in f64, as its oracle: what remains is the rounding of dg to f32, and of sums of n terms.
#[test]
fn losses_and_gradients_are_those_of_the_oracle() {
    for n in [1, 2, 3, 7, 30, 97, 1024] {
        for spread in [0.1, 3.0, 300.0, 1e4] {
            let (case, x) = case(n, spread);
            let (theta, scores) = x.split_last().unwrap();
            let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let loss = case.naive(&wide)[0];
            let gradient: Vec<f64> = pull_back(&case, &x, &[1.0]);
            let found = mwer(MwerInputs {
                offsets: &case.offsets,
                scores,
                errors: &case.errors,
                beta: f64::from(*theta).exp(),
            });
            let largest_error = f64::from(*case.errors.iter().max().unwrap());
            // The scores are as large as `spread`, and the softmax turns their rounding into a share.
            let floor = 8.0 * f64::EPSILON * largest_error * (n as f64 + f64::from(spread));
            assert!((found.loss - loss).abs() <= floor, "n = {n}, {spread}: {} not {loss}", found.loss);
            let (d_theta, d_scores) = gradient.split_last().unwrap();
            assert!((found.d_theta - d_theta).abs() <= floor, "n = {n}, {spread}: theta");
            assert_eq!(found.d_scores.len(), n);
            for (&a, &e) in found.d_scores.iter().zip(d_scores) {
                let rounding = f64::from(f32::EPSILON) * e.abs() + f64::from(f32::MIN_POSITIVE);
                assert!((f64::from(a) - e).abs() <= floor + rounding, "n = {n}, {spread}: {a} not {e}");
            }
        }
    }
}

#[test]
fn the_oracle_follows_finite_differences() {
    let (case, x) = case(7, 3.0);
    check_derivatives("mwer", &case, &x, &[1.0]);
}
