//! Matrix products of all kinds: which kernel runs, with which tiles.

use bytemuck::{Pod, Zeroable};

use super::hopper::{self, HopperForm};
use super::operands::MODULES;
use crate::device::cuda::kernels::*;
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::tiles::{self, MmaTile};
use crate::device::cuda::{Address, Cuda, Level, Precision, Rows, Segments};
use crate::ops::lora_linear::Dropout;

/// `Part` of kernels/common/linear.cuh.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct PartParameters {
    pub left: Address,
    pub right: Address,
    pub low_left: Address,
    pub low_right: Address,
    pub side: Address,
    pub bias: Address,
    pub left_stride: u32,
    pub low_left_stride: u32,
    pub k: u32,
    pub n: u32,
    pub rank: u32,
    pub column: u32,
    /// Set by the launch.
    pub first_tile: u32,
    pub target: u32,
    pub right_by_adapter: u32,
    pub unused: u32,
}

/// `Dropout` of kernels/common/philox.cuh.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct DropoutParameters {
    seed: u64,
    step: u32,
    place: u32,
    first_row: u32,
    threshold: u32,
    keep: f32,
    unused: u32,
}

impl From<Option<Dropout>> for DropoutParameters {
    fn from(dropout: Option<Dropout>) -> Self {
        dropout.map_or(Zeroable::zeroed(), |d| DropoutParameters {
            seed: d.seed,
            step: d.step,
            place: d.place(),
            first_row: d.first_row,
            threshold: d.threshold() as u32,
            keep: d.keep(),
            unused: 0,
        })
    }
}

/// `Gemm` of kernels/common/linear.cuh. The launch sets the number of parts and what depends on the tiles.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct GemmParameters {
    pub parts: [PartParameters; MODULES],
    pub out: Address,
    pub slope: Address,
    pub factor: Address,
    pub addend: Address,
    pub scales: Address,
    pub row_tiles: Address,
    pub rows: RowsParameter,
    pub dropout: DropoutParameters,
    pub low_ends: [u32; MODULES],
    pub part_count: u32,
    pub out_stride: u32,
    pub addend_stride: u32,
    pub factor_stride: u32,
    pub gelu: u32,
    pub stages: u32,
    pub unused: u32,
}

/// How a product reads its weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    /// As W [n, k]: y = x W^T.
    Columns,
    /// As W [k, n]: dx = dy W.
    Rows,
}

/// Where the low-rank term comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Low {
    /// Its left operand is in memory.
    Stored,
    /// The same, and its product is under dropout.
    Masked,
    /// Its left operand is computed in the same pass.
    Fused,
}

/// A kernel with its tiles.
pub(super) struct Form {
    kernel: Code,
    rows: usize,
    columns: usize,
    stages: u32,
    shared_bytes: u32,
}

enum Code {
    Plain(Kernel<GemmParameters>),
    Hopper(HopperForm),
}

impl Form {
    /// S = scale x A^T or U = scale dy B, under dropout of x where `masked`.
    pub fn down(cuda: &Cuda, level: Level, masked: bool) -> Form {
        match (level, cuda.precision(), masked) {
            (Level::Plain, Precision::F32, false) => Form::simt(LINEAR_F32),
            (Level::Plain, Precision::Bf16, false) => Form::simt(LINEAR_BF16),
            (Level::Plain, Precision::F32, true) => Form::simt(LINEAR_MASKED_F32),
            (Level::Plain, Precision::Bf16, true) => Form::simt(LINEAR_MASKED_BF16),
            // Too narrow for a warpgroup.
            (Level::Tensor | Level::Hopper, _, masked) => Form {
                kernel: Code::Plain(if masked { LINEAR_DOWN_MASKED } else { LINEAR_DOWN }),
                rows: tiles::DOWN_TILE as usize,
                columns: tiles::DOWN_TILE as usize,
                stages: 0,
                shared_bytes: tiles::DOWN_THREADS / 32 * tiles::DOWN_TILE * tiles::DOWN_TILE * 4,
            },
        }
    }

    /// y of `rows` rows and `columns` columns in all.
    pub fn forward(cuda: &Cuda, level: Level, low: Low, rows: usize, columns: usize) -> Form {
        match (level, cuda.precision()) {
            (Level::Plain, Precision::F32) => Form::simt(LINEAR_F32),
            (Level::Plain, Precision::Bf16) => Form::simt(LINEAR_BF16),
            _ => Form::tensor(cuda, level, Weights::Columns, low, rows, columns),
        }
    }

    /// dx of `rows` rows and `columns` columns.
    pub fn dx(cuda: &Cuda, level: Level, low: Low, rows: usize, columns: usize) -> Form {
        match (level, cuda.precision(), low) {
            (Level::Plain, Precision::F32, Low::Masked) => Form::simt(LINEAR_DX_MASKED_F32),
            (Level::Plain, Precision::Bf16, Low::Masked) => Form::simt(LINEAR_DX_MASKED_BF16),
            (Level::Plain, Precision::F32, _) => Form::simt(LINEAR_DX_F32),
            (Level::Plain, Precision::Bf16, _) => Form::simt(LINEAR_DX_BF16),
            // Dropout is for training, where there are many rows: one size of tile will do.
            (_, _, Low::Masked) => Form::mma(cuda, LINEAR_DX_MASKED_MMA, MmaTile::Medium, false),
            _ => Form::tensor(cuda, level, Weights::Rows, low, rows, columns),
        }
    }

