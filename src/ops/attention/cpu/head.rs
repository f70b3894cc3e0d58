//! One head of one sequence, from queries, keys and values to its output, while all of it is near the core.

use crate::device::cpu::gemm::even_parts;
use crate::device::cpu::simd::{Vector, exp};
use crate::kernel;

/// Queries that go through the head together.
pub(super) const GROUP: usize = 6;

/// A head, and memory to work in. Strides are in floats, from row to row.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub q: *const f32,
    pub q_stride: usize,
    pub k: *const f32,
    pub v: *const f32,
    pub kv_stride: usize,
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
    pub y: *mut f32,
    pub y_stride: usize,
    pub lse: *mut f32,
    pub lse_stride: usize,
}

kernel! {
    /// softmax(scale Q K^T) V into `y`, and the log-sum-exp of each row of scores. A row does not depend on others.
    ///
    /// # Safety
    /// The operands of the head are valid for its rows and columns, and what is written overlaps nothing else.
    pub(super) fn attend(head: Head) = forward;
}

kernel! {
    /// The transpose of a matrix, its rows n floats apart.
    ///
    /// # Safety
    /// `from` is valid for `rows` rows of `columns` floats, `to` for `columns` rows of n; they do not overlap.
    pub(super) fn transpose(
        from: *const f32, stride: usize, rows: usize, columns: usize, to: *mut f32, n: usize,
    ) = columns_first;
}

/// # Safety
/// That of [`attend`].
#[inline(always)]
unsafe fn forward<V: Vector>(head: Head) {
    let n = head.keys.next_multiple_of(V::LANES);
    // SAFETY: the groups are parts of the queries; the rest is the caller's contract.
    unsafe {
        columns_first::<V>(head.k, head.kv_stride, head.keys, head.size, head.transposed, n);
        for rows in even_parts(head.queries, GROUP) {
            match rows.len() {
                1 => group::<V, 1>(head, rows.start, n),
                2 => group::<V, 2>(head, rows.start, n),
                3 => group::<V, 3>(head, rows.start, n),
                4 => group::<V, 4>(head, rows.start, n),
                5 => group::<V, 5>(head, rows.start, n),
                GROUP => group::<V, GROUP>(head, rows.start, n),
                _ => {}
            }
        }
    }
}

/// R queries from `first` on.
///
/// # Safety
/// That of [`attend`]; the head has these queries, and n is its keys in whole vectors.
#[inline(always)]
unsafe fn group<V: Vector, const R: usize>(head: Head, first: usize, n: usize) {
    // SAFETY: what is read and written lies in the rows of the group.
    unsafe {
        let scores = Rows { data: head.scores, stride: n };
        let q = Rows { data: head.q.add(first * head.q_stride).cast_mut(), stride: head.q_stride };
        product::<V, R>(q, head.size, Rows { data: head.transposed, stride: n }, n, [1.0; R], scores);
        let (mut largest, mut totals) = ([0.0; R], [0.0; R]);
        for i in 0..R {
            (largest[i], totals[i]) = exponentials::<V>(scores.row(i), head.keys, n, head.scale);
        }
        let (inverse, logarithms) = (totals.map(|total| 1.0 / total), totals.map(ln));
        for i in 0..R {
            *head.lse.add((first + i) * head.lse_stride) = head.scale * largest[i] + logarithms[i];
        }
        let v = Rows { data: head.v.cast_mut(), stride: head.kv_stride };
        let y = Rows { data: head.y.add(first * head.y_stride), stride: head.y_stride };
        product::<V, R>(scores, head.keys, v, head.size, inverse, y);
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

/// Rows of a matrix.
#[derive(Clone, Copy)]
struct Rows {
    data: *mut f32,
    stride: usize,
}

impl Rows {
    /// # Safety
    /// The matrix has row i, or ends before it.
    #[inline(always)]
    unsafe fn row(self, i: usize) -> *mut f32 {
        // SAFETY: the caller vouches for it.
        unsafe { self.data.add(i * self.stride) }
    }
}

/// `to` = diag(factors) L R, for R rows of L with `inner` columns, and so many columns of the right matrix. A row's sums
/// are in the order of the inner dimension, whatever R is.
///
/// # Safety
/// `left` is valid for R rows of `inner` floats, `right` for `inner` rows of `columns`, `to` for R rows of `columns`.
#[inline(always)]
unsafe fn product<V: Vector, const R: usize>(
    left: Rows,
    inner: usize,
    right: Rows,
    columns: usize,
    factors: [f32; R],
    to: Rows,
) {
    // SAFETY: the tiles lie inside the columns.
    unsafe {
        let at = |rows: Rows, j: usize| Rows { data: rows.data.add(j), ..rows };
        let mut j = 0;
        while j + 2 * V::LANES <= columns {
            tile::<V, R, 2>(left, inner, at(right, j), V::LANES, factors, at(to, j));
            j += 2 * V::LANES;
        }
        while j < columns {
            tile::<V, R, 1>(left, inner, at(right, j), (columns - j).min(V::LANES), factors, at(to, j));
            j += V::LANES;
        }
    }
}

/// R rows by C vectors of a [`product`], of which the last has `lanes`.
///
/// # Safety
/// That of [`product`].
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const C: usize>(
    left: Rows,
    inner: usize,
    right: Rows,
    lanes: usize,
    factors: [f32; R],
    to: Rows,
) {
    let whole = lanes == V::LANES;
    // SAFETY: R rows, and C vectors of which the last is masked where it is not whole.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for k in 0..inner {
            let row = right.row(k);
            let mut x = [V::splat(0.0); C];
            for (c, x) in x.iter_mut().enumerate() {
                let p = row.add(c * V::LANES);
                *x = if whole || c + 1 < C { V::load(p) } else { V::load_first(p, lanes) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let l = V::splat(*left.row(i).add(k));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = l.mul_add(x, *sum);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                let (y, p) = (sum.mul(V::splat(factors[i])), to.row(i).add(c * V::LANES));
                if whole || c + 1 < C { y.store(p) } else { y.store_first(p, lanes) }
            }
        }
    }
}

/// # Safety
/// That of [`transpose`].
#[inline(always)]
unsafe fn columns_first<V: Vector>(
    from: *const f32,
    stride: usize,
    rows: usize,
    columns: usize,
    to: *mut f32,
    n: usize,
) {
    // SAFETY: rows and columns below their numbers.
    unsafe {
        if rows < 8 || !columns.is_multiple_of(8) {
            for i in 0..rows {
                (0..columns).for_each(|j| *to.add(j * n + i) = *from.add(i * stride + j));
            }
        } else {
            // The last block of rows may overlap the one before.
            for i in (0..rows).step_by(8).map(|i| i.min(rows - 8)) {
                for j in (0..columns).step_by(8) {
                    V::transpose(from.add(i * stride + j), stride, to.add(j * n + i), n);
                }
            }
        }
    }
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
