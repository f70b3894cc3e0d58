//! Matrix products on the CPU: C = bias + L1 R1 (+ L2 R2) (+ addend), then GELU where asked.
//!
//! Two terms in one pass are what fuses a low-rank update with its base product: the accumulators run over
//! the base's inner dimension, then over the rank, and are written once. The right matrix is walked in
//! panels of as many columns as a tile holds (packed once where it never changes), the left one row by row;
//! each element of C is summed in the order of the inner dimension, whatever the shape of the tile that
//! holds it, so a row of C depends on that row of the left matrix alone.

use super::buffer::Buffer;
use super::isa::{Isa, Set};
use super::simd::{Vector, exp, for_lanes, load, normal_cdf, store};

/// A right matrix [k, n] stored as the panels that the tiles stream: panel p holds columns
/// p * width .. (p + 1) * width, row after row; the last panel is narrower, rounded up to whole vectors
/// and filled with zeros.
#[derive(Debug)]
pub struct Packed {
    data: Buffer,
    k: usize,
    n: usize,
}

impl Packed {
    /// Packs the matrix whose element (k, j) is `at(k, j)`.
    pub fn new(isa: Isa, k: usize, n: usize, at: impl Fn(usize, usize) -> f32) -> Packed {
        let (lanes, width) = shape(isa);
        let mut data = Buffer::zeroed(n.next_multiple_of(lanes) * k);
        let mut panel = &mut data[..];
        for first in (0..n).step_by(width) {
            let columns = width.min(n - first);
            let padded = columns.next_multiple_of(lanes);
            let (this, rest) = panel.split_at_mut(padded * k);
            for (i, row) in this.chunks_exact_mut(padded).enumerate() {
                for (j, x) in row[..columns].iter_mut().enumerate() {
                    *x = at(i, first + j);
                }
            }
            panel = rest;
        }
        Packed { data, k, n }
    }

    /// The number of bytes that the panels take.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }
}

/// The right matrix of a product.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    Packed(&'a Packed),
    /// Row-major, `stride` floats from row to row.
    Rows {
        data: &'a [f32],
        stride: usize,
    },
}

/// One product L R: element (i, k) of L is `left[i * row_stride + k * k_stride]`.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    pub left: &'a [f32],
    pub row_stride: usize,
    pub k_stride: usize,
    pub k: usize,
    pub right: Right<'a>,
}

impl<'a> Term<'a> {
    /// L row-major with `row_stride` floats from row to row.
    pub fn new(left: &'a [f32], row_stride: usize, k: usize, right: Right<'a>) -> Self {
        Term { left, row_stride, k_stride: 1, k, right }
    }

    /// L given transposed: `left` holds L^T row-major with `stride` floats from row to row.
    pub fn transposed(left: &'a [f32], stride: usize, k: usize, right: Right<'a>) -> Self {
        Term { left, row_stride: 1, k_stride: stride, k, right }
    }
}

/// What is added to the products.
#[derive(Clone, Copy)]
pub enum Addend<'a> {
    Nothing,
    /// What C holds already.
    Itself,
    /// Row-major, `stride` floats from row to row.
    Rows {
        data: &'a [f32],
        stride: usize,
    },
}

/// What happens to an element when its sum is complete.
pub enum Activation<'a> {
    Identity,
    /// GELU(x) = x Phi(x), with the exact Phi (BERT's "gelu").
    Gelu,
    /// GELU, and its derivative Phi(x) + x phi(x) written to `slope`, laid out as C.
    GeluWithSlope {
        slope: &'a mut [f32],
    },
}

/// One call of [`gemm`]: C is [m, n], row-major, `stride` floats from row to row.
pub struct Gemm<'a> {
    pub m: usize,
    pub n: usize,
    pub terms: &'a [Term<'a>],
    pub bias: Option<&'a [f32]>,
    pub addend: Addend<'a>,
    pub activation: Activation<'a>,
}

