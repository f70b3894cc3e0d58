//! Scores of token sequences: packed, cut into chunks for the workers, each distinct sequence once.

mod adapters;
mod bank;
mod cuda;
mod plan;

pub use bank::{Bank, Seat};
pub use cuda::{BATCH_TOKENS, Pending};
pub(crate) use plan::{Place, Plan};

use rayon::prelude::*;

use crate::Result;
use crate::bert::encoder::Operands;
use crate::bert::{AnyEncoder, Encoder, PackedBatch};
use crate::device::AnyDevice;
use crate::device::cpu::Cpu;
use crate::lora::Adapter;
use crate::model::BaseModel;
use crate::tape::Tape;
use adapters::Adapters;
use plan::Chunk;

/// Tokens of a chunk, at most. Each chunk streams all weights once, which outweighs keeping its activations
/// in a smaller cache: with 384 tokens rather than 160, a 30-best list took 0.7 times as long (MiniLM, two
/// cores with AVX-512).
pub const CHUNK_TOKENS: usize = 384;

/// A model with its adapters, ready to score.
pub struct Scorer(Kind);

enum Kind {
    Cpu(Box<CpuScorer>),
    Cuda(Box<cuda::CudaScorer>),
}

struct CpuScorer {
    cpu: Cpu,
    encoder: Encoder<Cpu>,
    adapters: Adapters<Cpu>,
}

impl Scorer {
    /// Packs the base and its adapters, one or many: those of one rank and the same targets share batches.
    ///
    /// # Errors
    /// As for [`AnyEncoder::load`].
    pub fn new(device: AnyDevice, model: &BaseModel, adapters: &[&Adapter]) -> Result<Scorer> {
        Ok(Scorer(match AnyEncoder::load(device, &model.config, &model.checkpoint, false)? {
            AnyEncoder::Cpu(cpu, encoder) => {
                let adapters = Adapters::new(&cpu, &encoder, adapters);
                Kind::Cpu(Box::new(CpuScorer { cpu, encoder, adapters }))
            }
            AnyEncoder::Cuda(cuda, encoder) => {
                Kind::Cuda(Box::new(cuda::CudaScorer::new(cuda, encoder, adapters)?))
            }
        }))
    }

    /// g of each sequence of token ids, by the first adapter.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where a GPU fails.
    pub fn scores<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Vec<f32>> {
        self.scores_of(&sequences.iter().map(|s| (0, s)).collect::<Vec<_>>())
    }

    /// g of each sequence of token ids by the adapter of that number. A score depends on its sequence and
    /// adapter alone, to the bit.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where a GPU fails.
    ///
    /// # Panics
    /// Where there is no such adapter.
    pub fn scores_of<S: AsRef<[u32]>>(&self, sequences: &[(usize, S)]) -> Result<Vec<f32>> {
        match &self.0 {
            Kind::Cpu(s) => {
                let batch = |chunk: &Chunk| (s.adapters.operands(chunk), s.adapters.batch(&s.cpu, chunk));
                Ok(on_all_cores(&s.cpu, &s.encoder, s.adapters.places(sequences), batch))
            }
            Kind::Cuda(scorer) => scorer.start(sequences)?.wait(),
        }
    }

    /// Asks a GPU for what [`scores_of`](Self::scores_of) gives, and does not wait for it; `None` where the
    /// scores are the CPU's, which does nothing by itself.
    ///
    /// # Errors
    /// As for [`scores_of`](Self::scores_of).
    ///
    /// # Panics
    /// As for [`scores_of`](Self::scores_of).
    pub fn start<S: AsRef<[u32]>>(&self, sequences: &[(usize, S)]) -> Result<Option<Pending>> {
        match &self.0 {
            Kind::Cpu(_) => Ok(None),
            Kind::Cuda(scorer) => scorer.start(sequences).map(Some),
        }
    }
}

/// g of each sequence, by an encoder and an adapter that are already there.
pub fn scores<S: AsRef<[u32]>>(
    cpu: &Cpu,
    encoder: &Encoder<Cpu>,
    operands: &Operands<Cpu>,
    sequences: &[S],
) -> Vec<f32> {
    let sequences = sequences.iter().map(|s| (Place::default(), s.as_ref()));
    on_all_cores(cpu, encoder, sequences, |chunk| (operands, PackedBatch::new(cpu, &chunk.tokens())))
}

fn on_all_cores<'s, 'o>(
    cpu: &Cpu,
    encoder: &Encoder<Cpu>,
    sequences: impl Iterator<Item = (Place, &'s [u32])>,
    batch: impl Fn(&Chunk) -> (&'o Operands<Cpu>, PackedBatch<Cpu>) + Sync,
) -> Vec<f32> {
    let plan = Plan::new(sequences, CHUNK_TOKENS, rayon::current_num_threads());
    let of_chunk = |chunk: &Chunk| {
        let (operands, batch) = batch(chunk);
        let scored = encoder.forward(cpu, operands, &batch, None, &mut Tape::idle());
        scored.scores.value.values()
    };
    let all = || plan.chunks.par_iter().flat_map_iter(of_chunk).collect();
    let scored: Vec<f32> = cpu.recorder().phase("score", all);
    plan.spread.of(&scored)
}
