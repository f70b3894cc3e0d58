//! A small run of each operation on the CUDA device against the CPU: whether this GPU, with this driver, computes
//! what it should. The tests are where operations are checked in full.

use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Cuda, Precision};
use crate::Result;
use crate::bert::Weights;
use crate::device::cpu::Cpu;
use crate::ops::layer_norm::{LayerNorm, NormWeights};

/// What an operation is off by, as a part of what it may be: at most 1 where all is well.
pub type Check = fn(&Cuda, &Cpu) -> Result<f64>;

/// All checks, by name.
pub const CHECKS: &[(&str, Check)] =
    &[("layer_norm", layer_norm), ("layer_norm_backward", layer_norm_backward)];

const ROWS: usize = 37;
const HIDDEN: usize = 384;

fn layer_norm(cuda: &Cuda, cpu: &Cpu) -> Result<f64> {
    fn run<D: LayerNorm>(device: &D, mut inputs: Inputs) -> Result<Vec<f32>> {
        let x = device.upload(&inputs.values(ROWS * HIDDEN), ROWS, HIDDEN);
        device.download(&device.layer_norm(&device.norm(inputs.norm()), &x))
    }
    Ok(compare(cuda, &run(cuda, Inputs::of(cuda))?, &run(cpu, Inputs::of(cuda))?))
}

fn layer_norm_backward(cuda: &Cuda, cpu: &Cpu) -> Result<f64> {
    fn run<D: LayerNorm>(device: &D, mut inputs: Inputs) -> Result<Vec<f32>> {
        let x = device.upload(&inputs.values(ROWS * HIDDEN), ROWS, HIDDEN);
        let dy = device.upload(&inputs.values(ROWS * HIDDEN), ROWS, HIDDEN);
        device.download(&device.layer_norm_backward(&device.norm(inputs.norm()), &x, &dy))
    }
    Ok(compare(cuda, &run(cuda, Inputs::of(cuda))?, &run(cpu, Inputs::of(cuda))?))
}

/// Numbers that both devices take: the same each time, and no others than the CUDA device's precision has.
struct Inputs {
    random: ChaCha8Rng,
    precision: Precision,
}

impl Inputs {
    fn of(cuda: &Cuda) -> Inputs {
        Inputs { random: ChaCha8Rng::seed_from_u64(1), precision: cuda.precision() }
    }

    /// In -1..1.
    fn values(&mut self, n: usize) -> Vec<f32> {
        let precision = self.precision;
        let value = || {
            let x = (self.random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
            match precision {
                Precision::F32 => x,
                Precision::Bf16 => bf16::from_f32(x).to_f32(),
            }
        };
        std::iter::repeat_with(value).take(n).collect()
    }

    fn norm(&mut self) -> NormWeights {
        let (gamma, beta) = (Weights::from(self.values(HIDDEN)), Weights::from(self.values(HIDDEN)));
        NormWeights { gamma, beta, eps: 1e-12 }
    }
}

/// The largest difference, as a part of what the device may be off by: 16 steps of an f32 of the largest size for
/// sums in another order, and the rounding of its results.
fn compare(cuda: &Cuda, computed: &[f32], expected: &[f32]) -> f64 {
    let rounding = match cuda.precision() {
        Precision::F32 => 0.0,
        Precision::Bf16 => 1.0 / 256.0,
    };
    let largest = expected.iter().fold(0.0f64, |m, &x| m.max(f64::from(x.abs())));
    let allowed = largest * (16.0 * f64::from(f32::EPSILON) + rounding);
    let difference = |(a, b): (&f32, &f32)| match f64::from((a - b).abs()) {
        d if d.is_nan() => f64::INFINITY,
        d => d,
    };
    assert_eq!(computed.len(), expected.len(), "the devices give as many values");
    computed.iter().zip(expected).map(difference).fold(0.0, f64::max) / allowed
}
