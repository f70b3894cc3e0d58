//! The adapters of a scorer on its device.

use super::plan::{Chunk, Place, Sets};
use crate::bert::encoder::Operands;
use crate::bert::{Encoder, PackedBatch};
use crate::device::Device;
use crate::lora::Adapter;

/// Adapters, those of one layout together.
pub(super) struct Adapters<D: Device> {
    sets: Vec<Set<D>>,
    /// Of each adapter, in the order given.
    places: Vec<Place>,
}

/// Adapters that may share a batch.
struct Set<D: Device> {
    operands: Operands<D>,
    count: usize,
}

impl<D: Device> Adapters<D> {
    pub fn new(device: &D, encoder: &Encoder<D>, adapters: &[&Adapter]) -> Adapters<D> {
        let mut sets = Sets::new();
        let places = adapters.iter().map(|&adapter| sets.push(adapter, |a| &a.layout)).collect();
        let set = |group: &Vec<&Adapter>| {
            let values: Vec<_> = group.iter().map(|a| device.parameters(&a.values)).collect();
            let with_values: Vec<_> = group.iter().copied().zip(&values).collect();
            Set { operands: encoder.operands(device, &with_values), count: group.len() }
        };
        Adapters { sets: sets.0.iter().map(set).collect(), places }
    }

    /// The sequences with the places of their adapters.
    ///
    /// # Panics
    /// Where there is no such adapter.
    pub fn places<'s, S: AsRef<[u32]>>(
        &self,
        sequences: &'s [(usize, S)],
    ) -> impl Iterator<Item = (Place, &'s [u32])> {
        sequences.iter().map(|(adapter, s)| (self.places[*adapter], s.as_ref()))
    }

    pub fn operands(&self, chunk: &Chunk) -> &Operands<D> {
        &self.sets[chunk.operands].operands
    }

    /// How many adapters share the operands of this number.
    pub fn count(&self, operands: usize) -> usize {
        self.sets[operands].count
    }

    pub fn batch(&self, device: &D, chunk: &Chunk) -> PackedBatch<D> {
        chunk.packed(device, self.count(chunk.operands))
    }
}
