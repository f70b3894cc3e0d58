use std::ops::Range;

use super::{Attention, Inputs, Shape};
use crate::device::cpu::gemm::{Addend, Gemm, Right, Term, gemm};
use crate::device::cpu::simd::{Vector, exp, for_lanes, load, store};
use crate::device::cpu::{Cpu, Matrix};
use crate::kernel;

/// Queries that share one block of scores: bounds the scratch memory at 512 tokens to 128 KiB.
const BLOCK: usize = 64;

impl Attention for Cpu {
    fn attention(&self, shape: Shape<'_, Cpu>, inputs: &Inputs<Matrix>) -> (Matrix, Matrix) {
        let (q, k, v) = parts(&shape, inputs);
        let h = shape.heads * shape.head_size;
        let mut lse = self.scratch(q.rows() * shape.heads);
        let y = self.fill(q.rows(), h, |y| {
            for head in heads(&shape) {
                let (keys, columns) = (head.keys.len(), head.columns.clone());
                let kt = self.transposed(&k, &head.keys, &columns);
                for rows in blocks(&head.queries) {
                    let mut p = self.scores(&shape, &q, &rows, &columns, &kt, keys);
                    for (i, row) in rows.clone().zip(p.chunks_exact_mut(keys)) {
                        // SAFETY: the row holds `keys` floats.
                        unsafe {
                            let lse = &mut lse[i * shape.heads + head.number];
                            softmax_row(self.isa(), row.as_mut_ptr(), keys, lse);
                        }
                    }
                    let values = within(&v, &head.keys, &columns);
                    let terms = [Term::new(&p, keys, keys, values)];
                    let g = Gemm::plain(rows.len(), shape.head_size, &terms);
                    gemm(self.isa(), g, &mut y[rows.start * h + columns.start..], h);
                }
            }
        });
        let queries = q.rows();
        (y, Matrix::new(lse, queries, shape.heads))
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
        match inputs {
            Inputs::Fused(x) => Inputs::Fused(self.fill(x.rows(), 3 * h, |d| {
                let (dq, dkv) = ((0, 3 * h), (h, 3 * h));
                self.backward_into(&shape, inputs, output, log_sum_exp, dy, &mut Target::Fused(d), dq, dkv);
            })),
            Inputs::Split(q, kv) => {
                let mut dq = self.scratch(q.rows() * h);
                let dkv = self.fill(kv.rows(), 2 * h, |dkv| {
                    let mut target = Target::Split(&mut dq, dkv);
                    self.backward_into(
                        &shape,
                        inputs,
                        output,
                        log_sum_exp,
                        dy,
                        &mut target,
                        (0, h),
                        (0, 2 * h),
                    );
                });
                let queries = q.rows();
                Inputs::Split(Matrix::new(dq, queries, h), dkv)
            }
        }
    }
}

/// Where the gradients go: one matrix, or one for queries and one for keys and values.
enum Target<'a> {
    Fused(&'a mut [f32]),
    Split(&'a mut [f32], &'a mut [f32]),
}

impl Target<'_> {
    fn queries(&mut self) -> &mut [f32] {
        match self {
            Target::Fused(d) | Target::Split(d, _) => d,
        }
    }

    fn keys(&mut self) -> &mut [f32] {
        match self {
            Target::Fused(d) | Target::Split(_, d) => d,
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

fn blocks(rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.clone().step_by(BLOCK).map(move |first| first..end.min(first + BLOCK))
}

/// The element (row, column) and what follows, as the right or left matrix of a product.
fn at(m: &Matrix, row: usize, column: usize) -> &[f32] {
    &m.data()[row * m.stride() + column..]
}

fn within<'a>(m: &'a Matrix, rows: &Range<usize>, columns: &Range<usize>) -> Right<'a> {
    Right::Rows { data: at(m, rows.start, columns.start), stride: m.stride() }
}

