//! Sequences without padding: all tokens in one row of rows, with the offsets of the sequences.

use std::collections::HashMap;

use crate::device::{Device, Memory, Run};
use crate::profile::Work;

/// Sequences packed for a device.
pub struct PackedBatch<D: Memory> {
    /// The token id and the position of each row that is embedded: of each token, or, where they are shared, of
    /// each distinct pair.
    pub token_ids: D::Index,
    pub positions: D::Index,
    /// Where the device [shares pairs](Device::SHARES_PAIRS).
    pub shared: Option<SharedPairs<D>>,
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

/// Distinct pairs of token and position: hypotheses of a list share most. Of each adapter, since layer 0's
/// projections are adapted.
pub struct SharedPairs<D: Memory> {
    /// The number of pairs.
    pub pairs: usize,
    /// For every token of the batch, the number of its pair.
    pub expand: D::Index,
    /// Whose the pairs are; `None` where all are the first adapter's.
    pub segments: Option<D::Segments>,
}

/// Whose the rows are: of the tokens, and of the [CLS].
pub struct RowSegments<D: Memory> {
    pub tokens: D::Segments,
    pub cls: D::Segments,
}

/// Sequences packed, still on the host. The fields are those of [`PackedBatch`].
pub struct Packing {
    pub token_ids: Vec<u32>,
    pub positions: Vec<u32>,
    shared: Option<Sharing>,
    pub offsets: Vec<u32>,
    /// Whose the tokens are, and the [CLS].
    pub runs: [Vec<Run>; 2],
}

struct Sharing {
    expand: Vec<u32>,
    /// Whose the pairs are.
    runs: Vec<Run>,
}

impl Packing {
    /// Packs sequences of token ids, each at least one token long, with the number of their adapter. Best if
    /// those of one adapter stand together. Nothing is shared.
    pub fn new<S: AsRef<[u32]>>(sequences: impl IntoIterator<Item = (usize, S)>) -> Packing {
        let (mut token_ids, mut positions, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        let mut runs = [Vec::new(), Vec::new()];
        for (adapter, sequence) in sequences {
            let sequence = sequence.as_ref();
            token_ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len() as u32);
            offsets.push(token_ids.len() as u32);
            for (runs, rows) in runs.iter_mut().zip([sequence.len(), 1]) {
                match runs.last_mut() {
                    Some(Run { rows: before, adapter: last }) if *last == adapter => *before += rows,
                    _ => runs.push(Run { rows, adapter }),
                }
            }
        }
        Packing { token_ids, positions, shared: None, offsets, runs }
    }

    /// The same with each adapter's distinct pairs of token and position once.
    fn share_pairs(self) -> Packing {
        let mut numbers = HashMap::new();
        let (mut token_ids, mut positions) = (Vec::new(), Vec::new());
        let mut expand = Vec::with_capacity(self.token_ids.len());
        let mut tokens = self.token_ids.iter().zip(&self.positions);
        let of_run = |&Run { rows, adapter }: &Run| {
            let before = token_ids.len();
            for (&id, &position) in tokens.by_ref().take(rows) {
                let next = token_ids.len() as u32;
                let pair = *numbers.entry((adapter, id, position)).or_insert(next);
                if pair == next {
                    token_ids.push(id);
                    positions.push(position);
                }
                expand.push(pair);
            }
            Run { rows: token_ids.len() - before, adapter }
        };
        let runs = self.runs[0].iter().map(of_run).collect();
        Packing { token_ids, positions, shared: Some(Sharing { expand, runs }), ..self }
    }
}

impl<D: Device> PackedBatch<D> {
    /// Packs sequences of token ids, each at least one token long, of one adapter.
    pub fn new<S: AsRef<[u32]>>(device: &D, sequences: &[S]) -> Self {
        let pack = || Self::pack(device, Packing::new(sequences.iter().map(|s| (0, s))), false);
        device.operation("pack batch", |_| Work::default(), pack)
    }

