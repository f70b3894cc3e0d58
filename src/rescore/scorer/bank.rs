//! Adapters that come and go on a base that stays.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::{Chunk, Place, Plan, Sets};
use super::{BATCH_TOKENS, CHUNK_TOKENS, on_all_cores};
use crate::Result;
use crate::bert::encoder::Operands;
use crate::bert::{AnyEncoder, Encoder};
use crate::device::cpu::Cpu;
use crate::device::cuda::{Cuda, Flat};
use crate::device::{AnyDevice, Memory};
use crate::lora::{Adapter, Layout};
use crate::model::BaseModel;
use crate::tape::Tape;

/// A base on its device, ready to score with any adapters of it.
pub struct Bank(AnyEncoder);

/// An adapter on the device of its bank, for as long as somebody holds it.
pub struct Seat {
    layout: Layout,
    on: OnDevice,
}

enum OnDevice {
    /// Packed: those of a batch are joined, not copied.
    Cpu(Operands<Cpu>),
    /// All but its values, which are on the GPU and are packed there for each batch: kernels read the adapters
    /// of a batch from one block.
    Cuda(Adapter, Flat),
}

impl Bank {
    /// Packs the base.
    ///
    /// # Errors
    /// As for [`AnyEncoder::load`].
    pub fn new(device: AnyDevice, model: &BaseModel) -> Result<Bank> {
        AnyEncoder::load(device, &model.config, &model.checkpoint, false).map(Bank)
    }

    /// The tokens of a batch that keep the device busy: a chunk for each worker, or what fills a GPU.
    pub fn batch_tokens(&self) -> usize {
        match &self.0 {
            AnyEncoder::Cpu(..) => CHUNK_TOKENS * rayon::current_num_threads(),
            AnyEncoder::Cuda(..) => BATCH_TOKENS,
        }
    }

    /// Brings an adapter of this base to the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where a GPU fails.
    pub fn seat(&self, mut adapter: Adapter) -> Result<Seat> {
        let layout = adapter.layout.clone();
        let on = match &self.0 {
            AnyEncoder::Cpu(cpu, encoder) => {
                OnDevice::Cpu(encoder.operands(cpu, &[(&adapter, &cpu.parameters(&adapter.values))]))
            }
            AnyEncoder::Cuda(cuda, _) => {
                // Another thread may compute: an adapter that finds no room there is no failure of its batch.
                let cuda = cuda.with_own_failures();
                let values = cuda.parameters(&std::mem::take(&mut adapter.values));
                cuda.check()?;
                OnDevice::Cuda(adapter, values)
            }
        };
        Ok(Seat { layout, on })
    }

    /// g of each sequence of token ids by its adapter. A score depends on its sequence and adapter alone, to
    /// the bit.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where a GPU fails.
    ///
    /// # Panics
    /// Where a seat is another bank's.
    pub fn scores<S: AsRef<[u32]>>(&self, sequences: &[(Arc<Seat>, S)]) -> Result<Vec<f32>> {
        let (sets, places) = sets(sequences);
        let placed = places.into_iter().zip(sequences.iter().map(|(_, s)| s.as_ref()));
        match &self.0 {
            AnyEncoder::Cpu(cpu, encoder) => {
                let operands: Vec<_> = sets.iter().map(|set| joined(set)).collect();
                let batch = |chunk: &Chunk| {
                    (&operands[chunk.operands], chunk.packed(cpu, sets[chunk.operands].len()))
                };
                Ok(on_all_cores(cpu, encoder, placed, batch))
            }
            AnyEncoder::Cuda(cuda, encoder) => {
                let plan = Plan::new(placed, BATCH_TOKENS, 1);
                let operands: Vec<_> = sets.iter().map(|set| gathered(cuda, encoder, set)).collect();
                let mut fetched = Vec::with_capacity(plan.chunks.len());
                for chunk in &plan.chunks {
                    let batch = chunk.packed(cuda, sets[chunk.operands].len());
                    let operands = &operands[chunk.operands];
                    let scored = encoder.forward(cuda, operands, &batch, None, &mut Tape::idle());
                    fetched.push(cuda.fetch(&scored.scores.value, chunk.sequences.len())?);
                }
                let scored: Vec<Vec<f32>> = fetched.into_iter().map(|f| f.wait()).collect::<Result<_>>()?;
                Ok(plan.spread.of(&scored.concat()))
            }
        }
    }
}

impl Seat {
    /// The memory of the device that it takes.
    pub fn bytes(&self) -> usize {
        match &self.on {
            OnDevice::Cpu(operands) => operands.bytes(),
            OnDevice::Cuda(_, values) => values.len() * size_of::<f32>(),
        }
    }
}

/// The adapters of some sequences, those of one layout together, and the place of each sequence's.
fn sets<S>(sequences: &[(Arc<Seat>, S)]) -> (Vec<Vec<&Seat>>, Vec<Place>) {
    let mut sets = Sets::new();
    let mut found: HashMap<*const Seat, Place> = HashMap::new();
    let mut places = Vec::with_capacity(sequences.len());
    for (seat, _) in sequences {
        let place = || sets.push(&**seat, |seat| &seat.layout);
        places.push(*found.entry(Arc::as_ptr(seat)).or_insert_with(place));
    }
    (sets.0, places)
}

fn joined(set: &[&Seat]) -> Operands<Cpu> {
    let mut parts = Vec::with_capacity(set.len());
    for seat in set {
        match &seat.on {
            OnDevice::Cpu(operands) => parts.push(operands),
            OnDevice::Cuda(..) => panic!("{ELSEWHERE}"),
        }
    }
    Operands::join(&parts)
}

fn gathered(cuda: &Cuda, encoder: &Encoder<Cuda>, set: &[&Seat]) -> Operands<Cuda> {
    let mut adapters = Vec::with_capacity(set.len());
    for seat in set {
        match &seat.on {
            OnDevice::Cuda(adapter, values) => adapters.push((adapter, values)),
            OnDevice::Cpu(_) => panic!("{ELSEWHERE}"),
        }
    }
    encoder.operands(cuda, &adapters)
}

const ELSEWHERE: &str = "the adapter is on another device";
