use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::{Embedding, EmbeddingTables};
use crate::device::cuda::kernels::{EMBEDDING_BF16, EMBEDDING_F32};
use crate::device::cuda::memory::Block;
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Bounds, Cuda, Flat, Index, Precision, Tensor, tiles};

/// `Embedding` of kernels/embedding.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct EmbeddingParameters {
    tokens: Address,
    positions: Address,
    words: Address,
    places: Address,
    segment: Address,
    gamma: Address,
    beta: Address,
    y: Address,
    rows: RowsParameter,
    width: u32,
    eps: f32,
}

/// The tables in the device's precision, gamma and beta as f32.
pub struct Tables {
    hidden: usize,
    words: Arc<Block>,
    vocabulary: usize,
    positions: Arc<Block>,
    max_positions: usize,
    /// Segment 0 alone.
    segment: Arc<Block>,
    gamma: Flat,
    beta: Flat,
    eps: f32,
}

impl Embedding for Cuda {
    type Tables = Tables;

    fn embedding_tables(&self, tables: EmbeddingTables) -> Tables {
        let hidden = tables.hidden;
        assert!(hidden <= tiles::LAYER_NORM_WIDTH as usize);
        Tables {
            hidden,
            words: self.upload_weights(&tables.words),
            vocabulary: tables.words.len() / hidden,
            positions: self.upload_weights(&tables.positions),
            max_positions: tables.positions.len() / hidden,
            segment: self.upload_weights(&tables.segments[..hidden]),
            gamma: self.upload_flat(&tables.gamma),
            beta: self.upload_flat(&tables.beta),
            eps: tables.eps,
        }
    }

    fn embedding(&self, tables: &Tables, tokens: &Index, positions: &Index) -> Tensor {
        let rows = tokens.rows();
        assert_eq!(rows.capacity, positions.rows().capacity, "one position a token");
        assert!(tokens.bounds().keep_to(Bounds::numbers_of(tables.vocabulary)), "no such token");
        assert!(positions.bounds().keep_to(Bounds::numbers_of(tables.max_positions)), "no such position");
        let y = self.activations(rows.clone(), tables.hidden);
        let parameters = EmbeddingParameters {
            tokens: tokens.address(),
            positions: positions.address(),
            words: tables.words.address(),
            places: tables.positions.address(),
            segment: tables.segment.address(),
            gamma: tables.gamma.address(),
            beta: tables.beta.address(),
            y: y.address(),
            rows: rows.parameter(),
            width: tables.hidden as u32,
            eps: tables.eps,
        };
        let kernel = match self.precision() {
            Precision::F32 => EMBEDDING_F32,
            Precision::Bf16 => EMBEDDING_BF16,
        };
        let grid = [(rows.capacity as u32).div_ceil(tiles::LAYER_NORM_THREADS / 32), 1, 1];
        // SAFETY: tokens and positions are `rows` numbers of rows of their tables; rows of the tables and of
        // y have `hidden` elements of the device's precision, gamma and beta `hidden` floats; y is new
        // memory.
        unsafe { self.launch(kernel, grid, 0, &parameters) };
        y
    }
}
