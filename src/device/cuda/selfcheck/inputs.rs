//! What operations are checked on.

use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::bert::Weights;
use crate::device::cuda::Precision;
use crate::ops::lora_linear::cuda::Slope;

/// Numbers that both devices take: the same each time, and no others than the CUDA device's precision has, so
/// that the CPU, which keeps f32, starts from the same.
pub struct Inputs {
    random: ChaCha8Rng,
    precision: Precision,
}

impl Inputs {
    pub fn new(precision: Precision) -> Inputs {
        Inputs { random: ChaCha8Rng::seed_from_u64(1), precision }
    }

    /// Between -size and size.
    pub fn values(&mut self, n: usize, size: f32) -> Vec<f32> {
        let precision = self.precision;
        let value = || {
            let x = size * ((self.random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0);
            match precision {
                Precision::F32 => x,
                Precision::Bf16 => bf16::from_f32(x).to_f32(),
            }
        };
        std::iter::repeat_with(value).take(n).collect()
    }

    /// What GELU' may be.
    pub fn slopes(&mut self, n: usize) -> Vec<f32> {
        let precision = self.precision;
        self.values(n, 0.62).into_iter().map(|x| Slope::kept(precision, 0.5 + x)).collect()
    }

    pub fn weights(&mut self, n: usize, size: f32) -> Weights {
        Weights::from(self.values(n, size))
    }

    /// Numbers below `below`.
    pub fn numbers(&mut self, n: usize, below: usize) -> Vec<u32> {
        (0..n).map(|_| self.random.next_u32() % below as u32).collect()
    }
}
