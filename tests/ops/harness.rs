//! What the tests of the operations share: seeded numbers, devices, and comparisons whose tolerance is
//! what the naive form loses in f32.

use std::fmt::Display;
use std::ops::Range;

use lorb_engine::bert::Weights;
use lorb_engine::bert::tensors::Tensors;
use lorb_engine::device::cpu::{Cpu, Isa, Matrix};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::autodiff::{Operation, central_difference, pull_back};

/// The distance from 1 to the next f32.
pub const ULP: f64 = f32::EPSILON as f64;

pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    /// In -1..1.
    pub fn value(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0.next_u32() as usize % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A device of each instruction set of this CPU, whose new memory is NaN.
pub fn devices() -> impl Iterator<Item = Cpu> {
    Isa::available().iter().map(|&isa| Cpu::poisoned(isa))
}

/// Values as a checkpoint gives them.
pub fn weights(values: &[f32]) -> Weights {
    let view = TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values)).unwrap();
    let file = safetensors::serialize([("w", view)], None).unwrap();
    Tensors::from_static(file.leak(), "w").unwrap().f32("w", &[values.len()], "").unwrap()
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

pub fn row_bits(m: &Matrix, i: usize) -> Vec<u32> {
    bits(m.row(i))
}

/// The largest difference; infinite where one is NaN, or only one is infinite.
fn error(actual: impl Iterator<Item = f64>, exact: &[f64]) -> f64 {
    let difference = |(a, e): (f64, &f64)| match (a - e).abs() {
        _ if a == *e => 0.0,
        d if d.is_nan() => f64::INFINITY,
        d => d,
    };
    actual.zip(exact).map(difference).fold(0.0, f64::max)
}

/// The values that an operation must give.
#[derive(Clone)]
pub struct Oracle {
    /// By the naive form in f64.
    pub exact: Vec<f64>,
    /// By the same in f32: what it loses, a kernel may lose twice.
    pub naive: Vec<f32>,
}

impl Oracle {
    /// The outputs of `op`.
    pub fn forward(op: &impl Operation, x: &[f32]) -> Oracle {
        let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        Oracle { exact: op.naive(&wide), naive: op.naive(x) }
    }

    /// The gradients of all inputs of `op`, for the gradients `dy` of its outputs.
    pub fn backward(op: &impl Operation, x: &[f32], dy: &[f32]) -> Oracle {
        Oracle { exact: pull_back(op, x, dy), naive: pull_back(op, x, dy) }
    }

    pub fn slice(&self, range: Range<usize>) -> Oracle {
        Oracle { exact: self.exact[range.clone()].to_vec(), naive: self.naive[range].to_vec() }
    }

    pub fn largest(&self) -> f64 {
        self.exact.iter().fold(0.0, |a, x| a.max(x.abs()))
    }

    /// Requires err(actual) <= 2 err(naive) + floor, in the maximum norm. `floor` is absolute, and there
    /// because a naive form of few elements may be exact by luck.
    #[track_caller]
    pub fn check(&self, what: impl Display, actual: &[f32], floor: f64) {
        assert_eq!(actual.len(), self.exact.len(), "{what}: the number of values");
        let naive = error(self.naive.iter().map(|&x| x.into()), &self.exact);
        let found = error(actual.iter().map(|&x| x.into()), &self.exact);
        println!("{what}: error {found:.2e}, naive {naive:.2e}, floor {floor:.2e}");
        assert!(naive.is_finite(), "{what}: f32 is too narrow for the naive form");
        let limit = 2.0 * naive + floor;
        let fits = |i: &usize| error([actual[*i].into()].into_iter(), &self.exact[*i..*i + 1]) <= limit;
        if let Some(i) = (0..actual.len()).find(|i| !fits(i)) {
            let (a, e, n) = (actual[i], self.exact[i], self.naive[i]);
            panic!(
                "{what}: {a} at {i} should be {e} (naive {n}) within {limit:.2e}; the worst is {found:.2e} off"
            );
        }
    }
}

/// Requires that the oracle's own derivatives are those of finite differences.
#[track_caller]
pub fn check_derivatives(what: impl Display, op: &impl Operation, x: &[f32], dy: &[f32]) {
    let exact = pull_back::<f64>(op, x, dy);
    let differences: Vec<f64> = (0..x.len()).map(|i| central_difference(op, x, dy, i)).collect();
    let largest = exact.iter().fold(1.0, |a: f64, x| a.max(x.abs()));
    let found = error(differences.into_iter(), &exact);
    assert!(found <= 1e-8 * largest, "{what}: {found:.1e}");
}

mod tests {
    use super::*;

    fn compare(actual: f32, exact: f64, naive: f32) -> bool {
        let oracle = Oracle { exact: vec![exact], naive: vec![naive] };
        std::panic::catch_unwind(|| oracle.check("one", &[actual], 1e-9)).is_ok()
    }

    #[test]
    fn a_comparison_fails_on_what_is_wrong() {
        assert!(compare(1.0, 1.0, 1.0) && compare(1.25, 1.0, 1.125));
        assert!(!compare(1.5, 1.0, 1.125) && !compare(1.25, 1.0, 1.0));
        assert!(!compare(f32::NAN, 1.0, 1.0) && !compare(f32::INFINITY, 1.0, 1.0));
        let infinite = f64::INFINITY;
        assert!(compare(f32::INFINITY, infinite, f32::INFINITY));
        assert!(
            !compare(f32::NEG_INFINITY, infinite, f32::INFINITY) && !compare(1.0, infinite, f32::INFINITY)
        );
    }
}