    /// The best form on tensor cores.
    fn tensor(cuda: &Cuda, level: Level, weights: Weights, low: Low, rows: usize, columns: usize) -> Form {
        if level == Level::Hopper && hopper::fits(low, cuda.properties().shared_bytes) {
            return Form::hopper(HopperForm::choose(cuda, weights, low, rows, columns));
        }
        let tile = MmaTile::choose(rows, columns, cuda.properties().multiprocessors);
        let fused = low == Low::Fused;
        let kernel = match (weights, fused, tile) {
            (Weights::Columns, false, MmaTile::Large) => LINEAR_MMA_LARGE,
            (Weights::Columns, false, MmaTile::Medium) => LINEAR_MMA_MEDIUM,
            (Weights::Columns, false, MmaTile::Small) => LINEAR_MMA_SMALL,
            (Weights::Columns, true, MmaTile::Large) => LINEAR_FUSED_LARGE,
            (Weights::Columns, true, MmaTile::Medium) => LINEAR_FUSED_MEDIUM,
            (Weights::Columns, true, MmaTile::Small) => LINEAR_FUSED_SMALL,
            (Weights::Rows, false, MmaTile::Large) => LINEAR_DX_MMA_LARGE,
            (Weights::Rows, false, MmaTile::Medium) => LINEAR_DX_MMA_MEDIUM,
            (Weights::Rows, false, MmaTile::Small) => LINEAR_DX_MMA_SMALL,
            (Weights::Rows, true, MmaTile::Large) => LINEAR_DX_FUSED_LARGE,
            (Weights::Rows, true, MmaTile::Medium) => LINEAR_DX_FUSED_MEDIUM,
            (Weights::Rows, true, MmaTile::Small) => LINEAR_DX_FUSED_SMALL,
        };
        Form::mma(cuda, kernel, tile, fused)
    }

    fn simt(kernel: Kernel<GemmParameters>) -> Form {
        let size = tiles::SIMT_TILE as usize;
        let shared_bytes = 2 * tiles::SIMT_K * tiles::SIMT_PITCH * 4;
        Form { kernel: Code::Plain(kernel), rows: size, columns: size, stages: 0, shared_bytes }
    }

    fn mma(cuda: &Cuda, kernel: Kernel<GemmParameters>, tile: MmaTile, fused: bool) -> Form {
        let stages = tile.stages(fused, cuda.properties().shared_bytes);
        let shared_bytes = tile.shared_bytes(fused, stages);
        Form { kernel: Code::Plain(kernel), rows: tile.size(), columns: tile.size(), stages, shared_bytes }
    }

    fn hopper(form: HopperForm) -> Form {
        let (tile, fused, stages) = (form.tile, form.fused, form.stages);
        Form {
            kernel: Code::Hopper(form),
            rows: tiles::HOPPER_ROWS as usize,
            columns: tile.columns() as usize,
            stages,
            shared_bytes: tile.shared_bytes(fused, stages),
        }
    }

    /// Launches the product of `parts`, whose low-rank operands are those of `adapters`, one after the other; the
    /// rest is as `parameters` say.
    ///
    /// # Safety
    /// The parts and parameters name memory as kernels/common/linear.cuh describes it, for the modules' sizes
    /// and rows; what is written overlaps nothing that is read. For tensor cores all sizes, strides and
    /// addresses are multiples of 8 elements.
    pub unsafe fn launch(
        self,
        cuda: &Cuda,
        rows: &Rows,
        segments: Option<&Segments>,
        adapters: usize,
        parts: &[PartParameters],
        mut parameters: GemmParameters,
    ) {
        let mut columns = 0;
        for (to, from) in parameters.parts.iter_mut().zip(parts) {
            *to = PartParameters { first_tile: columns, ..*from };
            columns += from.n.div_ceil(self.columns as u32);
        }
        parameters.part_count = parts.len() as u32;
        parameters.rows = rows.parameter();
        parameters.stages = self.stages;
        let mut row_tiles = rows.capacity.div_ceil(self.rows);
        if let Some(segments) = segments {
            assert!(segments.rows() <= rows.capacity, "the segments are of these rows");
            (parameters.row_tiles, row_tiles) = segments.table(self.rows);
        }
        let grid = [columns, row_tiles as u32, 1];
        // SAFETY: the caller's promise; tiles and shared memory are those of the kernel.
        unsafe {
            match self.kernel {
                Code::Plain(kernel) => cuda.launch(kernel, grid, self.shared_bytes, &parameters),
                Code::Hopper(form) => {
                    form.launch(cuda, grid, self.shared_bytes, &parameters, rows.capacity, adapters)
                }
            }
        };
    }
}
