mod backward;
mod forward;
mod product;

use std::ops::Range;

use super::{Attention, Inputs, Shape};
use crate::device::cpu::gemm::shape as vector_shape;
use crate::device::cpu::{Cpu, Matrix};
use crate::profile::Work;
use backward::{BLOCK, gradients};
use forward::attend;
use product::{GROUP, Rows};

impl Attention for Cpu {
    fn attention(&self, shape: Shape<'_, Cpu>, inputs: &Inputs<Matrix>) -> (Matrix, Matrix) {
        let (q, k, v) = parts(&shape, inputs);
        let h = shape.heads * shape.head_size;
        let mut lse = self.scratch(q.rows() * shape.heads);
        let longest = self.longest(&shape);
        let mut transposed = self.scratch(shape.head_size * longest);
        let mut scores = self.scratch(GROUP * longest);
        let y = self.fill(q.rows(), h, |y| {
            for head in heads(&shape) {
                let (queries, keys, columns) = (&head.queries, &head.keys, &head.columns);
                let y = &mut y[queries.start * h + columns.start..];
                let lse = &mut lse[queries.start * shape.heads + head.number..];
                assert!(y.len() >= (queries.len() - 1) * h + shape.head_size);
                assert!(lse.len() > (queries.len() - 1) * shape.heads);
                let operands = forward::Operands {
                    q: block(&q, queries, columns),
                    k: block(&k, keys, columns),
                    v: block(&v, keys, columns),
                    queries: queries.len(),
                    keys: keys.len(),
                    size: shape.head_size,
                    scale: shape.scale(),
                    transposed: transposed.as_mut_ptr(),
                    scores: scores.as_mut_ptr(),
                    y: Rows { data: y.as_mut_ptr(), stride: h },
                    lse: Rows { data: lse.as_mut_ptr(), stride: shape.heads },
                };
                // SAFETY: `block` holds the rows and columns of the operands, and there are keys; the scratch is for the
                // most keys; the assertions vouch for the output.
                unsafe { attend(self.isa(), operands) }
            }
        });
        let queries = q.rows();
        (y, Matrix::new(lse, queries, shape.heads))
    }

    fn attention_product(shape: Shape<'_, Cpu>) -> Work {
        let sequences = shape.query_offsets.windows(2).zip(shape.key_offsets.windows(2));
        let pairs = sequences.map(|(q, k)| ((q[1] - q[0]) * (k[1] - k[0])) as usize).sum();
        Work::product(pairs, shape.heads * shape.head_size, 1)
    }

    fn attention_backward(
        &self,
        shape: Shape<'_, Cpu>,
        inputs: &Inputs<Matrix>,
        output: &Matrix,
        log_sum_exp: &Matrix,
        dy: &Matrix,
    ) -> Inputs<Matrix> {
        let h = shape.heads * shape.head_size;
        let gradients = |d: [Rows; 3]| self.gradients(&shape, inputs, output, log_sum_exp, dy, d);
        match inputs {
            Inputs::Fused(x) => Inputs::Fused(self.fill(x.rows(), 3 * h, |d| {
                let d = d.as_mut_ptr();
                gradients([0, h, 2 * h].map(|first| Rows { data: d.wrapping_add(first), stride: 3 * h }));
            })),
            Inputs::Split(q, kv) => {
                let mut dq = self.scratch(q.rows() * h);
                let dkv = self.fill(kv.rows(), 2 * h, |dkv| {
                    let dkv = dkv.as_mut_ptr();
                    let [dk, dv] = [0, h].map(|first| Rows { data: dkv.wrapping_add(first), stride: 2 * h });
                    gradients([Rows { data: dq.as_mut_ptr(), stride: h }, dk, dv]);
                });
                let queries = q.rows();
                Inputs::Split(Matrix::new(dq, queries, h), dkv)
            }
        }
    }
}

/// One head of one sequence.
struct Head {
    number: usize,
    /// The head's columns of Q, K, V and of the output.
    columns: Range<usize>,
    queries: Range<usize>,
    keys: Range<usize>,
}

