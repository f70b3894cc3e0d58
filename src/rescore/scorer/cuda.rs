//! Scoring on a GPU: for each size of batch the forward pass is captured once as a graph, and replayed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use super::distinct;
use crate::Result;
use crate::bert::batch::chunks;
use crate::bert::encoder::Operands;
use crate::bert::{Encoder, PackedBatch, Packing};
use crate::device::Memory;
use crate::device::cuda::memory::Block;
use crate::device::cuda::{Cuda, Graph, Index, Rows, Tensor};
use crate::lora::Adapter;
use crate::model::BaseModel;
use crate::tape::Tape;

/// Tokens of a batch, at most: enough to fill a GPU, and a bound for its memory.
pub const BATCH_TOKENS: usize = 4096;

/// A model on the GPU, ready to score.
pub struct CudaScorer {
    cuda: Cuda,
    encoder: Encoder<Cuda>,
    operands: Operands<Cuda>,
    /// By room for tokens and sequences.
    buckets: Mutex<HashMap<(usize, usize), Bucket>>,
}

impl CudaScorer {
    /// Copies the base and the adapter to the GPU.
    ///
    /// # Errors
    /// Where a tensor of the base is missing or has another shape, the model is too large for the kernels, or
    /// the GPU fails.
    pub fn new(cuda: Cuda, model: &BaseModel, adapter: &Adapter) -> Result<CudaScorer> {
        cuda.accept(&model.config)?;
        let encoder = Encoder::load(&cuda, &model.config, &model.checkpoint, false)?;
        let operands = encoder.operands(&cuda, adapter, &cuda.parameters(&adapter.values));
        cuda.check()?;
        Ok(CudaScorer { cuda, encoder, operands, buckets: Mutex::default() })
    }

    /// g of each sequence of token ids.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the GPU fails.
    pub fn scores<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Vec<f32>> {
        let (distinct, which) = distinct(sequences);
        let lengths: Vec<usize> = distinct.iter().map(|s| s.len()).collect();
        let mut scored = Vec::with_capacity(distinct.len());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        for range in chunks(&lengths, BATCH_TOKENS, 1) {
            let packing = Packing::new(&distinct[range]);
            let size = (room(packing.expand.len(), 64), room(packing.offsets.len() - 1, 8));
            let bucket = match buckets.entry(size) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(Bucket::capture(&self.cuda, &self.encoder, &self.operands, size)?)
                }
            };
            scored.extend(bucket.scores(&packing)?);
        }
        Ok(which.into_iter().map(|i| scored[i]).collect())
    }
}

/// `n` rounded up to a power of two or one and a half of it, at least `least`: a graph for each size is worth
/// its memory, and blocks of the grid past the rows in use end at once.
fn room(n: usize, least: usize) -> usize {
    let above = n.max(least).next_power_of_two();
    if n <= above / 4 * 3 && above > least { above / 4 * 3 } else { above }
}

/// The forward pass of batches up to one size.
struct Bucket {
    cuda: Cuda,
    numbers: Numbers,
    scores: Tensor,
    graph: Box<dyn Graph>,
}

impl Bucket {
    fn capture(
        cuda: &Cuda,
        encoder: &Encoder<Cuda>,
        operands: &Operands<Cuda>,
        size: (usize, usize),
    ) -> Result<Bucket> {
        let cuda = cuda.with_own_memory();
        let numbers = Numbers::new(&cuda, size);
        let batch = numbers.batch();
        let forward = || encoder.forward(&cuda, operands, &batch, None, &mut Tape::idle()).scores.value;
        // Once for the memory that it takes: a graph cannot wait for an allocation.
        numbers.write(&cuda, &Packing::new(&[[0u32]]));
        drop(forward());
        let (scores, graph) = cuda.capture(forward)?;
        Ok(Bucket { cuda, numbers, scores, graph })
    }

