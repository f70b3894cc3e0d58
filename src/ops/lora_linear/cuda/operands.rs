//! What the products multiply by: base weights, adapters, and which rows are whose.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use crate::device::cuda::kernels::{LORA_OPERANDS_BF16, LORA_OPERANDS_F32};
use crate::device::cuda::memory::Block;
use crate::device::cuda::{Address, Cuda, Flat, Precision, tiles};
use crate::lora::LoraSlot;
use crate::ops::lora_linear::LinearWeights;

pub(super) const MODULES: usize = tiles::LINEAR_MODULES as usize;

/// The base weights of a layer: W [out, in] of all modules, one after the other, and their biases. Tensor
/// cores read it as W and as W^T, so that there is one copy for both directions.
pub struct Linear {
    pub(super) input: usize,
    pub(super) outputs: Vec<usize>,
    weight: Arc<Block>,
    bias: Flat,
    element_bytes: usize,
}

impl Linear {
    pub(super) fn new(cuda: &Cuda, input: usize, modules: &[LinearWeights]) -> Linear {
        assert!(modules.len() <= MODULES, "query, key and value are the most");
        let weight: Vec<f32> = modules.iter().flat_map(|m| m.weight.iter().copied()).collect();
        let bias: Vec<f32> = modules.iter().flat_map(|m| m.bias.iter().copied()).collect();
        let outputs: Vec<usize> = modules.iter().map(|m| m.bias.len()).collect();
        assert_eq!(weight.len(), input * outputs.iter().sum::<usize>());
        Linear {
            input,
            outputs,
            weight: cuda.upload_weights(&weight),
            bias: cuda.upload_flat(&bias),
            element_bytes: cuda.precision().bytes(),
        }
    }

    /// The modules of `range`, each with the columns of y that it takes.
    pub(super) fn columns(&self, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut first = 0;
        range.map(move |m| {
            let columns = first..first + self.outputs[m];
            first = columns.end;
            (m, columns)
        })
    }

    /// Where W of module `m` starts; those of the next modules follow.
    pub(super) fn weight(&self, m: usize) -> Address {
        self.weight.address().offset(self.before(m) * self.input * self.element_bytes)
    }

    pub(super) fn bias(&self, m: usize) -> Address {
        self.bias.at(self.before(m))
    }

    fn before(&self, m: usize) -> usize {
        self.outputs[..m].iter().sum()
    }
}

/// The adapters of a layer's modules: one, or several for rows of several (see [`Cuda::lora_of_adapters`]).
#[derive(Clone)]
pub struct Lora {
    /// A [padded rank, in] of all modules, then B^T [padded rank, out]; of each module, one adapter's after
    /// the other's. In the precision of the activations.
    operands: Arc<Block>,
    /// alpha / r of each adapter.
    pub(super) scales: Flat,
    pub(super) modules: Vec<Option<Adapted>>,
    pub(super) adapters: usize,
    pub(super) segments: Option<Arc<Segments>>,
}

/// A module that has an adapter.
#[derive(Clone)]
pub(super) struct Adapted {
    /// Where its parameters are, and their gradients.
    pub slot: LoraSlot,
    /// The rank, rounded up.
    pub padded: usize,
    /// A and B^T in the operands.
    pub a: Address,
    pub b: Address,
}

/// An adapter's flat parameters, alpha / r, and where A and B of each module lie.
pub type AdapterParameters<'a> = (&'a Flat, f32, &'a [Option<LoraSlot>]);

/// `LoraOperand` of kernels/lora_operands.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OperandParameters {
    from: u32,
    to: u32,
    rank: u32,
    padded: u32,
    columns: u32,
    unused: u32,
}

/// `LoraOperands` of kernels/lora_operands.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct LoraOperandsParameters {
    parameters: Address,
    operands: Address,
    matrices: [OperandParameters; 2 * MODULES],
}

