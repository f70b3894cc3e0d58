//! One head of one sequence, from queries, keys and values to its output, while all of it is near the core.

use super::product::{GROUP, Rows, product, transpose};
use crate::device::cpu::gemm::even_parts;
use crate::device::cpu::simd::{Vector, exp};
use crate::kernel;

/// What a head is computed from, where its output goes, and memory to work in.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub q: Rows,
    pub k: Rows,
    pub v: Rows,
    pub queries: usize,
    /// At least 1.
    pub keys: usize,
    /// Columns of the head in all three, and in the output.
    pub size: usize,
    pub scale: f32,
    /// For `size` rows, and for [`GROUP`] rows, of as many floats as there are keys, in whole vectors. What they hold behind
    /// the last key counts nothing.
    pub transposed: *mut f32,
    pub scores: *mut f32,
    pub y: Rows,
    pub lse: Rows,
}

kernel! {
    /// softmax(scale Q K^T) V into `y`, and the log-sum-exp of each row of scores. A row does not depend on others.
    ///
    /// # Safety
    /// The operands of the head are valid for its rows and columns, and what is written overlaps nothing else.
    pub(super) fn attend(head: Operands) = forward;
}

/// # Safety
/// That of [`attend`].
#[inline(always)]
unsafe fn forward<V: Vector>(head: Operands) {
    let n = head.keys.next_multiple_of(V::LANES);
    // SAFETY: the groups are parts of the queries; the rest is the caller's contract.
    unsafe {
        transpose::<V>(head.k, head.keys, head.size, Rows { data: head.transposed, stride: n });
        for rows in even_parts(head.queries, GROUP) {
            match rows.len() {
                1 => group::<V, 1>(head, rows.start, n),
                2 => group::<V, 2>(head, rows.start, n),
                3 => group::<V, 3>(head, rows.start, n),
                4 => group::<V, 4>(head, rows.start, n),
                5 => group::<V, 5>(head, rows.start, n),
                GROUP => group::<V, GROUP>(head, rows.start, n),
                0 => {}
                _ => unreachable!("more rows than a group has"),
            }
        }
    }
}

/// R queries from `first` on.
///
/// # Safety
/// That of [`attend`]; the head has these queries, and n is its keys in whole vectors.
#[inline(always)]
unsafe fn group<V: Vector, const R: usize>(head: Operands, first: usize, n: usize) {
    // SAFETY: what is read and written lies in the rows of the group.
    unsafe {
        let (keys, scores) =
            (Rows { data: head.transposed, stride: n }, Rows { data: head.scores, stride: n });
        product::<V, R, false>(head.q.rows_from(first), head.size, keys, n, [1.0; R], false, scores);
        let (mut largest, mut totals) = ([0.0; R], [0.0; R]);
        for i in 0..R {
            (largest[i], totals[i]) = exponentials::<V>(scores.row(i), head.keys, n, head.scale);
        }
        let (inverse, logarithms) = (totals.map(|total| 1.0 / total), totals.map(ln));
        for i in 0..R {
            *head.lse.row(first + i) = head.scale * largest[i] + logarithms[i];
        }
        product::<V, R, false>(scores, head.keys, head.v, head.size, inverse, false, head.y.rows_from(first));
    }
}

/// ln x with an absolute error below 1e-6, for finite x >= 1; without a call, for some at once.
///
/// x = 2^e m with m near 1, and ln m = 2 atanh t, t = (m - 1) / (m + 1), by its series; |t| <= 1/3.
#[inline(always)]
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let e = (bits >> 23) as f32 - 127.0;
    let m = f32::from_bits(bits & 0x007f_ffff | 0x3f80_0000);
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    let series = [1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    let atanh = t * series.into_iter().fold(1.0 / 13.0, |sum, c| sum * square + c);
    e * std::f32::consts::LN_2 + 2.0 * atanh
}

/// Below every score; e to the power of it less another is nothing beside the e^0 of the largest.
const LOWEST: f32 = -1e30;

/// The scores x of a row become e^(scale (x - the largest)). Gives the largest, and the sum over the n keys.
///
/// # Safety
/// `row` is valid for `stride` >= n >= 1 floats, whole vectors.
#[inline(always)]
unsafe fn exponentials<V: Vector>(row: *mut f32, n: usize, stride: usize, scale: f32) -> (f32, f32) {
    // SAFETY: the vectors lie inside the row.
    unsafe {
        let mut top = V::splat(LOWEST);
        for j in (0..stride).step_by(V::LANES) {
            top = top.max(scores(row, j, n));
        }
        let largest = top.largest();
        let (by, less) = (V::splat(scale), V::splat(-scale * largest));
        let mut sum = V::splat(0.0);
        for j in (0..stride).step_by(V::LANES) {
            let e = exp(scores::<V>(row, j, n).mul_add(by, less));
            e.store(row.add(j));
            sum = sum.add(e);
        }
        (largest, sum.sum())
    }
}

/// Lanes j.. of a row of n scores, filled up with [`LOWEST`] in the register: a vector could not be read before what was
/// written to a part of it has reached the cache.
///
/// # Safety
/// The vector lies inside the row's memory.
#[inline(always)]
unsafe fn scores<V: Vector>(row: *const f32, j: usize, n: usize) -> V {
    // SAFETY: the caller vouches for the memory.
    unsafe { V::load(row.add(j)).first_or(n.saturating_sub(j).min(V::LANES), LOWEST) }
}

#[cfg(test)]
mod tests {
    use super::ln;

    #[test]
    fn logarithms_of_what_softmax_sums_are_near() {
        let mut x = 1.0f32;
        while x < 600.0 {
            let error = (f64::from(ln(x)) - f64::from(x).ln()).abs();
            assert!(error < 1e-6, "{x}: {error}");
            x *= 1.0003;
        }
        assert_eq!(ln(1.0), 0.0);
    }
}
