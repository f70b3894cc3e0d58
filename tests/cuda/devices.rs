//! The devices that every test runs on.

use std::sync::Arc;

use half::bf16;
use lorb_engine::device::cuda::{Cuda, Driver, Precision};

use crate::emulated::Emulated;
use crate::harness::Oracle;

/// An emulated device of each precision, whose new memory is NaN.
pub fn devices() -> impl Iterator<Item = Cuda> {
    let driver: Arc<dyn Driver> = Arc::new(Emulated::new());
    [Precision::F32, Precision::Bf16].into_iter().map(move |p| Cuda::poisoned(driver.clone(), p))
}

/// `values` as a device of this precision keeps them.
pub fn rounded(values: &[f32], precision: Precision) -> Vec<f32> {
    match precision {
        Precision::F32 => values.to_vec(),
        Precision::Bf16 => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
    }
}

/// The oracle of an operation whose result is kept in this precision: the naive form rounds it as well.
pub fn stored(oracle: Oracle, precision: Precision) -> Oracle {
    Oracle { naive: rounded(&oracle.naive, precision), ..oracle }
}