    /// Packs sequences as [`new`](Self::new) does, each with the number of its adapter among those of the operands.
    pub fn of_adapters<S: AsRef<[u32]>>(device: &D, sequences: &[(usize, S)]) -> Self {
        Self::pack(device, Packing::new(sequences.iter().map(|(adapter, s)| (*adapter, s))), true)
    }

    fn pack(device: &D, packing: Packing, several_adapters: bool) -> Self {
        let packing = if D::SHARES_PAIRS { packing.share_pairs() } else { packing };
        Self::upload(device, &packing, several_adapters)
    }

    fn upload(device: &D, packing: &Packing, several_adapters: bool) -> Self {
        let Packing { token_ids, positions, shared, offsets, runs } = packing;
        let (sequences, tokens) = (offsets.len() - 1, offsets[offsets.len() - 1] as usize);
        let one_each: Vec<u32> = (0..=sequences as u32).collect();
        let shared = shared.as_ref().map(|Sharing { expand, runs }| SharedPairs {
            pairs: token_ids.len(),
            expand: device.row_index(expand, token_ids.len()),
            segments: several_adapters.then(|| device.segments(runs)),
        });
        let segments = several_adapters.then(|| {
            let [tokens, cls] = runs.each_ref().map(|runs| device.segments(runs));
            RowSegments { tokens, cls }
        });
        PackedBatch {
            token_ids: device.index(token_ids),
            positions: device.index(positions),
            shared,
            tokens,
            offsets: device.index(offsets),
            cls: device.row_index(&offsets[..sequences], tokens),
            cls_offsets: device.index(&one_each),
            sequences,
            segments,
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

    fn runs<const N: usize>(of: [(usize, usize); N]) -> Vec<Run> {
        of.map(|(adapter, rows)| Run { rows, adapter }).to_vec()
    }

    #[test]
    fn tokens_stand_in_their_order_or_equal_pairs_once() {
        let cpu = Cpu::new(Isa::available()[0]);
        let sequences = [vec![1, 5, 6, 2], vec![1, 5, 2], vec![1, 6, 5, 2]];
        let packing = Packing::new(sequences.iter().map(|s| (0, s)));
        let each = PackedBatch::upload(&cpu, &packing, false);
        assert_eq!(&*each.token_ids, [1, 5, 6, 2, 1, 5, 2, 1, 6, 5, 2]);
        assert_eq!(&*each.positions, [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]);
        assert!(each.shared.is_none());

        let once = PackedBatch::new(&cpu, &sequences);
        assert_eq!(&*once.token_ids, [1, 5, 6, 2, 2, 6, 5]);
        assert_eq!(&*once.positions, [0, 1, 2, 3, 2, 1, 2]);
        let shared = once.shared.as_ref().expect("the CPU shares pairs");
        assert_eq!((shared.pairs, &*shared.expand), (7, &[0, 1, 2, 3, 0, 1, 4, 0, 5, 6, 3][..]));
        assert!(shared.segments.is_none());

        for batch in [each, once] {
            assert_eq!((&*batch.offsets, &*batch.cls), (&[0, 4, 7, 11][..], &[0, 4, 7][..]));
            assert_eq!((batch.tokens, batch.sequences, &*batch.cls_offsets), (11, 3, &[0, 1, 2, 3][..]));
            assert!(batch.segments.is_none());
        }
    }

    #[test]
    fn each_adapter_has_pairs_of_its_own() {
        let each = Packing::new([(1, [7, 5]), (1, [7, 6]), (0, [7, 5]), (1, [7, 5])]);
        let rows = [runs([(1, 4), (0, 2), (1, 2)]), runs([(1, 2), (0, 1), (1, 1)])];
        assert_eq!((&each.token_ids[..], &each.runs), (&[7, 5, 7, 6, 7, 5, 7, 5][..], &rows));
        let once = each.share_pairs();
        assert_eq!((&once.token_ids[..], &once.runs), (&[7, 5, 6, 7, 5][..], &rows));
        let shared = once.shared.expect("just shared");
        assert_eq!(shared.expand, [0, 1, 0, 2, 3, 4, 0, 1]);
        assert_eq!(shared.runs, runs([(1, 3), (0, 2), (1, 0)]));
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
