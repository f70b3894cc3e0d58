//! The products in their form for Hopper: which kernel runs, and the boxes that it copies.

use bytemuck::{Pod, Zeroable};

use super::operands::MODULES;
use super::product::{GemmParameters, Low, PartParameters, Weights};
use crate::device::cuda::kernels::*;
use crate::device::cuda::tiles::{self, HopperTile};
use crate::device::cuda::{Address, Boxes, Cuda, Properties, TensorMap};

/// `HopperPart` of kernels/lora_linear_sm90a.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PartMaps {
    left: TensorMap,
    right: TensorMap,
    low_left: TensorMap,
    low_right: TensorMap,
}

/// `HopperGemm` of kernels/lora_linear_sm90a.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct HopperParameters {
    maps: [PartMaps; MODULES],
    gemm: GemmParameters,
    /// Up to the alignment of the maps.
    unused: [u64; 14],
}

/// Whether there is a Hopper form, on a device whose blocks may have so much shared memory. It has no dropout.
/// This must not depend on the number of rows, or a row's result would: so it asks for the larger tile's room
/// even where a smaller one would do.
pub fn fits(low: Low, shared_bytes: u32) -> bool {
    low != Low::Masked && HopperTile::Wide.stages(low == Low::Fused, shared_bytes, 1, 1).is_some()
}

/// A kernel with its tile.
pub struct HopperForm {
    kernel: Kernel<HopperParameters>,
    pub tile: HopperTile,
    pub fused: bool,
    pub stages: u32,
    weights: Weights,
}

impl HopperForm {
    /// For a product of `rows` rows and `columns` columns in all, which [`fits`].
    pub fn choose(cuda: &Cuda, weights: Weights, low: Low, rows: usize, columns: usize) -> HopperForm {
        let Properties { multiprocessors, shared_bytes, .. } = *cuda.properties();
        let fused = low == Low::Fused;
        let (tile, stages) =
            HopperTile::choose(rows, columns, fused, shared_bytes, multiprocessors).expect("it fits");
        let kernel = match (weights, fused, tile) {
            (Weights::Columns, false, HopperTile::Broad) => LINEAR_WGMMA_BROAD,
            (Weights::Columns, true, HopperTile::Broad) => LINEAR_WGMMA_FUSED_BROAD,
            (Weights::Rows, false, HopperTile::Broad) => LINEAR_DX_WGMMA_BROAD,
            (Weights::Rows, true, HopperTile::Broad) => LINEAR_DX_WGMMA_FUSED_BROAD,
            (Weights::Columns, false, HopperTile::Wide) => LINEAR_WGMMA_WIDE,
            (Weights::Columns, false, HopperTile::Narrow) => LINEAR_WGMMA_NARROW,
            (Weights::Columns, true, HopperTile::Wide) => LINEAR_WGMMA_FUSED_WIDE,
            (Weights::Columns, true, HopperTile::Narrow) => LINEAR_WGMMA_FUSED_NARROW,
            (Weights::Rows, false, HopperTile::Wide) => LINEAR_DX_WGMMA_WIDE,
            (Weights::Rows, false, HopperTile::Narrow) => LINEAR_DX_WGMMA_NARROW,
            (Weights::Rows, true, HopperTile::Wide) => LINEAR_DX_WGMMA_FUSED_WIDE,
            (Weights::Rows, true, HopperTile::Narrow) => LINEAR_DX_WGMMA_FUSED_NARROW,
        };
        HopperForm { kernel, tile, fused, stages, weights }
    }

    /// Launches the product; each part's low-rank operands are those of `adapters`, one after the other.
    ///
    /// # Safety
    /// As for `Form::launch`; the grid and the shared memory are those of the tile.
    pub unsafe fn launch(
        &self,
        cuda: &Cuda,
        grid: [u32; 3],
        shared_bytes: u32,
        gemm: &GemmParameters,
        rows: usize,
        adapters: usize,
    ) {
        if cuda.failed() || grid.contains(&0) {
            return;
        }
        let mut parameters = HopperParameters { gemm: *gemm, ..Zeroable::zeroed() };
        let parts = &gemm.parts[..gemm.part_count as usize];
        for (maps, part) in parameters.maps.iter_mut().zip(parts) {
            *maps = self.maps(cuda, part, rows as u32, adapters as u32);
        }
        // SAFETY: the maps describe what the parts name, as large as they say; the rest is the caller's promise.
        unsafe { cuda.launch(self.kernel, grid, shared_bytes, &parameters) };
    }

    fn maps(&self, cuda: &Cuda, part: &PartParameters, rows: u32, adapters: u32) -> PartMaps {
        let matrix = |address, [rows, columns]: [u32; 2], stride, box_rows| Boxes {
            address,
            columns,
            rows,
            matrices: 1,
            stride,
            box_rows,
        };
        let of_adapters = |address, [rows, columns]: [u32; 2], box_rows| Boxes {
            matrices: adapters,
            ..matrix(address, [rows, columns], columns, box_rows)
        };
        let map = |boxes: Boxes| cuda.tensor_map(&boxes);
        let &PartParameters { k, n, rank, .. } = part;
        let mut maps = PartMaps {
            left: map(matrix(part.left, [rows, k], part.left_stride, tiles::HOPPER_ROWS)),
            right: map(match self.weights {
                Weights::Columns => matrix(part.right, [n, k], k, self.tile.columns()),
                Weights::Rows => matrix(part.right, [k, n], n, tiles::HOPPER_K),
            }),
            ..Zeroable::zeroed()
        };
        if rank > 0 {
            assert!(part.low_right != Address::NULL, "ranks have operands");
            let (low_left, box_rows) = if self.fused {
                (of_adapters(part.side, [tiles::RANK_UNIT, k], tiles::RANK_UNIT), tiles::RANK_UNIT)
            } else {
                let stride = part.low_left_stride;
                (matrix(part.low_left, [rows, rank], stride, tiles::HOPPER_ROWS), tiles::HOPPER_K)
            };
            maps.low_left = map(low_left);
            maps.low_right = map(of_adapters(part.low_right, [rank, n], box_rows));
        }
        maps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_needs_shared_memory_and_no_dropout() {
        let on = |low| [227, 104, 102, 99].map(|kib| fits(low, kib << 10));
        assert_eq!(on(Low::Fused), [true, true, false, false]);
        assert_eq!(on(Low::Stored), [true, true, true, true]);
        assert_eq!(on(Low::Masked), [false; 4]);
    }

    #[test]
    fn the_parameters_fit_a_launch() {
        assert!(size_of::<HopperParameters>() <= 4096);
    }
}