impl<'a> Gemm<'a> {
    /// C = the sum of `terms`, nothing else.
    pub fn plain(m: usize, n: usize, terms: &'a [Term<'a>]) -> Self {
        Gemm { m, n, terms, bias: None, addend: Addend::Nothing, activation: Activation::Identity }
    }
}

/// Computes C into `out`.
///
/// # Panics
/// Where a slice is too short for its shape and strides: a fault of the caller, never of the user's data.
pub fn gemm(isa: Isa, g: Gemm<'_>, out: &mut [f32], stride: usize) {
    let Gemm { m, n, terms, bias, addend, activation } = g;
    if m == 0 || n == 0 {
        return;
    }
    let fits = |len: usize, rows: usize, stride: usize| len >= (rows - 1) * stride + n && stride >= n;
    assert!(fits(out.len(), m, stride), "C is too short");
    assert!(terms.len() <= 2, "a product has at most two terms");
    let mut raw = [RawTerm::NONE; 2];
    for (raw, t) in raw.iter_mut().zip(terms) {
        if t.k == 0 {
            continue;
        }
        assert!(t.left.len() > (m - 1) * t.row_stride + (t.k - 1) * t.k_stride, "L is too short");
        let (right, packed, right_stride) = match t.right {
            Right::Packed(p) => {
                assert!((p.k, p.n) == (t.k, n), "packed for another shape");
                (p.data.as_ptr(), true, 0)
            }
            Right::Rows { data, stride } => {
                assert!(fits(data.len(), t.k, stride), "R is too short");
                (data.as_ptr(), false, stride)
            }
        };
        *raw = RawTerm {
            left: t.left.as_ptr(),
            row_stride: t.row_stride,
            k_stride: t.k_stride,
            k: t.k,
            right,
            packed,
            right_stride,
        };
    }
    let bias = bias.map_or(std::ptr::null(), |b| {
        assert!(b.len() >= n, "bias is too short");
        b.as_ptr()
    });
    // Before any pointer to read C by, which a later borrow of it would end.
    let c = out.as_mut_ptr();
    let (addend, addend_stride) = match addend {
        Addend::Nothing => (std::ptr::null(), 0),
        Addend::Itself => (c.cast_const(), stride),
        Addend::Rows { data, stride } => {
            assert!(fits(data.len(), m, stride), "the addend is too short");
            (data.as_ptr(), stride)
        }
    };
    let (gelu, slope) = match activation {
        Activation::Identity => (false, std::ptr::null_mut()),
        Activation::Gelu => (true, std::ptr::null_mut()),
        Activation::GeluWithSlope { slope } => {
            assert!(fits(slope.len(), m, stride), "the slope is too short");
            (true, slope.as_mut_ptr())
        }
    };
    let call = Call { m, n, terms: raw, bias, addend, addend_stride, out: c, stride, gelu, slope };
    // SAFETY: the assertions above establish what `run` requires of the pointers; `addend` may be `out`,
    // which each tile reads before it writes; an `Isa` value exists only where the CPU has the set.
    unsafe { dispatch(isa, &call) }
}

/// Lanes of a vector and columns of a full panel.
pub(super) fn shape(isa: Isa) -> (usize, usize) {
    fn of<V: Vector>() -> (usize, usize) {
        (V::LANES, V::LANES * V::TILE_VECTORS)
    }
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => of::<super::simd::Avx512>(),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => of::<super::simd::Avx2>(),
        _ => of::<super::simd::Portable>(),
    }
}

#[derive(Clone, Copy)]
struct RawTerm {
    left: *const f32,
    row_stride: usize,
    k_stride: usize,
    k: usize,
    right: *const f32,
    packed: bool,
    right_stride: usize,
}

impl RawTerm {
    const NONE: RawTerm = RawTerm {
        left: std::ptr::null(),
        row_stride: 0,
        k_stride: 0,
        k: 0,
        right: std::ptr::null(),
        packed: false,
        right_stride: 0,
    };
}