fn heads(shape: &Shape<'_, Cpu>) -> impl Iterator<Item = Head> {
    let (count, size) = (shape.heads, shape.head_size);
    assert!(shape.query_offsets.is_sorted() && shape.key_offsets.is_sorted(), "offsets ascend");
    let ranges =
        |offsets: &[u32]| -> Vec<_> { offsets.windows(2).map(|w| w[0] as usize..w[1] as usize).collect() };
    debug_assert!(
        !shape.single_query || shape.query_offsets.iter().copied().eq(0..shape.key_offsets.len() as u32)
    );
    let sequences = ranges(shape.query_offsets).into_iter().zip(ranges(shape.key_offsets));
    sequences.filter(|(q, k)| !q.is_empty() && !k.is_empty()).flat_map(move |(queries, keys)| {
        (0..count).map(move |number| Head {
            number,
            columns: number * size..(number + 1) * size,
            queries: queries.clone(),
            keys: keys.clone(),
        })
    })
}

fn parts(shape: &Shape<'_, Cpu>, inputs: &Inputs<Matrix>) -> (Matrix, Matrix, Matrix) {
    let h = shape.heads * shape.head_size;
    match inputs {
        Inputs::Fused(x) => (x.slice_columns(0..h), x.slice_columns(h..2 * h), x.slice_columns(2 * h..3 * h)),
        Inputs::Split(q, kv) => (q.clone(), kv.slice_columns(0..h), kv.slice_columns(h..2 * h)),
    }
}

/// Some columns of some rows, of which there is one at least.
fn block(m: &Matrix, rows: &Range<usize>, columns: &Range<usize>) -> Rows {
    let data = &m.data()[rows.start * m.stride() + columns.start..];
    assert!(data.len() >= (rows.len() - 1) * m.stride() + columns.len());
    Rows::of(data.as_ptr(), m.stride())
}

impl Cpu {
    /// The most keys of a sequence, in whole vectors.
    fn longest(&self, shape: &Shape<'_, Cpu>) -> usize {
        let lengths = shape.key_offsets.windows(2).map(|w| w[1].saturating_sub(w[0]) as usize);
        let longest = lengths.max().unwrap_or(0);
        longest.next_multiple_of(vector_shape(self.isa()).0)
    }

    /// Those of every head, to `dq`, `dk` and `dv`, which have as many rows as there are queries and keys and overlap nothing
    /// else.
    fn gradients(
        &self,
        shape: &Shape<'_, Cpu>,
        inputs: &Inputs<Matrix>,
        output: &Matrix,
        log_sum_exp: &Matrix,
        dy: &Matrix,
        [dq, dk, dv]: [Rows; 3],
    ) {
        let (q, k, v) = parts(shape, inputs);
        let longest = self.longest(shape);
        let mut transposed = [(); 2].map(|()| self.scratch(shape.head_size * longest));
        let mut scores = [(); 2].map(|()| self.scratch(BLOCK.min(q.rows()) * longest));
        for head in heads(shape) {
            let (queries, keys, columns) = (&head.queries, &head.keys, &head.columns);
            let number = head.number..head.number + 1;
            // SAFETY: `block` holds the rows and columns of the operands, so that their gradients hold them too, and there
            // are queries and keys; the scratch is for the most keys, and a block of queries or all of them.
            unsafe {
                let to = |m: Rows, rows: &Range<usize>| {
                    let m = m.rows_from(rows.start);
                    Rows { data: m.data.add(columns.start), ..m }
                };
                let operands = backward::Operands {
                    q: block(&q, queries, columns),
                    k: block(&k, keys, columns),
                    v: block(&v, keys, columns),
                    y: block(output, queries, columns),
                    dy: block(dy, queries, columns),
                    lse: block(log_sum_exp, queries, &number),
                    queries: queries.len(),
                    keys: keys.len(),
                    size: shape.head_size,
                    scale: shape.scale(),
                    transposed: transposed.each_mut().map(|t| t.as_mut_ptr()),
                    scores: scores.each_mut().map(|s| s.as_mut_ptr()),
                    dq: to(dq, queries),
                    dk: to(dk, keys),
                    dv: to(dv, keys),
                };
                gradients(self.isa(), operands);
            }
        }
    }
}
