//! The loops of a product: blocks of C's rows and of the inner dimension that suit the caches, panels of columns, and
//! tiles whose sums stay in registers.

use std::array::from_fn;
use std::hint::black_box;
use std::ops::Range;
use std::ptr::null;

use super::packed::{Channels, PART, depth, even_parts};
use super::words::{F32, Row, Words, of_words};
use crate::device::Dtype;
use crate::device::cpu::simd::{Vector, exp, for_lanes, load, normal_cdf, store};

/// Rows of a block: with [`PANEL_ROWS`](Vector::PANEL_ROWS) of the inner dimension, their part of the left matrix takes
/// 150 KB of a core's second-level cache, while every panel of the right matrix passes by. Twice as many where each panel
/// becomes f32 on its way: it does so half as often.
const BLOCK_ROWS: usize = 96;

/// No set has more [`PANEL_ROWS`](Vector::PANEL_ROWS), nor panels of more than [`BLOCK_ROWS`] columns.
const MOST_PANEL_ROWS: usize = 384;

/// Steps of the inner dimension between two tests for its end.
const UNROLL: usize = 4;

/// Words of a panel that become f32 together: as an array the compiler has them in vectors.
const GROUP: usize = 8;

/// Floats of a cache line.
const LINE: usize = 16;

/// Floats that a call may need beside its operands: a block's part of the left matrix as words, with a [`Row`] for each row;
/// or a panel's part of the right one as f32.
pub(super) const SCRATCH: usize = BLOCK_ROWS * (MOST_PANEL_ROWS + 2);

#[derive(Clone, Copy)]
pub(super) struct RawTerm {
    pub left: *const f32,
    pub row_stride: usize,
    pub k_stride: usize,
    /// Words.
    pub k: usize,
    pub right: *const f32,
    pub packed: bool,
    pub right_stride: usize,
}

impl RawTerm {
    pub const NONE: RawTerm = RawTerm {
        left: null(),
        row_stride: 0,
        k_stride: 0,
        k: 0,
        right: null(),
        packed: false,
        right_stride: 0,
    };
}

/// [`Channels`] as pointers.
#[derive(Clone, Copy)]
pub(super) struct RawChannels {
    pub scales: *const f32,
    /// A row of them for each part.
    pub sums: *const f32,
    pub sums_stride: usize,
}

impl RawChannels {
    pub const NONE: RawChannels = RawChannels { scales: null(), sums: null(), sums_stride: 0 };

    pub fn of(channels: &Channels) -> RawChannels {
        RawChannels {
            scales: channels.scales.as_ptr(),
            sums: channels.sums.as_ptr(),
            sums_stride: channels.scales.len(),
        }
    }
}

/// [`Gemm`](super::Gemm) as pointers, checked by [`gemm`](super::gemm); null where there is no bias, addend or slope.
pub(super) struct Call {
    pub m: usize,
    pub n: usize,
    pub terms: [RawTerm; 2],
    /// Of the first term's right matrix.
    pub dtype: Dtype,
    /// Where that is int8; else null.
    pub channels: RawChannels,
    /// Elements of the first term's inner dimension.
    pub elements: usize,
    /// Room for [`SCRATCH`] floats where `dtype` is not f32.
    pub scratch: *mut f32,
    pub bias: *const f32,
    /// Whether the sums are added to what C holds.
    pub onto: bool,
    pub addend: *const f32,
    pub addend_stride: usize,
    pub out: *mut f32,
    pub stride: usize,
    pub gelu: bool,
    pub slope: *mut f32,
}

of_words! {
    /// # Safety
    /// The matrices of `call` are as large as its shape and strides say, and `dtype` is its own; `out`,
    /// `slope`, `scratch` and the inputs do not overlap. Where `dtype` is not f32, the first term is packed,
    /// and its rows of L have no gaps.
    pub(super) fn dispatch(call: &Call) = run;
}

/// # Safety
/// As for [`dispatch`].
#[inline(always)]
unsafe fn run<V: Vector, W: Words<V>>(call: &Call) {
    let width = V::LANES * V::TILE_VECTORS;
    const { assert!(V::PANEL_ROWS <= MOST_PANEL_ROWS && V::LANES * V::TILE_VECTORS <= BLOCK_ROWS) };
    const { assert!(V::LANES.is_multiple_of(GROUP)) }
    let depth = depth(call.dtype);
    let expands = W::DEPTH != depth;
    for rows in even_parts(call.m, if expands { 2 * BLOCK_ROWS } else { BLOCK_ROWS }) {
        let most = if W::SCALED { PART } else { V::PANEL_ROWS / (depth / W::DEPTH) };
        for (part, inner) in even_parts(call.terms[0].k, most).enumerate() {
            // SAFETY: the block lies inside C and the inner dimension; the number of vectors is that of its columns.
            unsafe {
                let left = left::<V, W>(call, &rows, &inner);
                for first in (0..call.n).step_by(width) {
                    let columns = width.min(call.n - first);
                    let block =
                        Block { rows: rows.clone(), part, inner: inner.clone(), left, first, columns };
                    match (columns.div_ceil(V::LANES), columns % V::LANES != 0) {
                        (1, false) => block.compute::<V, W, 1, false>(call),
                        (1, true) => block.compute::<V, W, 1, true>(call),
                        (2, false) => block.compute::<V, W, 2, false>(call),
                        (2, true) => block.compute::<V, W, 2, true>(call),
                        (3, false) => block.compute::<V, W, 3, false>(call),
                        _ => block.compute::<V, W, 3, true>(call),
                    }
                }
            }
        }
    }
}

