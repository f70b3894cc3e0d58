use std::sync::Arc;

use super::{Embedding, EmbeddingTables};
use crate::device::cpu::{Cpu, Matrix};
use crate::ops::layer_norm::normalise_rows;

impl Embedding for Cpu {
    type Tables = EmbeddingTables;

    fn embedding_tables(&self, tables: EmbeddingTables) -> EmbeddingTables {
        tables
    }

    fn embedding(&self, t: &EmbeddingTables, tokens: &Arc<[u32]>, positions: &Arc<[u32]>) -> Matrix {
        let h = t.hidden;
        self.fill(tokens.len(), h, |out| {
            let segment = &t.segments[..h];
            for ((row, &token), &position) in out.chunks_exact_mut(h).zip(&**tokens).zip(&**positions) {
                let word = &t.words[token as usize * h..][..h];
                let position = &t.positions[position as usize * h..][..h];
                for (((y, w), p), s) in row.iter_mut().zip(word).zip(position).zip(segment) {
                    // In the order of transformers: words and segments first, then positions.
                    *y = w + s + p;
                }
            }
            normalise_rows(self.isa(), out, h, &t.gamma, &t.beta, t.eps);
        })
    }
}
