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

/// The adapters of a layer's modules.
pub struct Lora {
    /// A [padded rank, in] of all modules, then B^T [padded rank, out]; of each module, one adapter's after
    /// the other's. In the precision of the activations.
    operands: Arc<Block>,
    /// The scale of each adapter; none where no module has any, for a copy would keep the kernels apart for nothing.
    pub(super) scales: Option<Flat>,
    pub(super) modules: Vec<Option<Adapted>>,
    pub(super) adapters: usize,
}

/// A module that has adapters.
pub(super) struct Adapted {
    /// Where an adapter's parameters are, and their gradients.
    pub slot: LoraSlot,
    /// The rank, rounded up.
    pub padded: usize,
    /// A and B^T of the first adapter in the operands.
    pub a: Address,
    pub b: Address,
}

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

impl Lora {
    pub(super) fn new(cuda: &Cuda, adapters: &[(&Flat, f32)], slots: &[Option<LoraSlot>]) -> Lora {
        assert!(slots.len() <= MODULES);
        let padded = |slot: &LoraSlot| slot.rank.next_multiple_of(tiles::RANK_UNIT as usize);
        // The number of elements so far.
        let mut len = 0;
        let mut place = |columns: &dyn Fn(&LoraSlot) -> usize| -> Vec<usize> {
            let mut place_of = |slot: &Option<LoraSlot>| {
                let at = len;
                len += slot.as_ref().map_or(0, |slot| adapters.len() * padded(slot) * columns(slot));
                at
            };
            slots.iter().map(&mut place_of).collect()
        };
        let (a, b) = (place(&|slot| slot.input), place(&|slot| slot.output));
        assert!(u32::try_from(len).is_ok(), "kernels count elements in 32 bits");
        let operands = Arc::new(cuda.block(len * cuda.precision().bytes()));
        let address = |at: usize| operands.address().offset(at * cuda.precision().bytes());
        let module = |(m, slot): (usize, &Option<LoraSlot>)| {
            let slot = slot.clone()?;
            Some(Adapted { padded: padded(&slot), a: address(a[m]), b: address(b[m]), slot })
        };
        let scales = || cuda.upload_flat(&adapters.iter().map(|(_, scale)| *scale).collect::<Vec<f32>>());
        let lora = Lora {
            scales: slots.iter().any(Option::is_some).then(scales),
            modules: slots.iter().enumerate().map(module).collect(),
            adapters: adapters.len(),
            operands: operands.clone(),
        };
        for (i, (parameters, _)) in adapters.iter().enumerate() {
            lora.pack(cuda, i, parameters, &a, &b);
        }
        lora
    }

    /// Adapter `i` into the operands, where module m has its A at `a[m]` and B^T at `b[m]`.
    fn pack(&self, cuda: &Cuda, i: usize, parameters: &Flat, a: &[usize], b: &[usize]) {
        let mut p = LoraOperandsParameters {
            parameters: parameters.address(),
            operands: self.operands.address(),
            matrices: Zeroable::zeroed(),
        };
        let mut largest = 0;
        for (m, adapted) in self.modules.iter().enumerate() {
            let Some(Adapted { slot, padded, .. }) = adapted else { continue };
            assert!(slot.a.end.max(slot.b.end) <= parameters.len(), "the slot is of these parameters");
            let matrix = |at: usize, from: usize, columns: usize| OperandParameters {
                from: from as u32,
                to: (at + i * padded * columns) as u32,
                rank: slot.rank as u32,
                padded: *padded as u32,
                columns: columns as u32,
                unused: 0,
            };
            p.matrices[2 * m] = matrix(a[m], slot.a.start, slot.input);
            p.matrices[2 * m + 1] = matrix(b[m], slot.b.start, slot.output);
            largest = largest.max(padded * slot.input.max(slot.output));
        }
        let kernel = match cuda.precision() {
            Precision::F32 => LORA_OPERANDS_F32,
            Precision::Bf16 => LORA_OPERANDS_BF16,
        };
        let grid = [(largest as u32).div_ceil(tiles::ELEMENTWISE_THREADS), 2 * MODULES as u32, 1];
        // SAFETY: A and B of each slot lie within the parameters, as just asserted; the operands are new memory
        // with room for `padded` rows of each, where `new` placed them.
        unsafe { cuda.launch(kernel, grid, 0, &p) };
    }
}