impl Cuda {
    /// Several adapters of one layer, for batches whose rows belong to different ones (see
    /// [`Lora::on_rows`]). A module has as many ranks as the largest of its adapters; those without it there
    /// add nothing.
    ///
    /// # Panics
    /// Where there is no adapter, or they have different numbers of modules.
    pub fn lora_of_adapters(&self, adapters: &[AdapterParameters<'_>]) -> Lora {
        let count = adapters[0].2.len();
        assert!(adapters.iter().all(|(_, _, slots)| slots.len() == count) && count <= MODULES);
        let of_module = |m: usize| adapters.iter().filter_map(move |(_, _, slots)| slots[m].as_ref());
        let padded = |m: usize| {
            let rank = of_module(m).map(|slot| slot.rank).max();
            rank.map(|rank| rank.next_multiple_of(tiles::RANK_UNIT as usize))
        };
        // The number of elements so far.
        let mut len = 0;
        let mut place = |columns: &dyn Fn(&LoraSlot) -> usize| -> Vec<usize> {
            let place_of = |m: usize| {
                let at = len;
                let elements = |slot| adapters.len() * padded(m).unwrap_or(0) * columns(slot);
                len += of_module(m).next().map_or(0, elements);
                at
            };
            (0..count).map(place_of).collect()
        };
        let (a, b) = (place(&|slot| slot.input), place(&|slot| slot.output));
        let operands = Arc::new(self.block(len * self.precision().bytes()));
        let address = |at: usize| operands.address().offset(at * self.precision().bytes());
        let module = |m: usize| {
            let slot = of_module(m).next()?.clone();
            Some(Adapted { slot, padded: padded(m)?, a: address(a[m]), b: address(b[m]) })
        };
        let scales: Vec<f32> = adapters.iter().map(|(_, scale, _)| *scale).collect();
        let lora = Lora {
            scales: self.upload_flat(&scales),
            modules: (0..count).map(module).collect(),
            adapters: adapters.len(),
            segments: None,
            operands: operands.clone(),
        };
        for (i, (parameters, _, slots)) in adapters.iter().enumerate() {
            self.pack(&lora, i, parameters, slots, &a, &b);
        }
        lora
    }

    /// Adapter `i` into the operands, where module m has its A at `a[m]` and B^T at `b[m]`.
    fn pack(
        &self,
        lora: &Lora,
        i: usize,
        parameters: &Flat,
        slots: &[Option<LoraSlot>],
        a: &[usize],
        b: &[usize],
    ) {
        let mut p = LoraOperandsParameters {
            parameters: parameters.address(),
            operands: lora.operands.address(),
            matrices: Zeroable::zeroed(),
        };
        let mut largest = 0;
        for (m, adapted) in lora.modules.iter().enumerate() {
            let Some(Adapted { slot: like, padded, .. }) = adapted else { continue };
            let slot = slots[m].as_ref();
            let sizes = slot.is_none_or(|s| (s.input, s.output) == (like.input, like.output));
            assert!(sizes, "adapters of one module have its sizes");
            assert!(
                slot.is_none_or(|s| s.a.end.max(s.b.end) <= parameters.len()),
                "the slot is of these parameters"
            );
            let matrix = |at: usize, from: usize, columns: usize| OperandParameters {
                from: from as u32,
                to: (at + i * padded * columns) as u32,
                rank: slot.map_or(0, |s| s.rank) as u32,
                padded: *padded as u32,
                columns: columns as u32,
                unused: 0,
            };
            let (from_a, from_b) = slot.map_or((0, 0), |s| (s.a.start, s.b.start));
            p.matrices[2 * m] = matrix(a[m], from_a, like.input);
            p.matrices[2 * m + 1] = matrix(b[m], from_b, like.output);
            largest = largest.max(padded * like.input.max(like.output));
        }
        let kernel = match self.precision() {
            Precision::F32 => LORA_OPERANDS_F32,
            Precision::Bf16 => LORA_OPERANDS_BF16,
        };
        let grid = [(largest as u32).div_ceil(tiles::ELEMENTWISE_THREADS), 2 * MODULES as u32, 1];
        // SAFETY: A and B of each slot lie within the parameters, as just asserted; the operands are new memory
        // with room for `padded` rows of each, where `lora_of_adapters` placed them.
        unsafe { self.launch(kernel, grid, 0, &p) };
    }

    /// Which adapter each row of a batch belongs to: runs of rows, in order.
    pub fn segments(&self, runs: &[(usize, u32)]) -> Arc<Segments> {
        let table = |height: usize| {
            let mut tiles: Vec<u32> = Vec::new();
            let mut first = 0;
            for &(rows, adapter) in runs {
                for start in (first..first + rows).step_by(height) {
                    tiles.extend([start as u32, (start + height).min(first + rows) as u32, adapter]);
                }
                first += rows;
            }
            let block = self.block(size_of_val(&tiles[..]));
            self.write(block.address(), &tiles);
            Table { height, count: tiles.len() / 3, block }
        };
        let adapters = runs.iter().map(|&(_, adapter)| adapter as usize + 1).max().unwrap_or(0);
        Arc::new(Segments {
            tables: TILE_HEIGHTS.map(|height| table(height as usize)),
            rows: runs.iter().map(|(rows, _)| rows).sum(),
            adapters,
        })
    }
}

impl Lora {
    /// The same for a batch whose rows belong to the adapters as `segments` says.
    ///
    /// # Panics
    /// Where they name an adapter that is not there.
    pub fn on_rows(&self, segments: &Arc<Segments>) -> Lora {
        assert!(segments.adapters <= self.adapters, "no such adapter");
        Lora { segments: Some(segments.clone()), ..self.clone() }
    }
}

const TILE_HEIGHTS: [u32; 5] =
    [tiles::DOWN_TILE, tiles::SMALL_TILE, tiles::MEDIUM_TILE, tiles::LARGE_TILE, tiles::SIMT_TILE];

/// The rows of a batch cut into tiles of one adapter each, for every height of tile.
pub struct Segments {
    tables: [Table; TILE_HEIGHTS.len()],
    pub(super) rows: usize,
    adapters: usize,
}

/// `RowTile`s of kernels/common/linear.cuh.
struct Table {
    height: usize,
    count: usize,
    block: Block,
}

impl Segments {
    /// The table for tiles of this height, and how many they are.
    pub(super) fn table(&self, height: usize) -> (Address, usize) {
        let table = self.tables.iter().find(|t| t.height == height).expect("all heights are there");
        (table.block.address(), table.count)
    }
}
