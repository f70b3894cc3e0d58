//! Scoring on a GPU: for each size of batch the forward pass is captured once as a graph, and replayed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use super::adapters::Adapters;
use super::plan::{Chunk, Plan, Spread};
use crate::Result;
use crate::bert::batch::RowSegments;
use crate::bert::encoder::Operands;
use crate::bert::{Config, Encoder, PackedBatch, Packing};
use crate::device::cuda::memory::Block;
use crate::device::cuda::{Bounds, Cuda, Fetched, Graph, Index, Room, Rows, Segments, Tensor};
use crate::lora::Adapter;
use crate::tape::Tape;

/// Tokens of a batch, at most: enough to fill a GPU, and a bound for its memory.
pub const BATCH_TOKENS: usize = 4096;

/// A model on the GPU, ready to score.
pub struct CudaScorer {
    /// With the memory of all graphs: they run one after the other, so each may use it whole.
    cuda: Cuda,
    encoder: Encoder<Cuda>,
    adapters: Adapters<Cuda>,
    buckets: Mutex<HashMap<Size, Bucket>>,
}

/// What a graph is captured for: the operands, and room for tokens and sequences.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Size {
    operands: usize,
    /// How many adapters they have.
    adapters: usize,
    tokens: usize,
    sequences: usize,
}

impl CudaScorer {
    /// Copies the adapters to the GPU, which has the base.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the GPU fails.
    pub fn new(cuda: Cuda, encoder: Encoder<Cuda>, adapters: &[&Adapter]) -> Result<CudaScorer> {
        let adapters = Adapters::new(&cuda, &encoder, adapters);
        cuda.check()?;
        Ok(CudaScorer { cuda: cuda.with_own_memory(), encoder, adapters, buckets: Mutex::default() })
    }

    /// Asks for g of each sequence of token ids by the adapter of that number.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the GPU fails.
    ///
    /// # Panics
    /// Where there is no such adapter or token, or a sequence has no tokens or too many.
    pub fn start<S: AsRef<[u32]>>(&self, sequences: &[(usize, S)]) -> Result<Pending> {
        let plan = Plan::new(self.adapters.places(sequences), BATCH_TOKENS, 1);
        let mut chunks = Vec::with_capacity(plan.chunks.len());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in &plan.chunks {
            let packing = Packing::new(chunk.sequences.iter().copied());
            let size = self.size(chunk, &packing);
            let bucket = match buckets.entry(size) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => place.insert(Bucket::capture(
                    &self.cuda,
                    &self.encoder,
                    self.adapters.operands(chunk),
                    size,
                )?),
            };
            chunks.push(bucket.start(&packing)?);
        }
        Ok(Pending { chunks, spread: plan.spread })
    }

    fn size(&self, chunk: &Chunk, packing: &Packing) -> Size {
        Size {
            operands: chunk.operands,
            adapters: self.adapters.count(chunk.operands),
            tokens: room(packing.token_ids.len(), 64),
            sequences: room(packing.offsets.len() - 1, 8),
        }
    }
}

/// Scores that a GPU was asked for.
pub struct Pending {
    chunks: Vec<Fetched>,
    spread: Spread,
}

impl Pending {
    /// Waits for them.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the GPU fails.
    pub fn wait(self) -> Result<Vec<f32>> {
        let scored = self.chunks.into_iter().map(Fetched::wait).collect::<Result<Vec<_>>>()?.concat();
        Ok(self.spread.of(&scored))
    }
}

/// `n` rounded up to a multiple of `least`, or of a sixteenth of the power of two above: so that kernels choose their
/// tiles for about what is in use. Blocks of the grid past that end at once.
fn room(n: usize, least: usize) -> usize {
    n.max(1).next_multiple_of(least.max(n.next_power_of_two() / 16))
}

/// The forward pass of batches up to one size.
struct Bucket {
    /// Dropped before what it runs on.
    graph: Box<dyn Graph>,
    cuda: Cuda,
    numbers: Numbers,
    scores: Tensor,
}

impl Bucket {
    fn capture(
        cuda: &Cuda,
        encoder: &Encoder<Cuda>,
        operands: &Operands<Cuda>,
        size: Size,
    ) -> Result<Bucket> {
        let numbers = Numbers::new(cuda, encoder.config(), size);
        let batch = numbers.batch();
        let forward = || encoder.forward(cuda, operands, &batch, None, &mut Tape::idle()).scores.value;
        // Once for the memory that it takes: a graph cannot wait for an allocation.
        numbers.write(cuda, &Packing::new([(0, [0u32])]));
        drop(forward());
        let (scores, graph) = cuda.capture(forward)?;
        Ok(Bucket { cuda: cuda.clone(), numbers, scores, graph })
    }

    fn start(&self, packing: &Packing) -> Result<Fetched> {
        self.numbers.write(&self.cuda, packing);
        self.cuda.check()?;
        // SAFETY: the graph's memory is that of `self.cuda`, whose pool graphs alone take from, one after the other
        // on the one stream. What it is given, its numbers, was written just now, and what it leaves, its scores,
        // is fetched before another graph runs. The rest is of the scorer that owns this bucket with its encoder and
        // operands.
        unsafe { self.graph.launch()? };
        self.cuda.fetch(&self.scores, packing.offsets.len() - 1)
    }
}

/// Everything that a batch tells the kernels, in one block that is written by one copy.
struct Numbers {
    block: Arc<Block>,
    places: Places,
    size: Size,
    bounds: ListBounds,
}

