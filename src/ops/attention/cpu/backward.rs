//! The gradients of one head of one sequence.

use super::product::{Rows, products, transpose};
use crate::device::cpu::simd::{Vector, exp, for_lanes, load};
use crate::kernel;

/// Queries whose probabilities and their gradients are kept together: bounds the scratch memory at 512 tokens to 256 KiB.
pub(super) const BLOCK: usize = 64;

/// What a head's gradients are computed from, where they go, and memory to work in.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub q: Rows,
    pub k: Rows,
    pub v: Rows,
    /// The head's output, and its gradient.
    pub y: Rows,
    pub dy: Rows,
    /// The log-sum-exp of each query's scores.
    pub lse: Rows,
    /// At least 1.
    pub queries: usize,
    /// At least 1.
    pub keys: usize,
    /// Columns of the head in all of them.
    pub size: usize,
    pub scale: f32,
    /// Each for `size` rows of as many floats as there are keys, in whole vectors. What they hold behind the last key counts
    /// nothing.
    pub transposed: [*mut f32; 2],
    /// Each for [`BLOCK`] such rows, or as many as there are queries.
    pub scores: [*mut f32; 2],
    pub dq: Rows,
    pub dk: Rows,
    pub dv: Rows,
}

kernel! {
    /// dQ, dK and dV. Those of a query depend on no other.
    ///
    /// # Safety
    /// The operands are valid for the head's rows and columns, and what is written overlaps nothing else.
    pub(super) fn gradients(head: Operands) = backward;
}

/// # Safety
/// That of [`gradients`].
#[inline(always)]
unsafe fn backward<V: Vector>(head: Operands) {
    let Operands { queries, keys, size, .. } = head;
    let n = keys.next_multiple_of(V::LANES);
    let [kt, vt] = head.transposed.map(|data| Rows { data, stride: n });
    let [p, ds] = head.scores.map(|data| Rows { data, stride: n });
    // SAFETY: the blocks are parts of the queries; the rest is the caller's contract.
    unsafe {
        transpose::<V>(head.k, keys, size, kt);
        transpose::<V>(head.v, keys, size, vt);
        for first in (0..queries).step_by(BLOCK) {
            let rows = BLOCK.min(queries - first);
            let [q, y, dy, lse, dq] =
                [head.q, head.y, head.dy, head.lse, head.dq].map(|m| m.rows_from(first));
            // The scores, and dP = dO V^T; then P and dS in their places.
            products::<V, false>(q, (rows, size), kt, n, false, p);
            products::<V, false>(dy, (rows, size), vt, n, false, ds);
            for i in 0..rows {
                let of_row = (*lse.row(i), y.row(i).cast_const(), dy.row(i).cast_const());
                score_gradients::<V>(p.row(i), ds.row(i), n, head.scale, of_row, size);
            }
            // dQ = dS K, dK += dS^T Q, dV += P^T dO
            products::<V, false>(ds, (rows, keys), head.k, size, false, dq);
            products::<V, true>(ds, (keys, rows), q, size, first > 0, head.dk);
            products::<V, true>(p, (keys, rows), dy, size, first > 0, head.dv);
        }
    }
}

/// One row: p, which holds scores, becomes P = e^(scale p - lse), and ds, which holds dP, becomes
/// dS = scale P (dP - dO O).
///
/// # Safety
/// p and ds are valid for n floats, whole vectors, y and dy for `size`; none overlap.
#[inline(always)]
unsafe fn score_gradients<V: Vector>(
    p: *mut f32,
    ds: *mut f32,
    n: usize,
    scale: f32,
    (lse, y, dy): (f32, *const f32, *const f32),
    size: usize,
) {
    // SAFETY: the vectors lie inside the rows.
    unsafe {
        let mut dot = V::splat(0.0);
        for_lanes!(V, size, |j, l| dot = load::<V>(dy.add(j), l).mul_add(load::<V>(y.add(j), l), dot));
        let (dot, scale, less) = (V::splat(dot.sum()), V::splat(scale), V::splat(-lse));
        for j in (0..n).step_by(V::LANES) {
            let e = exp(V::load(p.add(j)).mul_add(scale, less));
            e.store(p.add(j));
            e.mul(V::load(ds.add(j)).sub(dot)).mul(scale).store(ds.add(j));
        }
    }
}