/// A block's rows of L over a part of the inner dimension: where they are, and words from one to the next.
type Left = (*const f32, usize);

/// The part of L that a block reads, in words.
///
/// # Safety
/// As for [`dispatch`].
#[inline(always)]
unsafe fn left<V: Vector, W: Words<V>>(call: &Call, rows: &Range<usize>, inner: &Range<usize>) -> Left {
    let base = &call.terms[0];
    let (first, end) = elements(call, inner);
    let from = base.left.wrapping_add(rows.start * base.row_stride + first * base.k_stride);
    if W::DEPTH == 1 {
        return (from, base.row_stride);
    }
    for i in 0..rows.len() {
        // SAFETY: the row lies inside L; a block has BLOCK_ROWS rows of PANEL_ROWS words at most, and behind them room for
        // what they stand for.
        unsafe {
            let row =
                W::convert(from.add(i * base.row_stride), end - first, call.scratch.add(i * inner.len()));
            *call.scratch.add(ROWS).cast::<Row>().add(i) = row;
        }
    }
    (call.scratch, inner.len())
}

/// Where the [`Row`]s of a block's part of L are in the scratch.
const ROWS: usize = BLOCK_ROWS * MOST_PANEL_ROWS;

/// The first element of some words of the first term, and the one behind the last.
#[inline(always)]
fn elements(call: &Call, words: &Range<usize>) -> (usize, usize) {
    let depth = depth(call.dtype);
    (words.start * depth, (words.end * depth).min(call.elements))
}

/// Some rows of a panel of columns, over a part of the first term's inner dimension.
struct Block {
    rows: Range<usize>,
    part: usize,
    /// Words.
    inner: Range<usize>,
    left: Left,
    first: usize,
    columns: usize,
}

impl Block {
    /// # Safety
    /// As for [`dispatch`]; the block lies inside C and the inner dimension, its columns are N vectors, the last of
    /// them partial if EDGE.
    #[inline(always)]
    unsafe fn compute<V: Vector, W: Words<V>, const N: usize, const EDGE: bool>(&self, call: &Call) {
        if N > V::TILE_VECTORS {
            return;
        }
        let Block { first, columns, .. } = *self;
        let (starts, ends) = (self.inner.start == 0, self.inner.end == call.terms[0].k);
        // The panels of a packed R before `first` hold k * first words. An absent term is never read.
        let mut terms = call.terms.map(|t| {
            let (first, stride) =
                if t.packed { (first * t.k, N * V::LANES) } else { (first, t.right_stride) };
            RawTerm { right: t.right.wrapping_add(first), right_stride: stride, ..t }
        });
        let [base, low_rank] = &mut terms;
        (base.left, base.row_stride) = self.left;
        low_rank.left = low_rank.left.wrapping_add(self.rows.start * low_rank.row_stride);
        base.right = base.right.wrapping_add(self.inner.start * base.right_stride);
        base.k = self.inner.len();
        // What the product streams from memory after this block: the next panel.
        let fetches = base.packed && first + columns < call.n;
        let (panel, k, stride) = (base.right, base.k, base.right_stride);
        let next = if fetches { (panel.wrapping_add(columns * call.terms[0].k), stride) } else { (panel, 0) };
        if W::DEPTH != depth(call.dtype) {
            // SAFETY: the panel's part lies inside R, its elements fit into the scratch.
            base.k = unsafe { self.expand(call, panel, N * V::LANES) };
            base.right = call.scratch;
        }
        if !ends {
            low_rank.k = 0;
        }
        let starting_at = |p: *const f32, stride: usize| match p.is_null() {
            true => p,
            false => p.wrapping_add(self.rows.start * stride + first),
        };
        let mut tile = Tile {
            terms,
            of_rows: call.scratch.wrapping_add(ROWS).cast(),
            scales: call.channels.scales.wrapping_add(first),
            sums: call.channels.sums.wrapping_add(self.part * call.channels.sums_stride + first),
            bias: if starts && !call.bias.is_null() { call.bias.wrapping_add(first) } else { null() },
            onto: call.onto || !starts,
            addend: if ends { starting_at(call.addend, call.addend_stride) } else { null() },
            addend_stride: call.addend_stride,
            out: starting_at(call.out, call.stride).cast_mut(),
            slope: starting_at(call.slope, call.stride).cast_mut(),
            stride: call.stride,
            last: columns - (N - 1) * V::LANES,
            ahead: next,
        };
        // Tiles of nearly equal height: 50 rows are five of 6 and four of 5, not eight of 6 and one of 2.
        for (t, rows) in even_parts(self.rows.len(), V::TILE_ROWS).enumerate() {
            // SAFETY: the rows from the tile's first on and the columns of the panel lie inside C, the addend and the
            // slope; 1 <= rows <= TILE_ROWS <= 8.
            unsafe {
                match rows.len() {
                    1 => tile.compute::<V, W, 1, N, EDGE>(),
                    2 => tile.compute::<V, W, 2, N, EDGE>(),
                    3 => tile.compute::<V, W, 3, N, EDGE>(),
                    4 => tile.compute::<V, W, 4, N, EDGE>(),
                    5 => tile.compute::<V, W, 5, N, EDGE>(),
                    6 => tile.compute::<V, W, 6, N, EDGE>(),
                    7 => tile.compute::<V, W, 7, N, EDGE>(),
                    _ => tile.compute::<V, W, 8, N, EDGE>(),
                }
                if call.gelu && ends {
                    for i in 0..rows.len() {
                        let slope =
                            if tile.slope.is_null() { tile.slope } else { tile.slope.add(i * tile.stride) };
                        gelu::<V>(tile.out.add(i * tile.stride), slope, columns);
                    }
                }
            }
            tile.advance(rows.len());
            // A few tiles fetch all of the next panel.
            tile.ahead = match t + 1 < UNROLL {
                true => (tile.ahead.0.wrapping_add(k / UNROLL * tile.ahead.1), tile.ahead.1),
                false => (panel, 0),
            };
        }
    }

