//! Attention at the lengths of hypotheses, at long ones, and from [CLS] alone, forward and backward.

use criterion::Criterion;
use lorb_engine::device::Memory;
use lorb_engine::ops::attention::{Attention, Inputs, Shape};

use crate::roofline::{Machine, Work, values};
use crate::{Model, TOKENS};

pub fn all(criterion: &mut Criterion, machine: &Machine, model: Model) {
    for (length, cls) in [(24, false), (128, false), (384, false), (24, true)] {
        bench(criterion, machine, model, length, cls);
    }
}

fn bench(criterion: &mut Criterion, machine: &Machine, model: Model, length: usize, cls: bool) {
    let (cpu, h) = (&machine.cpu, model.hidden);
    let sequences = TOKENS / length;
    let queries = if cls { sequences } else { TOKENS };
    let offsets = |step: usize| cpu.index(&(0..=sequences).map(|s| (s * step) as u32).collect::<Vec<_>>());
    let (query_offsets, key_offsets) = (offsets(queries / sequences), offsets(length));
    let shape = Shape {
        heads: model.heads,
        head_size: h / model.heads,
        query_offsets: &query_offsets,
        key_offsets: &key_offsets,
        single_query: cls,
    };
    let tensor = |rows: usize, columns: usize| cpu.upload(&values(rows * columns), rows, columns);
    let inputs = match cls {
        true => Inputs::Split(tensor(queries, h), tensor(TOKENS, 2 * h)),
        false => Inputs::Fused(tensor(TOKENS, 3 * h)),
    };
    let what = format!("{sequences} x {length} tokens{}", if cls { " from [CLS]" } else { "" });
    // Queries and results; keys and values.
    let (product, of_queries, of_keys) = (2 * h * queries * length, queries * h, 2 * TOKENS * h);
    let work = Work::new(2 * product, 2 * of_queries + of_keys);
    let (y, log_sum_exp) = cpu.attention(shape, &inputs);
    machine.bench(criterion, model, &format!("attention, {what}"), work, || cpu.attention(shape, &inputs));

    // The scores again, and four products of gradients.
    let work = Work::new(5 * product, 4 * of_queries + 2 * of_keys);
    let dy = tensor(queries, h);
    let backward = || cpu.attention_backward(shape, &inputs, &y, &log_sum_exp, &dy);
    machine.bench(criterion, model, &format!("attention backward, {what}"), work, backward);
}
