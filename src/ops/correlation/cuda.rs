use bytemuck::{Pod, Zeroable};

use super::EPSILON;
use crate::device::cuda::kernels::{
    CORRELATION_APPLY, CORRELATION_GRADIENT, CORRELATION_PRODUCT, CORRELATION_STANDARDISE,
};
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Cuda, Flat, Precision, Tensor, tiles};

/// `Correlation` of kernels/correlation.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct CorrelationParameters {
    z: Address,
    y: Address,
    scale: Address,
    diagonal: Address,
    product: Address,
    squares: Address,
    applied: Address,
    d_features: Address,
    loss: Address,
    rows: RowsParameter,
    width: u32,
    gram: u32,
    blocks: u32,
    eps: f32,
    weight: f32,
    unused: u32,
}

impl Cuda {
    /// `weight` dL/dZ for L the correlation loss of the `features` Z [N, d], f32, as
    /// [`correlation`](super::correlation) has it; L itself, without the weight, is written to `loss` at `at`.
    /// Nothing waits for the device.
    ///
    /// # Panics
    /// Where sizes do not fit.
    pub fn correlation(&self, features: &Tensor, weight: f32, (loss, at): (&mut Flat, usize)) -> Tensor {
        let (rows, width) = (features.rows(), features.columns());
        assert!(features.precision() == Precision::F32 && features.stride() == width && at < loss.len());
        let matrix = || self.tensor(rows.clone(), width, Precision::F32);
        let (y, applied, d_features) = (matrix(), matrix(), matrix());
        // Whether the Gram matrix is the smaller one. How many rows there will be is not known here, but not
        // more than there is room for; either way is right for any number.
        let gram = rows.capacity < width;
        let side = rows.capacity.min(width);
        let product = self.flat(side * side);
        let of_rows = (rows.capacity as u32).div_ceil(tiles::GEMM_TILE);
        let (of_side, of_width) =
            ((side as u32).div_ceil(tiles::GEMM_TILE), (width as u32).div_ceil(tiles::GEMM_TILE));
        let columns = |count: usize| self.block(count * size_of::<f64>());
        let (scale, diagonal) = (columns(width), columns(width));
        let blocks = of_side * of_side;
        let squares = self.block(blocks as usize * size_of::<f64>());
        let parameters = CorrelationParameters {
            z: features.address(),
            y: y.address(),
            scale: scale.address(),
            diagonal: diagonal.address(),
            product: product.address(),
            squares: squares.address(),
            applied: applied.address(),
            d_features: d_features.address(),
            loss: loss.at(at),
            rows: rows.parameter(),
            width: width as u32,
            gram: gram.into(),
            blocks,
            eps: EPSILON,
            weight,
            unused: 0,
        };
        let by_columns = ([(width as u32).div_ceil(32), 1, 1], tiles::COLUMN_SUM_THREADS * 8);
        let by_tiles = |x, y| ([x, y, 1], tiles::GEMM_SHARED_BYTES);
        for (kernel, (grid, shared_bytes)) in [
            (CORRELATION_STANDARDISE, by_columns),
            (CORRELATION_PRODUCT, by_tiles(of_side, of_side)),
            (CORRELATION_APPLY, by_tiles(of_width, of_rows)),
            (CORRELATION_GRADIENT, by_columns),
        ] {
            // SAFETY: the features, y, applied and d_features have as many rows of `width` floats, scale and
            // diagonal `width` doubles, `product` the square of the smaller of both, squares a double for each
            // of its tiles, one a block; there is room for the loss. All that is written is new memory, or
            // borrowed alone, and each kernel reads what those before it wrote.
            unsafe { self.launch(kernel, grid, shared_bytes, &parameters) };
        }
        d_features
    }
}