    /// Writes the block's part of a panel, from `panel` on with `width` words a row, to the scratch as f32. Returns how many
    /// rows it has there.
    ///
    /// # Safety
    /// As for [`dispatch`]; the part lies inside the panel, and its elements fit into the scratch.
    #[inline(always)]
    unsafe fn expand(&self, call: &Call, panel: *const f32, width: usize) -> usize {
        let depth = depth(call.dtype);
        for word in 0..self.inner.len() {
            for j in (0..width).step_by(GROUP) {
                // SAFETY: the caller vouches for the panel and the scratch, whose last row may be what fills up the last word;
                // scales are as many as the panels' columns.
                unsafe {
                    let words = panel.add(word * width + j).cast::<[u32; GROUP]>().read();
                    let to = |element| {
                        call.scratch.add((word * depth + element) * width + j).cast::<[f32; GROUP]>()
                    };
                    match call.dtype {
                        Dtype::Int8 => {
                            let scales =
                                call.channels.scales.add(self.first + j).cast::<[f32; GROUP]>().read();
                            for element in 0..4 {
                                let whole = words.map(|w| (w << (24 - 8 * element)).cast_signed() >> 24);
                                to(element).write(from_fn(|i| whole[i] as f32 * scales[i]));
                            }
                        }
                        _ => {
                            to(0).write(words.map(|w| f32::from_bits(w << 16)));
                            to(1).write(words.map(|w| f32::from_bits(w & 0xffff_0000)));
                        }
                    }
                }
            }
        }
        let (first, end) = elements(call, &self.inner);
        end - first
    }
}

/// One tile: its pointers are at its first row and column.
struct Tile {
    terms: [RawTerm; 2],
    /// What whole sums count in each row and each column, and the part's sums of the right matrix: of int8 alone.
    of_rows: *const Row,
    scales: *const f32,
    sums: *const f32,
    bias: *const f32,
    onto: bool,
    addend: *const f32,
    addend_stride: usize,
    out: *mut f32,
    slope: *mut f32,
    stride: usize,
    /// Lanes of the last vector that hold columns.
    last: usize,
    /// Rows of a panel to fetch into the cache: the first one, and floats from one to the next.
    ahead: (*const f32, usize),
}

