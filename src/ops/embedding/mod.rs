//! Word, position and segment embeddings, summed and normalised (BERT's `embeddings`).

mod cpu;
pub mod cuda;

use crate::bert::Weights;
use crate::device::Memory;

/// The tables of a checkpoint: word [vocab, H], position [max_positions, H], segment [types, H], and the
/// LayerNorm that follows them. Hypotheses are single sentences, so segment 0 is always meant.
#[derive(Clone)]
pub struct EmbeddingTables {
    pub hidden: usize,
    pub words: Weights,
    pub positions: Weights,
    pub segments: Weights,
    pub gamma: Weights,
    pub beta: Weights,
    pub eps: f32,
}

/// The embedding on a device.
pub trait Embedding: Memory {
    type Tables: Send + Sync;

    fn embedding_tables(&self, tables: EmbeddingTables) -> Self::Tables;

    /// LayerNorm(word + position + segment): [tokens.len(), H].
    ///
    /// # Panics
    /// For a token id or position that the tables have no row for.
    fn embedding(&self, tables: &Self::Tables, tokens: &Self::Index, positions: &Self::Index)
    -> Self::Tensor;
}
