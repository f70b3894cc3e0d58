//! GELU' of a product, as kernels/common/linear.cuh keeps it for the way back.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::memory::Block;
use crate::device::cuda::{Address, Cuda, Precision, Rows, tiles};

const ZERO: f32 = tiles::SLOPE_ZERO as f32;
const STEPS: f32 = tiles::SLOPE_STEPS as f32;

/// [rows, columns] without gaps: of f32, or, beside activations of bf16, of bytes. GELU' lies between -0.1291 and
/// 1.1291, so that these are about as exact as bf16 in half of its room; 0 and 1 are kept exactly.
#[derive(Clone)]
pub struct Slope {
    block: Arc<Block>,
    rows: usize,
    columns: usize,
}

impl Slope {
    /// Of unspecified content.
    pub(super) fn new(cuda: &Cuda, rows: &Rows, columns: usize) -> Slope {
        let bytes = match cuda.precision() {
            Precision::F32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<u8>(),
        };
        let rows = rows.capacity;
        Slope { block: Arc::new(cuda.block(rows * columns * bytes)), rows, columns }
    }

    /// With these values, row-major, each as [`kept`](Self::kept).
    ///
    /// # Panics
    /// Where they are not one for each element.
    pub fn upload(cuda: &Cuda, values: &[f32], rows: usize, columns: usize) -> Slope {
        assert_eq!(values.len(), rows * columns, "a value for each element");
        let slope = Slope::new(cuda, &Rows::all(rows), columns);
        match cuda.precision() {
            Precision::F32 => cuda.write(&slope.block, values),
            Precision::Bf16 => {
                cuda.write(&slope.block, &values.iter().map(|&s| byte(s)).collect::<Vec<_>>());
            }
        }
        slope
    }

    /// The values, row-major.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where something failed on the device up to now.
    pub fn download(&self, cuda: &Cuda) -> Result<Vec<f32>> {
        let count = self.rows * self.columns;
        match cuda.precision() {
            Precision::F32 => {
                let mut values = vec![0.0; count];
                cuda.read(&self.block, 0, &mut values)?;
                Ok(values)
            }
            Precision::Bf16 => {
                let mut bytes = vec![0u8; count];
                cuda.read(&self.block, 0, &mut bytes)?;
                Ok(bytes.into_iter().map(value).collect())
            }
        }
    }

    /// What is kept of a value.
    pub fn kept(precision: Precision, slope: f32) -> f32 {
        match precision {
            Precision::F32 => slope,
            Precision::Bf16 => value(byte(slope)),
        }
    }

    pub(super) fn has(&self, rows: usize, columns: usize) -> bool {
        (self.rows, self.columns) == (rows, columns)
    }

    pub(super) fn address(&self) -> Address {
        self.block.address()
    }
}

fn byte(slope: f32) -> u8 {
    (slope * STEPS + (ZERO + 0.5)) as u8
}

fn value(byte: u8) -> f32 {
    (f32::from(byte) - ZERO) * (1.0 / STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_holds_every_slope() {
        let (least, most) = (-0.1291f32, 1.1291);
        for i in 0..=10_000 {
            let slope = least + (most - least) * i as f32 / 10_000.0;
            let kept = Slope::kept(Precision::Bf16, slope);
            assert!((kept - slope).abs() <= 0.5 / STEPS + 1e-6, "{slope} is kept as {kept}");
        }
        assert_eq!([0.0, 1.0].map(|slope| Slope::kept(Precision::Bf16, slope)), [0.0, 1.0]);
    }
}
