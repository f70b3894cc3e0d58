//! dA = U^T x and dB^T = S^T dy, for all modules of a layer at once.

use bytemuck::{Pod, Zeroable};

use super::operands::MODULES;
use super::product::DropoutParameters;
use crate::device::cuda::kernels::{
    LORA_GRADIENT_BF16, LORA_GRADIENT_F32, LORA_GRADIENT_MASKED_BF16, LORA_GRADIENT_MASKED_F32,
    LORA_GRADIENT_SUM,
};
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Cuda, Flat, Precision, Rows, Tensor, tiles};
use crate::ops::lora_linear::Dropout;

/// `LoraReduction` of kernels/lora_gradient.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ReductionParameters {
    low: Address,
    right: Address,
    low_stride: u32,
    right_stride: u32,
    rank: u32,
    n: u32,
    partial: u32,
    gradient: u32,
    first_tile: u32,
    target: u32,
    masked: u32,
    wide: u32,
}

/// `LoraGradient` of kernels/lora_gradient.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct LoraGradientParameters {
    reductions: [ReductionParameters; 2 * MODULES],
    partials: Address,
    gradients: Address,
    rows: RowsParameter,
    dropout: DropoutParameters,
    count: u32,
    total: u32,
    chunks: u32,
    rows_a_chunk: u32,
}

/// One of the products: low^T right, added to the gradients from `gradient` on.
pub(super) struct Reduction {
    /// U or S: [rows, at least rank].
    pub low: Tensor,
    /// x or dy: [rows, n].
    pub right: Tensor,
    pub rank: usize,
    pub gradient: usize,
    /// The target whose dropout masks `right`.
    pub masked_for: Option<usize>,
}

/// Adds the products to `gradients`.
pub(super) fn reduce(
    cuda: &Cuda,
    rows: &Rows,
    reductions: &[Reduction],
    dropout: Option<Dropout>,
    gradients: &Flat,
) {
    if reductions.is_empty() || rows.capacity == 0 {
        return;
    }
    let rows_a_chunk = tiles::reduce_rows(rows.capacity);
    let mut p = LoraGradientParameters {
        gradients: gradients.address(),
        rows: rows.parameter(),
        dropout: dropout.into(),
        count: reductions.len() as u32,
        chunks: rows.capacity.div_ceil(rows_a_chunk) as u32,
        rows_a_chunk: rows_a_chunk as u32,
        ..Zeroable::zeroed()
    };
    let (mut columns, mut ranks, mut largest) = (0, 0, 0);
    for (to, r) in p.reductions.iter_mut().zip(reductions) {
        let (n, rank) = (r.right.columns() as u32, r.rank as u32);
        assert!(r.low.columns() >= r.rank.next_multiple_of(tiles::RANK_UNIT as usize));
        assert!(r.low.is_wide(), "whole units of ranks side by side");
        assert!(r.low.rows().capacity == rows.capacity && r.right.rows().capacity == rows.capacity);
        assert!(r.low.precision() == cuda.precision() && r.right.precision() == cuda.precision());
        assert!(r.gradient + r.rank * r.right.columns() <= gradients.len());
        *to = ReductionParameters {
            low: r.low.address(),
            right: r.right.address(),
            low_stride: r.low.stride() as u32,
            right_stride: r.right.stride() as u32,
            rank,
            n,
            partial: p.total,
            gradient: r.gradient as u32,
            first_tile: columns,
            target: r.masked_for.unwrap_or(0) as u32,
            masked: u32::from(r.masked_for.is_some()),
            wide: r.right.is_wide().into(),
        };
        columns += n.div_ceil(tiles::REDUCE_COLUMNS);
        ranks = ranks.max(rank.div_ceil(tiles::RANK_UNIT));
        largest = largest.max(rank * n);
        p.total += rank * n;
    }
    let partials = cuda.flat((p.chunks * p.total) as usize);
    p.partials = partials.address();
    let kernel = match (cuda.precision(), dropout) {
        (Precision::F32, None) => LORA_GRADIENT_F32,
        (Precision::Bf16, None) => LORA_GRADIENT_BF16,
        (Precision::F32, Some(_)) => LORA_GRADIENT_MASKED_F32,
        (Precision::Bf16, Some(_)) => LORA_GRADIENT_MASKED_BF16,
    };
    let shared_bytes = tiles::REDUCE_THREADS / 32 * tiles::RANK_UNIT * tiles::REDUCE_PITCH * 4;
    // SAFETY: as just asserted, each pair has the same rows, `low` with whole units of ranks aligned to 16
    // bytes, in the device's precision, and `right` is aligned so where it is wide; the partial sums are new
    // memory with `total` floats a chunk.
    unsafe { cuda.launch(kernel, [columns, p.chunks, ranks], shared_bytes, &p) };
    let grid = [largest.div_ceil(tiles::ELEMENTWISE_THREADS), p.count, 1];
    // SAFETY: every partial sum was just written; each gradient is within the vector, as asserted, and of one
    // reduction only, since slots of a layout do not overlap.
    unsafe { cuda.launch(LORA_GRADIENT_SUM, grid, 0, &p) };
}
