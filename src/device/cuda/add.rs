//! Sums of two matrices.

use bytemuck::{Pod, Zeroable};

use super::kernels::{ADD_BF16, ADD_F32};
use super::tensor::RowsParameter;
use super::{Address, Cuda, Precision, Tensor, tiles};

/// `Add` of kernels/add.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct AddParameters {
    a: Address,
    b: Address,
    out: Address,
    rows: RowsParameter,
    columns: u32,
    a_stride: u32,
    b_stride: u32,
    unused: u32,
}

/// a + b.
pub(super) fn add(cuda: &Cuda, a: &Tensor, b: &Tensor) -> Tensor {
    assert!(a.columns() == b.columns() && a.precision() == b.precision());
    assert_eq!(a.rows().capacity, b.rows().capacity);
    let kernel = match a.precision() {
        Precision::F32 => ADD_F32,
        Precision::Bf16 => ADD_BF16,
    };
    let out = cuda.tensor(a.rows().clone(), a.columns(), a.precision());
    let parameters = AddParameters {
        a: a.address(),
        b: b.address(),
        out: out.address(),
        rows: a.rows().parameter(),
        columns: a.columns() as u32,
        a_stride: a.stride() as u32,
        b_stride: b.stride() as u32,
        unused: 0,
    };
    let grid = [a.rows().capacity as u32, (a.columns() as u32).div_ceil(tiles::ELEMENTWISE_THREADS), 1];
    // SAFETY: a and b have as many rows and columns, with their strides; out too, without gaps, in new memory.
    unsafe { cuda.launch(kernel, grid, 0, &parameters) };
    out
}
