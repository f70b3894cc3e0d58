//! Sequences without padding: all tokens in one row of rows, with the offsets of the sequences.

use std::collections::HashMap;

use crate::device::{Memory, Run};
use crate::profile::Work;

/// Sequences packed for a device.
pub struct PackedBatch<D: Memory> {
    /// One token id and position per distinct pair of them: hypotheses of a list share most. Of each adapter,
    /// since layer 0's projections are adapted.
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
    /// Whose the rows are; `None` where all are the first adapter's.
    pub segments: Option<RowSegments<D>>,
}

/// Whose the rows are: of the distinct pairs, of the tokens, and of the [CLS].
pub struct RowSegments<D: Memory> {
    pub distinct: D::Segments,
    pub tokens: D::Segments,
    pub cls: D::Segments,
}

/// Sequences packed, still on the host. The fields are those of [`PackedBatch`].
pub struct Packing {
    pub distinct_tokens: Vec<u32>,
    pub distinct_positions: Vec<u32>,
    pub expand: Vec<u32>,
    pub offsets: Vec<u32>,
    /// For the sequences of one adapter after the other: the number of distinct pairs, tokens and sequences.
    runs: Vec<(usize, [usize; 3])>,
}

impl Packing {
    /// Packs sequences of token ids, each at least one token long, with the number of their adapter. Best if
    /// those of one adapter stand together.
    pub fn new<S: AsRef<[u32]>>(sequences: impl IntoIterator<Item = (usize, S)>) -> Packing {
        let mut pairs = HashMap::new();
        let (mut ids, mut positions, mut expand) = (Vec::new(), Vec::new(), Vec::new());
        let mut offsets = vec![0u32];
        let mut runs: Vec<(usize, [usize; 3])> = Vec::new();
        for (adapter, sequence) in sequences {
            let before = ids.len();
            for (position, &id) in sequence.as_ref().iter().enumerate() {
                let next = ids.len() as u32;
                let pair = *pairs.entry((adapter, id, position as u32)).or_insert(next);
                if pair == next {
                    ids.push(id);
                    positions.push(position as u32);
                }
                expand.push(pair);
            }
            offsets.push(expand.len() as u32);
            if runs.last().is_none_or(|(last, _)| *last != adapter) {
                runs.push((adapter, [0; 3]));
            }
            let added = [ids.len() - before, sequence.as_ref().len(), 1];
            let (_, counts) = runs.last_mut().expect("just pushed");
            counts.iter_mut().zip(added).for_each(|(count, n)| *count += n);
        }
        Packing { distinct_tokens: ids, distinct_positions: positions, expand, offsets, runs }
    }

    /// Whose the distinct pairs, the tokens and the [CLS] are.
    pub fn runs(&self) -> [Vec<Run>; 3] {
        let of = |kind: usize| {
            self.runs.iter().map(|(adapter, rows)| Run { rows: rows[kind], adapter: *adapter }).collect()
        };
        [of(0), of(1), of(2)]
    }
}

impl<D: Memory> PackedBatch<D> {
    /// Packs sequences of token ids, each at least one token long, of one adapter.
    pub fn new<S: AsRef<[u32]>>(device: &D, sequences: &[S]) -> Self {
        let pack = || Self::upload(device, &Packing::new(sequences.iter().map(|s| (0, s))));
        device.operation("pack batch", |_| Work::default(), pack)
    }

    /// Packs sequences as [`new`](Self::new) does, each with the number of its adapter among those of the operands.
    pub fn of_adapters<S: AsRef<[u32]>>(device: &D, sequences: &[(usize, S)]) -> Self {
        let packing = Packing::new(sequences.iter().map(|(adapter, s)| (*adapter, s)));
        let [distinct, tokens, cls] = packing.runs().map(|runs| device.segments(&runs));
        PackedBatch {
            segments: Some(RowSegments { distinct, tokens, cls }),
            ..Self::upload(device, &packing)
        }
    }

    fn upload(device: &D, packing: &Packing) -> Self {
        let Packing { distinct_tokens, distinct_positions, expand, offsets, .. } = packing;
        let count = offsets.len() - 1;
        let one_each: Vec<u32> = (0..=count as u32).collect();
        PackedBatch {
            distinct_tokens: device.index(distinct_tokens),
            distinct_positions: device.index(distinct_positions),
            distinct: distinct_tokens.len(),
            expand: device.row_index(expand, distinct_tokens.len()),
            tokens: expand.len(),
            cls: device.row_index(&offsets[..count], expand.len()),
            offsets: device.index(offsets),
            cls_offsets: device.index(&one_each),
            sequences: count,
            segments: None,
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
    fn each_adapter_has_pairs_of_its_own() {
        let packing = Packing::new([(1, [7, 5]), (1, [7, 6]), (0, [7, 5]), (1, [7, 5])]);
        assert_eq!(packing.distinct_tokens, [7, 5, 6, 7, 5]);
        assert_eq!(packing.expand, [0, 1, 0, 2, 3, 4, 0, 1]);
        let runs = |rows: [usize; 3]| {
            [(1, rows[0]), (0, rows[1]), (1, rows[2])].map(|(adapter, rows)| Run { rows, adapter }).to_vec()
        };
        assert_eq!(packing.runs(), [runs([3, 2, 0]), runs([4, 2, 2]), runs([2, 1, 1])]);
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