/// [`Gemm`] as pointers, checked by [`gemm`]; null where there is no bias, addend or slope.
struct Call {
    m: usize,
    n: usize,
    terms: [RawTerm; 2],
    bias: *const f32,
    addend: *const f32,
    addend_stride: usize,
    out: *mut f32,
    stride: usize,
    gelu: bool,
    slope: *mut f32,
}

crate::kernel! {
    fn dispatch(call: &Call) = run;
}

/// # Safety
/// The matrices of `call` are as large as its shape and strides say; `out` and `slope` overlap no input,
/// except that `addend` may be `out` with the same stride.
#[inline(always)]
unsafe fn run<V: Vector>(call: &Call) {
    let width = V::LANES * V::TILE_VECTORS;
    for first in (0..call.n).step_by(width) {
        let columns = width.min(call.n - first);
        // SAFETY: the panel lies inside C; the number of vectors is that of its columns.
        unsafe {
            match (columns.div_ceil(V::LANES), columns % V::LANES != 0) {
                (1, false) => panel::<V, 1, false>(call, first, columns),
                (1, true) => panel::<V, 1, true>(call, first, columns),
                (2, false) => panel::<V, 2, false>(call, first, columns),
                (2, true) => panel::<V, 2, true>(call, first, columns),
                (3, false) => panel::<V, 3, false>(call, first, columns),
                _ => panel::<V, 3, true>(call, first, columns),
            }
        }
    }
}

/// All rows of one panel of N vectors; EDGE where the last of them is partial.
///
/// # Safety
/// As for [`run`]; `columns` needs N vectors, and is a multiple of the lanes unless EDGE.
#[inline(always)]
unsafe fn panel<V: Vector, const N: usize, const EDGE: bool>(call: &Call, first: usize, columns: usize) {
    if N > V::TILE_VECTORS {
        return;
    }
    let padded = columns.next_multiple_of(V::LANES);
    let last = columns - (N - 1) * V::LANES;
    // Tiles of nearly equal height: 50 rows are one tile of 8 and six of 7, not six of 8 and one of 2.
    let tiles = call.m.div_ceil(V::TILE_ROWS);
    let mut row = 0;
    for t in 0..tiles {
        let rows = call.m / tiles + usize::from(t < call.m % tiles);
        let mut terms = call.terms;
        for t in &mut terms {
            // The panels of a packed R before `first` hold k * first floats. An absent term is never read.
            t.left = t.left.wrapping_add(row * t.row_stride);
            t.right = t.right.wrapping_add(if t.packed { first * t.k } else { first });
            if t.packed {
                t.right_stride = padded;
            }
        }
        // SAFETY: rows `row..row + rows` and columns `first..first + columns` lie inside C, the addend and
        // the slope; 1 <= rows <= TILE_ROWS <= 8.
        unsafe {
            let at = |p: *const f32, stride: usize| p.wrapping_add(row * stride + first);
            let tile = Tile {
                terms: &terms,
                bias: if call.bias.is_null() { call.bias } else { call.bias.add(first) },
                addend: if call.addend.is_null() { call.addend } else { at(call.addend, call.addend_stride) },
                addend_stride: call.addend_stride,
                out: at(call.out, call.stride).cast_mut(),
                stride: call.stride,
                last,
            };
            match rows {
                1 => tile.compute::<V, 1, N, EDGE>(),
                2 => tile.compute::<V, 2, N, EDGE>(),
                3 => tile.compute::<V, 3, N, EDGE>(),
                4 => tile.compute::<V, 4, N, EDGE>(),
                5 => tile.compute::<V, 5, N, EDGE>(),
                6 => tile.compute::<V, 6, N, EDGE>(),
                7 => tile.compute::<V, 7, N, EDGE>(),
                _ => tile.compute::<V, 8, N, EDGE>(),
            }
            if call.gelu {
                let slope =
                    if call.slope.is_null() { call.slope } else { at(call.slope, call.stride).cast_mut() };
                for i in 0..rows {
                    let slope = if slope.is_null() { slope } else { slope.add(i * call.stride) };
                    gelu::<V>(tile.out.add(i * call.stride), slope, columns);
                }
            }
        }
        row += rows;
    }
}

