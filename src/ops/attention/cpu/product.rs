//! Products of a head's matrices: a few rows, a head's columns, all of it near the core.

use crate::device::cpu::gemm::even_parts;
use crate::device::cpu::simd::Vector;

/// Rows that are computed together.
pub(super) const GROUP: usize = 6;

/// Rows of a matrix, `stride` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub data: *mut f32,
    pub stride: usize,
}

impl Rows {
    /// Of a matrix that is only read.
    pub fn of(data: *const f32, stride: usize) -> Rows {
        Rows { data: data.cast_mut(), stride }
    }

    /// # Safety
    /// The matrix has row i, or ends before it.
    #[inline(always)]
    pub unsafe fn row(self, i: usize) -> *mut f32 {
        // SAFETY: the caller vouches for it.
        unsafe { self.data.add(i * self.stride) }
    }

    /// Those from row i on.
    ///
    /// # Safety
    /// As for [`row`](Self::row).
    #[inline(always)]
    pub unsafe fn rows_from(self, i: usize) -> Rows {
        // SAFETY: the caller vouches for it.
        unsafe { Rows { data: self.row(i), ..self } }
    }

    /// # Safety
    /// The matrix has column j.
    #[inline(always)]
    unsafe fn columns_from(self, j: usize) -> Rows {
        // SAFETY: the caller vouches for it.
        unsafe { Rows { data: self.data.add(j), ..self } }
    }
}

/// `to` = L R, or `to` + L R where `onto`; L is `left`, or its transpose where T. It has `rows` rows of `inner` floats, the
/// right matrix so many columns.
///
/// # Safety
/// The matrices are valid for their rows and columns; `to` overlaps none of the others.
#[inline(always)]
pub(super) unsafe fn products<V: Vector, const T: bool>(
    left: Rows,
    (rows, inner): (usize, usize),
    right: Rows,
    columns: usize,
    onto: bool,
    to: Rows,
) {
    for rows in even_parts(rows, GROUP) {
        // SAFETY: the groups are parts of the rows.
        unsafe {
            let left = if T { left.columns_from(rows.start) } else { left.rows_from(rows.start) };
            let to = to.rows_from(rows.start);
            match rows.len() {
                1 => product::<V, 1, T>(left, inner, right, columns, [1.0; 1], onto, to),
                2 => product::<V, 2, T>(left, inner, right, columns, [1.0; 2], onto, to),
                3 => product::<V, 3, T>(left, inner, right, columns, [1.0; 3], onto, to),
                4 => product::<V, 4, T>(left, inner, right, columns, [1.0; 4], onto, to),
                5 => product::<V, 5, T>(left, inner, right, columns, [1.0; 5], onto, to),
                GROUP => product::<V, GROUP, T>(left, inner, right, columns, [1.0; GROUP], onto, to),
                0 => {}
                _ => unreachable!("more rows than a group has"),
            }
        }
    }
}

/// As [`products`], of R rows of L, each times its factor. A row's sums are in the order of the inner dimension, whatever R
/// is.
///
/// # Safety
/// As for [`products`].
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const R: usize, const T: bool>(
    left: Rows,
    inner: usize,
    right: Rows,
    columns: usize,
    factors: [f32; R],
    onto: bool,
    to: Rows,
) {
    // SAFETY: the tiles lie inside the columns.
    unsafe {
        let mut j = 0;
        while j < columns {
            let (right, to) = (right.columns_from(j), to.columns_from(j));
            if j + 2 * V::LANES <= columns {
                tile::<V, R, 2, T>(left, inner, right, V::LANES, factors, onto, to);
                j += 2 * V::LANES;
            } else {
                tile::<V, R, 1, T>(left, inner, right, (columns - j).min(V::LANES), factors, onto, to);
                j += V::LANES;
            }
        }
    }
}

/// R rows by C vectors of a [`product`], of which the last has `lanes`.
///
/// # Safety
/// That of [`product`].
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const C: usize, const T: bool>(
    left: Rows,
    inner: usize,
    right: Rows,
    lanes: usize,
    factors: [f32; R],
    onto: bool,
    to: Rows,
) {
    let whole = lanes == V::LANES;
    // SAFETY: R rows, and C vectors of which the last is masked where it is not whole.
    unsafe {
        let load = |p: *const f32, c: usize| match whole || c + 1 < C {
            true => V::load(p.add(c * V::LANES)),
            false => V::load_first(p.add(c * V::LANES), lanes),
        };
        let mut sums = [[V::splat(0.0); C]; R];
        for k in 0..inner {
            let row = right.row(k);
            let mut x = [V::splat(0.0); C];
            for (c, x) in x.iter_mut().enumerate() {
                *x = load(row, c);
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let l = V::splat(if T { *left.row(k).add(i) } else { *left.row(i).add(k) });
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = l.mul_add(x, *sum);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                let mut y = sum.mul(V::splat(factors[i]));
                if onto {
                    y = y.add(load(to.row(i), c));
                }
                let p = to.row(i).add(c * V::LANES);
                if whole || c + 1 < C { y.store(p) } else { y.store_first(p, lanes) }
            }
        }
    }
}

/// The transpose of a matrix.
///
/// # Safety
/// `from` is valid for `rows` rows of `columns` floats, `to` for `columns` rows of as many; they do not overlap.
#[inline(always)]
pub(super) unsafe fn transpose<V: Vector>(from: Rows, rows: usize, columns: usize, to: Rows) {
    // SAFETY: rows and columns below their numbers.
    unsafe {
        if rows < 8 || !columns.is_multiple_of(8) {
            for i in 0..rows {
                (0..columns).for_each(|j| *to.row(j).add(i) = *from.row(i).add(j));
            }
        } else {
            // The last block of rows may overlap the one before.
            for i in (0..rows).step_by(8).map(|i| i.min(rows - 8)) {
                for j in (0..columns).step_by(8) {
                    V::transpose(from.row(i).add(j), from.stride, to.row(j).add(i), to.stride);
                }
            }
        }
    }
}
