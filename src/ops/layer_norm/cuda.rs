use bytemuck::{Pod, Zeroable};

use super::{LayerNorm, NormWeights};
use crate::device::cuda::kernels::{
    Kernel, LAYER_NORM_BACKWARD_BF16, LAYER_NORM_BACKWARD_F32, LAYER_NORM_BF16, LAYER_NORM_F32,
};
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Cuda, Flat, Precision, Tensor, tiles};

/// `LayerNorm` of kernels/layer_norm.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct LayerNormParameters {
    x: Address,
    dy: Address,
    gamma: Address,
    beta: Address,
    out: Address,
    rows: RowsParameter,
    width: u32,
    eps: f32,
}

/// gamma and beta, as f32.
pub struct Norm {
    gamma: Flat,
    beta: Flat,
    eps: f32,
}

impl LayerNorm for Cuda {
    type Norm = Norm;

    fn norm(&self, weights: NormWeights) -> Norm {
        let (gamma, beta) = (self.upload_flat(&weights.gamma), self.upload_flat(&weights.beta));
        Norm { gamma, beta, eps: weights.eps }
    }

    fn layer_norm(&self, norm: &Norm, x: &Tensor) -> Tensor {
        let kernel = match x.precision() {
            Precision::F32 => LAYER_NORM_F32,
            Precision::Bf16 => LAYER_NORM_BF16,
        };
        run(self, kernel, norm, x, None)
    }

    fn layer_norm_backward(&self, norm: &Norm, x: &Tensor, dy: &Tensor) -> Tensor {
        let kernel = match x.precision() {
            Precision::F32 => LAYER_NORM_BACKWARD_F32,
            Precision::Bf16 => LAYER_NORM_BACKWARD_BF16,
        };
        run(self, kernel, norm, x, Some(dy))
    }
}

fn run(
    cuda: &Cuda,
    kernel: Kernel<LayerNormParameters>,
    norm: &Norm,
    x: &Tensor,
    dy: Option<&Tensor>,
) -> Tensor {
    let width = x.columns();
    assert!(width == norm.gamma.len() && width <= tiles::LAYER_NORM_WIDTH as usize && x.stride() == width);
    assert!(dy.is_none_or(|dy| {
        dy.columns() == width && dy.stride() == width && dy.precision() == x.precision()
    }));
    let out = cuda.tensor(x.rows().clone(), width, x.precision());
    let parameters = LayerNormParameters {
        x: x.address(),
        dy: dy.map_or(Address::NULL, Tensor::address),
        gamma: norm.gamma.address(),
        beta: norm.beta.address(),
        out: out.address(),
        rows: x.rows().parameter(),
        width: width as u32,
        eps: norm.eps,
    };
    let rows_a_block = tiles::LAYER_NORM_THREADS / 32;
    let grid = [(x.rows().capacity as u32).div_ceil(rows_a_block), 1, 1];
    // SAFETY: x, dy and out have as many rows of `width` elements, without gaps; gamma and beta `width`
    // floats; out is new memory.
    unsafe { cuda.launch(kernel, grid, 0, &parameters) };
    out
}
