mod head;

use std::ops::Range;

use super::{Attention, Inputs, Shape};
use crate::device::cpu::buffer::Pooled;
use crate::device::cpu::gemm::{Addend, Gemm, Right, Term, gemm, shape as vector_shape};
use crate::device::cpu::simd::{Vector, exp, for_lanes, load};
use crate::device::cpu::{Cpu, Matrix};
use crate::kernel;
use crate::profile::Work;
use head::{GROUP, attend, transpose};

/// Queries that share one block of scores: bounds the scratch memory at 512 tokens to 128 KiB.
const BLOCK: usize = 64;

impl Attention for Cpu {
    fn attention(&self, shape: Shape<'_, Cpu>, inputs: &Inputs<Matrix>) -> (Matrix, Matrix) {
        let (q, k, v) = parts(&shape, inputs);
        let (h, kv_stride) = (shape.heads * shape.head_size, k.stride());
        debug_assert_eq!(v.stride(), kv_stride);
        let mut lse = self.scratch(q.rows() * shape.heads);
        let longest = shape.key_offsets.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
        let longest = longest.next_multiple_of(vector_shape(self.isa()).0);
        let mut transposed = self.scratch(shape.head_size * longest);
        let mut scores = self.scratch(GROUP * longest);
        let y = self.fill(q.rows(), h, |y| {
            for head in heads(&shape) {
                let (queries, keys, columns) = (&head.queries, &head.keys, &head.columns);
                let (k, v) = (block(&k, keys, columns), block(&v, keys, columns));
                let y = &mut y[queries.start * h + columns.start..];
                let lse = &mut lse[queries.start * shape.heads + head.number..];
                assert!(y.len() >= (queries.len() - 1) * h + shape.head_size);
                assert!(lse.len() > (queries.len() - 1) * shape.heads);
                let call = head::Head {
                    q: block(&q, queries, columns).as_ptr(),
                    q_stride: q.stride(),
                    k: k.as_ptr(),
                    v: v.as_ptr(),
                    kv_stride,
                    queries: queries.len(),
                    keys: keys.len(),
                    size: shape.head_size,
                    scale: shape.scale(),
                    transposed: transposed.as_mut_ptr(),
                    scores: scores.as_mut_ptr(),
                    y: y.as_mut_ptr(),
                    y_stride: h,
                    lse: lse.as_mut_ptr(),
                    lse_stride: shape.heads,
                };
                // SAFETY: `block` holds the rows and columns of the operands, and there are keys; the scratch is for the
                // most keys; the assertions vouch for the output.
                unsafe { attend(self.isa(), call) }
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

/// What lies between the first element of some rows and columns and the last; there must be a row.
fn block<'m>(m: &'m Matrix, rows: &Range<usize>, columns: &Range<usize>) -> &'m [f32] {
    &at(m, rows.start, columns.start)[..(rows.len() - 1) * m.stride() + columns.len()]
}

fn within<'a>(m: &'a Matrix, rows: &Range<usize>, columns: &Range<usize>) -> Right<'a> {
    Right::Rows { data: at(m, rows.start, columns.start), stride: m.stride() }
}

impl Cpu {
    /// A block of a matrix, transposed: [columns, rows], with zeros to whole vectors at the end of each row, so that
    /// the products with it have no ragged edge.
    fn transposed(&self, m: &Matrix, rows: &Range<usize>, columns: &Range<usize>) -> Pooled {
        let n = rows.len().next_multiple_of(vector_shape(self.isa()).0);
        let mut out = self.scratch(n * columns.len());
        let from = block(m, rows, columns);
        let (count, size) = (rows.len(), columns.len());
        // SAFETY: `from` holds `count` rows of `size` floats, and `out` as many columns in rows of n.
        unsafe { transpose(self.isa(), from.as_ptr(), m.stride(), count, size, out.as_mut_ptr(), n) }
        out.chunks_exact_mut(n).for_each(|row| row[count..].fill(0.0));
        out
    }

    /// Scores of some queries against all keys, not scaled: [rows, keys], in rows of whole vectors as those of `kt`.
    fn scores(
        &self,
        shape: &Shape<'_, Cpu>,
        q: &Matrix,
        rows: &Range<usize>,
        columns: &Range<usize>,
        kt: &[f32],
    ) -> Pooled {
        self.against(at(q, rows.start, columns.start), q.stride(), rows.len(), kt, shape.head_size)
    }