    fn scores(&self, packing: &Packing) -> Result<Vec<f32>> {
        self.numbers.write(&self.cuda, packing);
        self.cuda.check()?;
        // SAFETY: the graph's memory is that of `self.cuda`, whose pool nobody else takes from, and that of
        // the scorer that owns this bucket with its encoder and operands.
        unsafe { self.graph.launch()? };
        let mut scores = self.cuda.download(&self.scores)?;
        scores.truncate(packing.offsets.len() - 1);
        Ok(scores)
    }
}

/// Everything that a batch tells the kernels, in one block that is written by one copy.
struct Numbers {
    block: Arc<Block>,
    places: Places,
    tokens: usize,
    sequences: usize,
}

/// Places in the block, in u32: counts of distinct pairs, tokens, sequences and offsets; then the lists.
struct Places {
    tokens: usize,
    positions: usize,
    expand: usize,
    offsets: usize,
    one_each: usize,
    end: usize,
}

impl Places {
    fn new(tokens: usize, sequences: usize) -> Places {
        let (tokens, offsets) = (tokens.next_multiple_of(ALIGNED), (sequences + 1).next_multiple_of(ALIGNED));
        let first = ALIGNED;
        Places {
            tokens: first,
            positions: first + tokens,
            expand: first + 2 * tokens,
            offsets: first + 3 * tokens,
            one_each: first + 3 * tokens + offsets,
            end: first + 3 * tokens + 2 * offsets,
        }
    }
}

const COUNTS: usize = 4;
/// Lists start at multiples of 256 bytes.
const ALIGNED: usize = 64;

impl Numbers {
    fn new(cuda: &Cuda, (tokens, sequences): (usize, usize)) -> Numbers {
        let places = Places::new(tokens, sequences);
        Numbers { block: Arc::new(cuda.block(places.end * size_of::<u32>())), places, tokens, sequences }
    }

    /// The batch as kernels see it. There may be as many distinct pairs as tokens.
    fn batch(&self) -> PackedBatch<Cuda> {
        let places = &self.places;
        let index = |place: usize, capacity: usize, count: usize| {
            let rows = Rows::live(capacity, self.block.clone(), count * size_of::<u32>());
            Index::within(self.block.clone(), place * size_of::<u32>(), rows)
        };
        PackedBatch {
            distinct_tokens: index(places.tokens, self.tokens, 0),
            distinct_positions: index(places.positions, self.tokens, 0),
            distinct: self.tokens,
            expand: index(places.expand, self.tokens, 1),
            tokens: self.tokens,
            offsets: index(places.offsets, self.sequences + 1, 3),
            // The first token of a sequence is its [CLS].
            cls: index(places.offsets, self.sequences, 2),
            cls_offsets: index(places.one_each, self.sequences + 1, 3),
            sequences: self.sequences,
        }
    }

    fn write(&self, cuda: &Cuda, packing: &Packing) {
        let places = &self.places;
        let count = packing.offsets.len() - 1;
        assert!(packing.expand.len() <= self.tokens && count <= self.sequences, "no room for the batch");
        let counts: [usize; COUNTS] = [packing.distinct_tokens.len(), packing.expand.len(), count, count + 1];
        let mut numbers = vec![0u32; places.end];
        counts.iter().zip(&mut numbers).for_each(|(&count, number)| *number = count as u32);
        let one_each: Vec<u32> = (0..=count as u32).collect();
        for (place, list) in [
            (places.tokens, &packing.distinct_tokens),
            (places.positions, &packing.distinct_positions),
            (places.expand, &packing.expand),
            (places.offsets, &packing.offsets),
            (places.one_each, &one_each),
        ] {
            numbers[place..place + list.len()].copy_from_slice(list);
        }
        cuda.write(self.block.address(), &numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_and_little_of_it_is_wasted() {
        for n in 1..=5000 {
            let found = room(n, 64);
            assert!(found >= n && (found == 64 || 2 * found <= 3 * n + 2), "{n}: {found}");
        }
        assert_eq!([1, 64, 65, 96, 97, 129].map(|n| room(n, 64)), [64, 64, 96, 96, 128, 192]);
    }
}
