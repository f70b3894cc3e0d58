//! The devices that every test runs on.

use std::sync::Arc;

use half::bf16;
use lorb_emulate::Order;
use lorb_engine::device::cuda::{self, Cuda, Driver, Precision};

use crate::emulated::Emulated;
use crate::harness::Oracle;

/// Emulated devices of each precision, whose threads run in order and in disorder; or the GPU, where
/// LORB_TEST_CUDA asks for it. New memory is NaN.
pub fn devices() -> impl Iterator<Item = Cuda> {
    drivers().map(|(driver, precision)| Cuda::poisoned(driver, precision))
}

/// Where LORB_TEST_CUDA asks for it.
fn gpu() -> Option<Arc<dyn Driver>> {
    std::env::var_os("LORB_TEST_CUDA").map(|_| cuda::open().expect("LORB_TEST_CUDA needs a GPU"))
}

/// What they are on.
pub fn drivers() -> impl Iterator<Item = (Arc<dyn Driver>, Precision)> {
    let real = gpu();
    let all = [
        (Order::Forward, Precision::F32),
        (Order::Reverse, Precision::Bf16),
        (Order::Random(1), Precision::F32),
        (Order::Random(2), Precision::Bf16),
    ];
    all.into_iter().map(move |(order, precision)| {
        (real.clone().unwrap_or_else(|| Arc::new(Emulated::new(order))), precision)
    })
}

/// Those of bf16, and one whose shared memory has room for fewer stages; or the GPU.
pub fn with_tensor_cores() -> impl Iterator<Item = Cuda> {
    let small = || Cuda::poisoned(Arc::new(Emulated::small(Order::Random(5))), Precision::Bf16);
    let small = gpu().is_none().then(small);
    devices().filter(|cuda| cuda.precision() == Precision::Bf16).chain(small)
}

/// The same of compute capability 9.0 in bf16, with room for as many stages as an H100, for three, and for no
/// Hopper form that sums S; or the GPU.
pub fn hoppers() -> impl Iterator<Item = Cuda> {
    let real = gpu();
    let all = [(Order::Forward, 227), (Order::Reverse, 103), (Order::Random(3), 160), (Order::Random(4), 99)];
    all.into_iter().map(move |(order, kib)| {
        let driver = real.clone().unwrap_or_else(|| Arc::new(Emulated::hopper(kib << 10, order)));
        Cuda::poisoned(driver, Precision::Bf16)
    })
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