impl Tile {
    /// Moves down by so many rows. Behind the last one no pointer is used.
    #[inline(always)]
    fn advance(&mut self, rows: usize) {
        for t in &mut self.terms {
            t.left = t.left.wrapping_add(rows * t.row_stride);
        }
        self.of_rows = self.of_rows.wrapping_add(rows);
        self.out = self.out.wrapping_add(rows * self.stride);
        if !self.addend.is_null() {
            self.addend = self.addend.wrapping_add(rows * self.addend_stride);
        }
        if !self.slope.is_null() {
            self.slope = self.slope.wrapping_add(rows * self.stride);
        }
    }

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
    unsafe fn compute<V: Vector, W: Words<V>, const M: usize, const N: usize, const EDGE: bool>(&self) {
        if M > V::TILE_ROWS {
            return;
        }
        // SAFETY: every access is inside the M rows and N vectors that the caller vouches for; scales and sums are
        // padded to whole vectors.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; M];
            if !W::SCALED && !self.bias.is_null() {
                for j in 0..N {
                    let b = self.vector::<V, N, EDGE>(self.bias, j);
                    for row in &mut acc {
                        row[j] = b;
                    }
                }
            }
            // What the end will read and write comes near while the sums run.
            for i in 0..M {
                V::prefetch(self.out.add(i * self.stride));
                V::prefetch(self.addend.wrapping_add(i * self.addend_stride));
            }
            // One loop in the source is one in the program: tiles are most of what there is to compile.
            let [base, low_rank] = &self.terms;
            if W::DEPTH == 1 {
                for t in &self.terms {
                    match t.packed {
                        true => self.accumulate::<V, W, M, N, false>(&mut acc, t, N * V::LANES),
                        false => self.accumulate::<V, W, M, N, EDGE>(&mut acc, t, t.right_stride),
                    }
                }
            } else {
                self.accumulate::<V, W, M, N, false>(&mut acc, base, N * V::LANES);
            }
            if W::SCALED {
                for j in 0..N {
                    let scales = V::load(self.scales.add(j * V::LANES));
                    let sums = V::load(self.sums.add(j * V::LANES));
                    let bias = match self.bias.is_null() {
                        true => V::splat(0.0),
                        false => self.vector::<V, N, EDGE>(self.bias, j),
                    };
                    for (i, row) in acc.iter_mut().enumerate() {
                        let Row { scale, zero } = *self.of_rows.add(i);
                        let whole = sums.mul_add(V::splat(-zero), W::value(row[j]));
                        row[j] = whole.mul_add(V::splat(scale).mul(scales), bias);
                    }
                }
            }
            if W::DEPTH > 1 {
                self.accumulate::<V, F32, M, N, EDGE>(&mut acc, low_rank, low_rank.right_stride);
            }
            for (i, row) in acc.into_iter().enumerate() {
                for (j, mut x) in row.into_iter().enumerate() {
                    if self.onto {
                        x = self.vector::<V, N, EDGE>(self.out.add(i * self.stride), j).add(x);
                    }
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

    /// acc += L R of one term.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute).
    #[inline(always)]
    unsafe fn accumulate<V: Vector, W: Words<V>, const M: usize, const N: usize, const EDGE: bool>(
        &self,
        acc: &mut [[V; N]; M],
        t: &RawTerm,
        right_stride: usize,
    ) {
        // Where the compiler knows how they are related, it computes each row's address from that of the row before:
        // a chain of additions that takes longer than the products.
        let rows: [*const f32; M] = from_fn(|i| black_box(t.left.wrapping_add(i * t.row_stride)));
        // SAFETY: the caller vouches for k rows of R and k columns of L.
        unsafe {
            let mut k = 0;
            if t.k_stride == 1 {
                while k + UNROLL <= t.k {
                    let ahead = self.ahead.0.wrapping_add(k / UNROLL * self.ahead.1);
                    for line in (0..N * V::LANES).step_by(LINE) {
                        V::prefetch(ahead.wrapping_add(line));
                    }
                    for u in k..k + UNROLL {
                        self.step::<V, W, M, N, EDGE>(
                            acc,
                            rows.map(|p| p.add(u)),
                            t.right.add(u * right_stride),
                        );
                    }
                    k += UNROLL;
                }
            }
            while k < t.k {
                let rows = rows.map(|p| p.add(k * t.k_stride));
                self.step::<V, W, M, N, EDGE>(acc, rows, t.right.add(k * right_stride));
                k += 1;
            }
        }
    }

    /// acc += one column of L by one row of R.
    ///
    /// # Safety
    /// `rows` point to elements of L; N vectors (the last partial if EDGE) from `right` on are readable.
    #[inline(always)]
    unsafe fn step<V: Vector, W: Words<V>, const M: usize, const N: usize, const EDGE: bool>(
        &self,
        acc: &mut [[V; N]; M],
        rows: [*const f32; M],
        right: *const f32,
    ) {
        // SAFETY: the caller vouches for it.
        unsafe {
            let mut r = [V::splat(0.0); N];
            for (j, r) in r.iter_mut().enumerate() {
                *r = self.vector::<V, N, EDGE>(right, j);
            }
            for (row, left) in acc.iter_mut().zip(rows) {
                let l = V::splat(*left);
                for (a, r) in row.iter_mut().zip(r) {
                    *a = W::dot(l, r, *a);
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
