//! The textbook's form of the correlation loss, for the tests of both devices.

use lorb_engine::ops::correlation::EPSILON;

use crate::autodiff::{Operation, Real};
use crate::harness::{Random, ULP};
use crate::oracle;

#[derive(Debug)]
pub struct Case {
    pub n: usize,
    pub d: usize,
    /// How much of a feature is common to all.
    pub common: f32,
}

impl Operation for Case {
    fn naive<R: Real>(&self, z: &[R]) -> Vec<R> {
        vec![oracle::correlation(&oracle::rows(z, self.d), EPSILON)]
    }
}

impl Case {
    pub fn features(&self) -> Vec<f32> {
        let mut random = Random::new(18);
        let mut row = || {
            let common = random.value();
            random
                .values(self.d)
                .into_iter()
                .map(|x| self.common * common + (1.0 - self.common) * x)
                .collect()
        };
        (0..self.n).flat_map(|_| -> Vec<f32> { row() }).collect()
    }

    /// A rounding of what cancels in dL/dz: 4 / (n^2 d) y_ij (sum_k y_kj^2) / sd_j, which the diagonal has.
    pub fn floor(&self, z: &[f32]) -> f64 {
        let n = self.n as f64;
        let of_feature = |j: usize| {
            let column: Vec<f64> = z.iter().skip(j).step_by(self.d).map(|&z| z.into()).collect();
            let mean = oracle::mean(&column);
            let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let sd = (variance + f64::from(EPSILON)).sqrt();
            let largest = column.iter().fold(0.0, |a: f64, x| a.max((x - mean).abs() / sd));
            4.0 / (n * n * self.d as f64) * largest * n / sd
        };
        ULP * (0..self.d).map(of_feature).fold(0.0, f64::max)
    }
}
