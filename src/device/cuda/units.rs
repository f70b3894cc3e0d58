//! Which of a device's units multiply matrices.

use super::driver::Properties;
use super::tensor::Precision;

/// Units of a multiprocessor, the simplest first. The forms of an operation that use them are the same function,
/// with sums in another order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Units {
    /// CUDA cores, in f32.
    Cuda,
    /// Tensor cores that warps feed (mma.sync), in bf16.
    Tensor,
    /// Tensor cores that read shared memory themselves (wgmma), and the engine that fills it (TMA).
    Hopper,
}

impl Units {
    /// The best that a device has for this precision. Code for sm_90a runs on compute capability 9.0 and on no
    /// other, later ones included.
    pub fn best(precision: Precision, properties: &Properties) -> Units {
        match (precision, properties.compute_capability) {
            (Precision::F32, _) => Units::Cuda,
            (Precision::Bf16, (9, 0)) => Units::Hopper,
            (Precision::Bf16, _) => Units::Tensor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hopper_is_9_0_alone() {
        let best = |compute_capability, precision| {
            let name = String::new();
            let (multiprocessors, shared_bytes, memory_bytes) = (132, 227 << 10, 80 << 30);
            let p = Properties { name, compute_capability, multiprocessors, shared_bytes, memory_bytes };
            Units::best(precision, &p)
        };
        for (capability, units) in [
            ((8, 0), Units::Tensor),
            ((8, 9), Units::Tensor),
            ((9, 0), Units::Hopper),
            ((9, 1), Units::Tensor),
            ((10, 0), Units::Tensor),
            ((12, 0), Units::Tensor),
        ] {
            assert_eq!(best(capability, Precision::Bf16), units, "{capability:?}");
            assert_eq!(best(capability, Precision::F32), Units::Cuda, "{capability:?}");
        }
    }
}