/// What the numbers of the lists keep to, whatever the batch.
struct ListBounds {
    token_ids: Bounds,
    positions: Bounds,
    offsets: Bounds,
    one_each: Bounds,
    cls: Bounds,
}

/// Places in the block, in u32: counts of tokens, sequences and offsets; then the lists. Last come those of which
/// the least may be in use, since the copy ends with what is: one copy of more takes less time than one for each
/// list.
struct Places {
    offsets: usize,
    /// 0, 1, 2, …, as long as the offsets: those of the [CLS].
    one_each: usize,
    /// Of the tokens and the [CLS], where there are several adapters.
    segments: Option<[(usize, Room); 2]>,
    token_ids: usize,
    positions: usize,
    end: usize,
}

impl Places {
    fn new(size: Size) -> Places {
        let mut end = COUNTS;
        let mut place = |numbers: usize| {
            let at = end.next_multiple_of(ALIGNED);
            end = at + numbers;
            at
        };
        let [offsets, one_each] = [(); 2].map(|()| place(size.sequences + 1));
        let runs = size.adapters.min(size.sequences);
        let segments = (size.adapters > 1).then(|| {
            [size.tokens, size.sequences].map(|rows| {
                let room = Room { rows, runs };
                (place(room.numbers()), room)
            })
        });
        let [token_ids, positions] = [(); 2].map(|()| place(size.tokens));
        Places { offsets, one_each, segments, token_ids, positions, end }
    }
}

const COUNTS: usize = 3;
/// Lists start at multiples of 256 bytes.
const ALIGNED: usize = 64;

impl Numbers {
    fn new(cuda: &Cuda, config: &Config, size: Size) -> Numbers {
        let places = Places::new(size);
        let block = Arc::new(cuda.block(places.end * size_of::<u32>()));
        let bounds = ListBounds {
            token_ids: Bounds::numbers_of(config.vocab),
            positions: Bounds::numbers_of(config.max_positions),
            offsets: Bounds::offsets_of(size.tokens),
            one_each: Bounds::offsets_of(size.sequences),
            cls: Bounds::numbers_of(size.tokens),
        };
        Numbers { block, places, size, bounds }
    }

    /// The batch as kernels see it.
    fn batch(&self) -> PackedBatch<Cuda> {
        let (places, bounds, Size { tokens, sequences, adapters, .. }) =
            (&self.places, &self.bounds, self.size);
        let rows = |capacity: usize, count: usize| {
            Rows::live(capacity, self.block.clone(), count * size_of::<u32>())
        };
        let index = |place: usize, rows: Rows, bounds: Bounds| {
            Index::within(self.block.clone(), place * size_of::<u32>(), rows, bounds)
        };
        let segments = |(place, room): (usize, Room)| {
            Segments::within(self.block.clone(), place * size_of::<u32>(), room, adapters)
        };
        PackedBatch {
            token_ids: index(places.token_ids, rows(tokens, 0), bounds.token_ids),
            positions: index(places.positions, rows(tokens, 0), bounds.positions),
            shared: None,
            tokens,
            offsets: index(places.offsets, rows(sequences + 1, 2), bounds.offsets),
            // The first token of a sequence is its [CLS].
            cls: index(places.offsets, rows(sequences, 1), bounds.cls),
            cls_offsets: index(places.one_each, rows(sequences + 1, 2), bounds.one_each),
            sequences,
            segments: places.segments.map(|all| {
                let [tokens, cls] = all.map(segments);
                RowSegments { tokens, cls }
            }),
        }
    }

    fn write(&self, cuda: &Cuda, packing: &Packing) {
        let (places, bounds) = (&self.places, &self.bounds);
        let (tokens, count) = (packing.token_ids.len(), packing.offsets.len() - 1);
        assert!(tokens <= self.size.tokens && count <= self.size.sequences, "no room for the batch");
        let mut numbers = vec![0u32; places.positions + tokens];
        let counts: [usize; COUNTS] = [tokens, count, count + 1];
        counts.iter().zip(&mut numbers).for_each(|(&count, number)| *number = count as u32);
        let one_each: Vec<u32> = (0..=count as u32).collect();
        // So each [CLS] is one of the tokens.
        assert!(packing.offsets.is_sorted_by(|a, b| a < b), "a sequence without tokens");
        for (place, list, bounds) in [
            (places.offsets, &packing.offsets, bounds.offsets),
            (places.one_each, &one_each, bounds.one_each),
            (places.token_ids, &packing.token_ids, bounds.token_ids),
            (places.positions, &packing.positions, bounds.positions),
        ] {
            assert!(Bounds::of(list).keep_to(bounds), "no such token or position");
            numbers[place..place + list.len()].copy_from_slice(list);
        }
        for ((place, room), runs) in places.segments.iter().flatten().zip(&packing.runs) {
            assert!(runs.iter().all(|run| run.adapter < self.size.adapters), "no such adapter");
            room.write(runs, &mut numbers[*place..place + room.numbers()]);
        }
        cuda.write(&self.block, &numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_and_little_of_it_is_wasted() {
        for n in 1..=5000 {
            let found = room(n, 64);
            assert!(found >= n && (found - n < 64 || 8 * found <= 9 * n), "{n}: {found}");
        }
        assert_eq!([1, 64, 65, 1100, 4096].map(|n| room(n, 64)), [64, 64, 128, 1152, 4096]);
    }
}
