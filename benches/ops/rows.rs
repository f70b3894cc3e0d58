//! Operations that pass over rows once: embedding, LayerNorm, gathering.

use criterion::Criterion;
use lorb_engine::device::Memory;
use lorb_engine::ops::embedding::{Embedding, EmbeddingTables};
use lorb_engine::ops::gather_rows::GatherRows;
use lorb_engine::ops::layer_norm::{LayerNorm, NormWeights};

use crate::roofline::{Machine, Work, values, weights};
use crate::{Model, TOKENS};

const VOCABULARY: usize = 8192;
const POSITIONS: usize = 512;

pub fn all(criterion: &mut Criterion, machine: &Machine, model: Model) {
    let (cpu, h) = (&machine.cpu, model.hidden);
    let elements = TOKENS * h;

    let tables = cpu.embedding_tables(EmbeddingTables {
        hidden: h,
        words: weights(VOCABULARY * h),
        positions: weights(POSITIONS * h),
        segments: weights(2 * h),
        gamma: weights(h),
        beta: weights(h),
        eps: 1e-12,
    });
    let spread: Vec<u32> = (0..TOKENS).map(|i| (i * 2_531 % VOCABULARY) as u32).collect();
    let tokens = cpu.index(&spread);
    let positions = cpu.index(&(0..TOKENS).map(|i| (i % 24) as u32).collect::<Vec<_>>());
    // Two sums, and LayerNorm's 8; a word, a position and the result.
    let work = Work::new(10 * elements, 3 * elements);
    machine.bench(criterion, model, "embedding", work, || cpu.embedding(&tables, &tokens, &positions));

    let norm = cpu.norm(NormWeights { gamma: weights(h), beta: weights(h), eps: 1e-12 });
    let x = cpu.upload(&values(elements), TOKENS, h);
    // Mean 1, variance 3, normalising 4.
    let work = Work::new(8 * elements, 2 * elements);
    machine.bench(criterion, model, "layer_norm", work, || cpu.layer_norm(&norm, &x));
    // Mean and variance again 4, x^ 2, d 1, its means 3, the result 4.
    let work = Work::new(14 * elements, 3 * elements);
    machine.bench(criterion, model, "layer_norm backward", work, || cpu.layer_norm_backward(&norm, &x, &x));

    // As layer 0's rows: three quarters of them are distinct.
    let distinct = TOKENS * 3 / 4;
    let index = cpu.row_index(&(0..TOKENS).map(|i| (i % distinct) as u32).collect::<Vec<_>>(), distinct);
    let rows = cpu.upload(&values(distinct * h), distinct, h);
    let work = Work::new(0, 2 * elements);
    machine.bench(criterion, model, "gather_rows", work, || cpu.gather_rows(&rows, &index));
    let work = Work::new(elements, elements + distinct * h);
    let scatter = || cpu.scatter_rows(&x, &index, distinct, None);
    machine.bench(criterion, model, "gather_rows backward", work, scatter);
}