    /// Some rows of `inner` floats times a transposed matrix.
    fn against(&self, left: &[f32], stride: usize, rows: usize, transposed: &[f32], inner: usize) -> Pooled {
        let columns = transposed.len() / inner;
        let mut out = self.scratch(rows * columns);
        let terms = [Term::new(left, stride, inner, Right::Rows { data: transposed, stride: columns })];
        gemm(self.isa(), Gemm::plain(rows, columns, &terms), &mut out, columns);
        out
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
        for head in heads(shape) {
            let (keys, columns) = (head.keys.len(), head.columns.clone());
            let kt = self.transposed(&k, &head.keys, &columns);
            let vt = self.transposed(&v, &head.keys, &columns);
            for (b, rows) in blocks(&head.queries).enumerate() {
                let addend = if b == 0 { Addend::Nothing } else { Addend::Itself };
                // dP = dO V^T; then P from the scores, and dS in the place of dP.
                let mut p = self.scores(shape, &q, &rows, &columns, &kt);
                let dy_rows = at(dy, rows.start, columns.start);
                let mut ds = self.against(dy_rows, dy.stride(), rows.len(), &vt, size);
                let stride = p.len() / rows.len();
                for (i, (p, ds)) in
                    rows.clone().zip(p.chunks_exact_mut(stride).zip(ds.chunks_exact_mut(stride)))
                {
                    let (dy, o) = (&dy.row(i)[columns.clone()], &output.row(i)[columns.clone()]);
                    let lse = log_sum_exp.row(i)[head.number];
                    // SAFETY: `p` and `ds` hold `stride` floats, whole vectors; `dy` and `o` the head's columns.
                    unsafe {
                        let (p, ds, dy, o) = (p.as_mut_ptr(), ds.as_mut_ptr(), dy.as_ptr(), o.as_ptr());
                        score_gradients(self.isa(), p, ds, stride, shape.scale(), lse, dy, o, size);
                    }
                }
                // dV += P^T dO
                let right = Right::Rows { data: dy_rows, stride: dy.stride() };
                let terms = [Term::transposed(&p, stride, rows.len(), right)];
                let column = dkv_column + h + columns.start;
                let out = &mut target.keys()[head.keys.start * dkv_stride + column..];
                gemm(self.isa(), Gemm { addend, ..Gemm::plain(keys, size, &terms) }, out, dkv_stride);
                // dQ = dS K
                let terms = [Term::new(&ds, stride, keys, within(&k, &head.keys, &columns))];
                let out = &mut target.queries()[rows.start * dq_stride + dq_column + columns.start..];
                gemm(self.isa(), Gemm::plain(rows.len(), size, &terms), out, dq_stride);
                // dK += dS^T Q
                let right = within(&q, &rows, &columns);
                let terms = [Term::transposed(&ds, stride, rows.len(), right)];
                let out = &mut target.keys()[head.keys.start * dkv_stride + dkv_column + columns.start..];
                gemm(self.isa(), Gemm { addend, ..Gemm::plain(keys, size, &terms) }, out, dkv_stride);
            }
        }
    }
}

kernel! {
    fn score_gradients(
        p: *mut f32, ds: *mut f32, n: usize, scale: f32, lse: f32, dy: *const f32, o: *const f32, size: usize,
    ) = gradients;
}

/// One row: p, which holds scores, becomes P = e^(scale p - lse), and ds, which holds dP, becomes
/// dS = scale P (dP - dO O).
///
/// # Safety
/// p and ds are valid for n floats, whole vectors, dy and o for `size`; none overlap.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
unsafe fn gradients<V: Vector>(
    p: *mut f32,
    ds: *mut f32,
    n: usize,
    scale: f32,
    lse: f32,
    dy: *const f32,
    o: *const f32,
    size: usize,
) {
    // SAFETY: the vectors lie inside the rows.
    unsafe {
        let mut dot = V::splat(0.0);
        for_lanes!(V, size, |j, l| dot = load::<V>(dy.add(j), l).mul_add(load::<V>(o.add(j), l), dot));
        let (dot, scale, less) = (V::splat(dot.sum()), V::splat(scale), V::splat(-lse));
        for j in (0..n).step_by(V::LANES) {
            let e = exp(V::load(p.add(j)).mul_add(scale, less));
            e.store(p.add(j));
            e.mul(V::load(ds.add(j)).sub(dot)).mul(scale).store(ds.add(j));
        }
    }
}