impl Cpu {
    /// A block of a matrix, transposed: [columns, rows].
    fn transposed(
        &self,
        m: &Matrix,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> crate::device::cpu::buffer::Pooled {
        let n = rows.len();
        let mut out = self.scratch(n * columns.len());
        for (i, row) in rows.clone().enumerate() {
            for (j, &x) in m.row(row)[columns.clone()].iter().enumerate() {
                out[j * n + i] = x;
            }
        }
        out
    }

    /// Scaled scores of some queries against all keys: [rows, keys].
    fn scores(
        &self,
        shape: &Shape<'_, Cpu>,
        q: &Matrix,
        rows: &Range<usize>,
        columns: &Range<usize>,
        kt: &[f32],
        keys: usize,
    ) -> crate::device::cpu::buffer::Pooled {
        let mut scores = self.scratch(rows.len() * keys);
        let right = Right::Rows { data: kt, stride: keys };
        let terms = [Term::new(at(q, rows.start, columns.start), q.stride(), shape.head_size, right)];
        gemm(self.isa(), Gemm::plain(rows.len(), keys, &terms), &mut scores, keys);
        let scale = 1.0 / (shape.head_size as f32).sqrt();
        scores.iter_mut().for_each(|s| *s *= scale);
        scores
    }

    /// The gradients of every head. `dq` and `dkv` give the first column and the stride of the queries'
    /// and the keys' gradients in `target`; the values' follow the keys'.
    #[allow(clippy::too_many_arguments)]
    fn backward_into(
        &self,
        shape: &Shape<'_, Cpu>,
        inputs: &Inputs<Matrix>,
        output: &Matrix,
        log_sum_exp: &Matrix,
        dy: &Matrix,
        target: &mut Target<'_>,
        (dq_column, dq_stride): (usize, usize),
        (dkv_column, dkv_stride): (usize, usize),
    ) {
        let (q, k, v) = parts(shape, inputs);
        let (size, h) = (shape.head_size, shape.heads * shape.head_size);
        let scale = 1.0 / (size as f32).sqrt();
        for head in heads(shape) {
            let (keys, columns) = (head.keys.len(), head.columns.clone());
            let kt = self.transposed(&k, &head.keys, &columns);
            let vt = self.transposed(&v, &head.keys, &columns);
            for (b, rows) in blocks(&head.queries).enumerate() {
                let addend = if b == 0 { Addend::Nothing } else { Addend::Itself };
                let mut p = self.scores(shape, &q, &rows, &columns, &kt, keys);
                for (i, row) in rows.clone().zip(p.chunks_exact_mut(keys)) {
                    // SAFETY: the row holds `keys` floats.
                    unsafe {
                        exp_row(self.isa(), row.as_mut_ptr(), keys, log_sum_exp.row(i)[head.number]);
                    }
                }
                let dy_rows = at(dy, rows.start, columns.start);
                // dV += P^T dO
                let right = Right::Rows { data: dy_rows, stride: dy.stride() };
                let terms = [Term::transposed(&p, keys, rows.len(), right)];
                let column = dkv_column + h + columns.start;
                let out = &mut target.keys()[head.keys.start * dkv_stride + column..];
                gemm(self.isa(), Gemm { addend, ..Gemm::plain(keys, size, &terms) }, out, dkv_stride);
                // dP = dO V^T, then dS in place, with the scale that both products below need.
                let mut ds = self.scratch(rows.len() * keys);
                let right = Right::Rows { data: &vt, stride: keys };
                let terms = [Term::new(dy_rows, dy.stride(), size, right)];
                gemm(self.isa(), Gemm::plain(rows.len(), keys, &terms), &mut ds, keys);
                for (i, (ds, p)) in rows.clone().zip(ds.chunks_exact_mut(keys).zip(p.chunks_exact(keys))) {
                    let dot: f32 = dy.row(i)[columns.clone()]
                        .iter()
                        .zip(&output.row(i)[columns.clone()])
                        .map(|(d, o)| d * o)
                        .sum();
                    for (d, p) in ds.iter_mut().zip(p) {
                        *d = p * (*d - dot) * scale;
                    }
                }
                // dQ = dS K
                let terms = [Term::new(&ds, keys, keys, within(&k, &head.keys, &columns))];
                let out = &mut target.queries()[rows.start * dq_stride + dq_column + columns.start..];
                gemm(self.isa(), Gemm::plain(rows.len(), size, &terms), out, dq_stride);
                // dK += dS^T Q
                let right = within(&q, &rows, &columns);
                let terms = [Term::transposed(&ds, keys, rows.len(), right)];
                let out = &mut target.keys()[head.keys.start * dkv_stride + dkv_column + columns.start..];
                gemm(self.isa(), Gemm { addend, ..Gemm::plain(keys, size, &terms) }, out, dkv_stride);
            }
        }
    }
}

kernel! {
    fn softmax_row(x: *mut f32, n: usize, lse: *mut f32) = softmax;
}

kernel! {
    fn exp_row(x: *mut f32, n: usize, lse: f32) = exp_minus;
}

/// Softmax of a row in place, and its log-sum-exp.
///
/// # Safety
/// x is valid for n >= 1 floats, `lse` for one.
#[inline(always)]
unsafe fn softmax<V: Vector>(x: *mut f32, n: usize, lse: *mut f32) {
    // SAFETY: `lanes` walks 0..n.
    unsafe {
        let mut largest = *x;
        let mut top = V::splat(largest);
        for_lanes!(V, n, |j, l| {
            if l == V::LANES {
                top = top.max(V::load(x.add(j)));
            } else {
                (j..j + l).for_each(|j| largest = largest.max(*x.add(j)));
            }
        });
        let largest = largest.max(top.largest());
        let mut sum = V::splat(0.0);
        let mut rest = 0.0;
        for_lanes!(V, n, |j, l| {
            let e = exp(load::<V>(x.add(j), l).sub(V::splat(largest)));
            store(e, x.add(j), l);
            if l == V::LANES {
                sum = sum.add(e);
            } else {
                (j..j + l).for_each(|j| rest += *x.add(j));
            }
        });
        let total = sum.sum() + rest;
        let scale = V::splat(1.0 / total);
        for_lanes!(V, n, |j, l| store(load::<V>(x.add(j), l).mul(scale), x.add(j), l));
        *lse = largest + total.ln();
    }
}

/// x = e^(x - lse) for a row in place.
///
/// # Safety
/// x is valid for n floats.
#[inline(always)]
unsafe fn exp_minus<V: Vector>(x: *mut f32, n: usize, lse: f32) {
    // SAFETY: `lanes` walks 0..n.
    unsafe { for_lanes!(V, n, |j, l| store(exp(load::<V>(x.add(j), l).sub(V::splat(lse))), x.add(j), l)) }
}
