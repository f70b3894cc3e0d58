//! What is scored at once: each distinct sequence, those of one adapter together, in chunks.

use std::collections::HashMap;

use crate::bert::PackedBatch;
use crate::bert::batch::chunks;
use crate::device::Device;
use crate::lora::Layout;

/// An adapter's place on a device: which operands, and its number among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub operands: usize,
    pub number: usize,
}

/// Adapters whose layouts match: those of a set may share a batch.
pub(super) struct Sets<T>(pub Vec<Vec<T>>);

impl<T> Sets<T> {
    pub fn new() -> Sets<T> {
        Sets(Vec::new())
    }

    /// Adds an adapter, whose layout `layout` tells of any, and says where it is.
    pub fn push(&mut self, adapter: T, layout: impl Fn(&T) -> &Layout) -> Place {
        let there = self.0.iter().position(|set| layout(&set[0]).matches(layout(&adapter)));
        let operands = there.unwrap_or_else(|| {
            self.0.push(Vec::new());
            self.0.len() - 1
        });
        self.0[operands].push(adapter);
        Place { operands, number: self.0[operands].len() - 1 }
    }
}

/// Sequences for one forward pass.
#[derive(Debug, PartialEq)]
pub(crate) struct Chunk<'s> {
    pub operands: usize,
    /// The number of the adapter with the token ids.
    pub sequences: Vec<(usize, &'s [u32])>,
}

impl<'s> Chunk<'s> {
    /// The token ids alone.
    pub fn tokens(&self) -> Vec<&'s [u32]> {
        self.sequences.iter().map(|(_, tokens)| *tokens).collect()
    }

    /// Packed for a device where the operands have so many adapters.
    pub fn packed<D: Device>(&self, device: &D, adapters: usize) -> PackedBatch<D> {
        match adapters {
            1 => PackedBatch::new(device, &self.tokens()),
            _ => PackedBatch::of_adapters(device, &self.sequences),
        }
    }
}

/// Chunks, and the way back to the sequences that were given.
pub(crate) struct Plan<'s> {
    pub chunks: Vec<Chunk<'s>>,
    pub spread: Spread,
}

/// Of each sequence that was given, its place in the chunks.
pub(crate) struct Spread(Vec<usize>);

impl<'s> Plan<'s> {
    /// Chunks of about `target` tokens, a multiple of `workers` of them for each operands.
    pub fn new(
        sequences: impl IntoIterator<Item = (Place, &'s [u32])>,
        target: usize,
        workers: usize,
    ) -> Plan<'s> {
        let mut distinct: Vec<(Place, &[u32])> = Vec::new();
        let mut seen = HashMap::new();
        let number = |sequence| {
            *seen.entry(sequence).or_insert_with(|| {
                distinct.push(sequence);
                distinct.len() - 1
            })
        };
        let which: Vec<usize> = sequences.into_iter().map(number).collect();
        let mut order: Vec<usize> = (0..distinct.len()).collect();
        order.sort_by_key(|&i| distinct[i].0);
        let mut at = vec![0; distinct.len()];
        order.iter().enumerate().for_each(|(to, &from)| at[from] = to);

        let mut planned = Vec::new();
        for group in order.chunk_by(|&i, &j| distinct[i].0.operands == distinct[j].0.operands) {
            let lengths: Vec<usize> = group.iter().map(|&i| distinct[i].1.len()).collect();
            let of = |&i: &usize| (distinct[i].0.number, distinct[i].1);
            planned.extend(chunks(&lengths, target, workers).into_iter().map(|range| Chunk {
                operands: distinct[group[0]].0.operands,
                sequences: group[range].iter().map(of).collect(),
            }));
        }
        Plan { chunks: planned, spread: Spread(which.into_iter().map(|i| at[i]).collect()) }
    }
}

impl Spread {
    /// The scores of the sequences that were given, from those of all chunks in order.
    pub fn of(&self, scored: &[f32]) -> Vec<f32> {
        self.0.iter().map(|&i| scored[i]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_finds_its_own_score_and_equal_ones_share() {
        let tokens: [&[u32]; 4] = [&[1, 2, 3], &[4], &[5, 6], &[4, 4]];
        let given: Vec<(Place, &[u32])> =
            (0..40).map(|i| (Place { operands: i % 2, number: i * 5 % 3 }, tokens[i % 7 % 4])).collect();
        let plan = Plan::new(given.iter().copied(), 4, 1);
        let mut all = Vec::new();
        for chunk in &plan.chunks {
            assert!(chunk.sequences.is_sorted_by_key(|(number, _)| *number), "{chunk:?}");
            all.extend(
                chunk.sequences.iter().map(|&(number, s)| (Place { operands: chunk.operands, number }, s)),
            );
        }
        let distinct: std::collections::HashSet<_> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len());
        let numbers: Vec<f32> = (0..all.len()).map(|i| i as f32).collect();
        let found: Vec<_> = plan.spread.of(&numbers).into_iter().map(|n| all[n as usize]).collect();
        assert_eq!(found, given);
        assert!(plan.chunks.len() > 2);
    }
}