/// One tile: its pointers are at its first row and column.
struct Tile<'a> {
    terms: &'a [RawTerm; 2],
    bias: *const f32,
    addend: *const f32,
    addend_stride: usize,
    out: *mut f32,
    stride: usize,
    /// Lanes of the last vector that hold columns.
    last: usize,
}

impl Tile<'_> {
    /// Vector j of N from p on, the last one partial if EDGE.
    ///
    /// # Safety
    /// The vector is readable.
    #[inline(always)]
    unsafe fn vector<V: Vector, const N: usize, const EDGE: bool>(&self, p: *const f32, j: usize) -> V {
        // SAFETY: the caller vouches for it.
        unsafe {
            let p = p.add(j * V::LANES);
            if EDGE && j == N - 1 { V::load_first(p, self.last) } else { V::load(p) }
        }
    }

    /// # Safety
    /// M rows and N vectors (the last partial if EDGE) from the tile's pointers on are valid.
    #[inline(always)]
    unsafe fn compute<V: Vector, const M: usize, const N: usize, const EDGE: bool>(&self) {
        if M > V::TILE_ROWS {
            return;
        }
        // SAFETY: every access is inside the M rows and N vectors that the caller vouches for.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; M];
            if !self.bias.is_null() {
                for j in 0..N {
                    let b = self.vector::<V, N, EDGE>(self.bias, j);
                    for row in &mut acc {
                        row[j] = b;
                    }
                }
            }
            for t in self.terms {
                let (mut left, mut right) = (t.left, t.right);
                for _ in 0..t.k {
                    let mut r = [V::splat(0.0); N];
                    for (j, r) in r.iter_mut().enumerate() {
                        *r = self.vector::<V, N, EDGE>(right, j);
                    }
                    for (i, row) in acc.iter_mut().enumerate() {
                        let l = V::splat(*left.add(i * t.row_stride));
                        for (a, r) in row.iter_mut().zip(r) {
                            *a = l.mul_add(r, *a);
                        }
                    }
                    left = left.wrapping_add(t.k_stride);
                    right = right.wrapping_add(t.right_stride);
                }
            }
            for (i, row) in acc.into_iter().enumerate() {
                for (j, mut x) in row.into_iter().enumerate() {
                    if !self.addend.is_null() {
                        let row = self.addend.add(i * self.addend_stride);
                        x = x.add(self.vector::<V, N, EDGE>(row, j));
                    }
                    let p = self.out.add(i * self.stride + j * V::LANES);
                    if EDGE && j == N - 1 { x.store_first(p, self.last) } else { x.store(p) }
                }
            }
        }
    }
}

/// GELU of a row in place, and its derivative to `slope` unless that is null.
///
/// # Safety
/// `x`, and `slope` unless null, are valid for n floats.
#[inline(always)]
unsafe fn gelu<V: Vector>(x: *mut f32, slope: *mut f32, n: usize) {
    for_lanes!(V, n, |j, lanes| {
        // SAFETY: lanes j..j + lanes lie inside the row.
        unsafe {
            let h = load::<V>(x.add(j), lanes);
            let cdf = normal_cdf(h);
            store(h.mul(cdf), x.add(j), lanes);
            if !slope.is_null() {
                let density = exp(h.mul(h).mul(V::splat(-0.5))).mul(V::splat(INVERSE_SQRT_TAU));
                store(h.mul_add(density, cdf), slope.add(j), lanes);
            }
        }
    });
}

/// 1 / sqrt(2 pi)
const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
