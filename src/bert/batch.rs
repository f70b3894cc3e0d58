//! Sequences without padding: all tokens in one row of rows, with the offsets of the sequences.

use std::collections::HashMap;

use crate::device::Memory;

/// Sequences packed for a device.
pub struct PackedBatch<D: Memory> {
    /// One token id and position per distinct pair of them: hypotheses of a list share most.
    pub distinct_tokens: D::Index,
    pub distinct_positions: D::Index,
    pub distinct: usize,
    /// For every token of the batch, the number of its pair.
    pub expand: D::Index,
    /// The number of tokens.
    pub tokens: usize,
    /// cu_seqlens: where each sequence starts, and the end of the last.
    pub offsets: D::Index,
    /// The row of each sequence's [CLS].
    pub cls: D::Index,
    /// Offsets of one query per sequence: 0, 1, 2, …
    pub cls_offsets: D::Index,
    pub sequences: usize,
}

/// Sequences packed, still on the host. The fields are those of [`PackedBatch`].
pub struct Packing {
    pub distinct_tokens: Vec<u32>,
    pub distinct_positions: Vec<u32>,
    pub expand: Vec<u32>,
    pub offsets: Vec<u32>,
}

impl Packing {
    /// Packs sequences of token ids, each at least one token long.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Packing {
        let mut pairs = HashMap::new();
        let (mut ids, mut positions, mut expand) = (Vec::new(), Vec::new(), Vec::new());
        let mut offsets = vec![0u32];
        for sequence in sequences {
            for (position, &id) in sequence.as_ref().iter().enumerate() {
                let next = ids.len() as u32;
                let pair = *pairs.entry((id, position as u32)).or_insert(next);
                if pair == next {
                    ids.push(id);
                    positions.push(position as u32);
                }
                expand.push(pair);
            }
            offsets.push(expand.len() as u32);
        }
        Packing { distinct_tokens: ids, distinct_positions: positions, expand, offsets }
    }
}

impl<D: Memory> PackedBatch<D> {
    /// Packs sequences of token ids, each at least one token long.
    pub fn new<S: AsRef<[u32]>>(device: &D, sequences: &[S]) -> Self {
        let Packing { distinct_tokens, distinct_positions, expand, offsets } = Packing::new(sequences);
        let count = sequences.len();
        let one_each: Vec<u32> = (0..=count as u32).collect();
        PackedBatch {
            distinct_tokens: device.index(&distinct_tokens),
            distinct_positions: device.index(&distinct_positions),
            distinct: distinct_tokens.len(),
            expand: device.row_index(&expand, distinct_tokens.len()),
            tokens: expand.len(),
            cls: device.row_index(&offsets[..count], expand.len()),
            offsets: device.index(&offsets),
            cls_offsets: device.index(&one_each),
            sequences: count,
        }
    }
}

/// Cuts sequences of the given lengths into contiguous chunks of about `target` tokens: as equal as whole
/// sequences allow, and a multiple of `workers` in number, so that workers finish together.
pub fn chunks(lengths: &[usize], target: usize, workers: usize) -> Vec<std::ops::Range<usize>> {
    let total: usize = lengths.iter().sum();
    let count = total.div_ceil(target.max(1)).next_multiple_of(workers.max(1)).min(lengths.len().max(1));
    let mut ranges = Vec::with_capacity(count);
    let (mut first, mut done) = (0, 0);
    for c in 1..=count {
        let goal = total * c / count;
        let mut end = first;
        // A sequence goes to the chunk that its middle lies in.
        while end < lengths.len() && (c == count || done + lengths[end] / 2 < goal) {
            done += lengths[end];
            end += 1;
        }
        if end > first {
            ranges.push(first..end);
        }
        first = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::{Cpu, Isa};

    #[test]
    fn equal_pairs_are_kept_once() {
        let cpu = Cpu::new(Isa::available()[0]);
        let batch = PackedBatch::new(&cpu, &[vec![1, 5, 6, 2], vec![1, 5, 2], vec![1, 6, 5, 2]]);
        assert_eq!(&*batch.distinct_tokens, [1, 5, 6, 2, 2, 6, 5]);
        assert_eq!(&*batch.distinct_positions, [0, 1, 2, 3, 2, 1, 2]);
        assert_eq!(&*batch.expand, [0, 1, 2, 3, 0, 1, 4, 0, 5, 6, 3]);
        assert_eq!((&*batch.offsets, &*batch.cls), (&[0, 4, 7, 11][..], &[0, 4, 7][..]));
        assert_eq!((batch.tokens, batch.sequences, &*batch.cls_offsets), (11, 3, &[0, 1, 2, 3][..]));
    }

    #[test]
    fn chunks_cover_everything_in_order_and_evenly() {
        let lengths: Vec<usize> = (0..100).map(|i| 5 + i * 7 % 40).collect();
        for workers in [1, 2, 3, 64, 1000] {
            let ranges = chunks(&lengths, 160, workers);
            assert_eq!(
                ranges.iter().flat_map(Clone::clone).collect::<Vec<_>>(),
                (0..100).collect::<Vec<_>>()
            );
            if workers <= 3 {
                assert_eq!(ranges.len() % workers, 0);
                let sizes: Vec<usize> = ranges.iter().map(|r| lengths[r.clone()].iter().sum()).collect();
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 2 * 44, "{sizes:?}");
            }
        }
        assert_eq!(chunks(&[7], 100, 8), vec![0..1]);
        assert!(chunks(&[], 100, 8).is_empty());
    }
}
