//! One vector type per instruction set, and the elementary functions that the kernels share.
//!
//! Kernels are written once, generic over [`Vector`]; [`kernel!`](crate::kernel) compiles them once per
//! instruction set. Every function here is `#[inline(always)]`, so that it takes on the target features of
//! the kernel that it is inlined into.

/// A register of `f32` lanes.
///
/// # Safety
/// Every method requires that the CPU has the instruction set of the implementing type. Pointers must be
/// valid for the lanes that are read or written: all `LANES`, or the first `n` of the `_first` forms.
#[expect(clippy::missing_safety_doc, reason = "the trait states one contract for all its methods")]
pub trait Vector: Copy {
    const LANES: usize;
    /// Rows and vectors of the GEMM tile whose accumulators fill the register file without spilling.
    const TILE_ROWS: usize;
    const TILE_VECTORS: usize;
    /// Rows of a panel of the right matrix that are used again from a cache. With AVX2 they fill the first-level one beside a
    /// tile's rows of the left matrix; with AVX-512 a tile reads so few bytes for a product that the second-level one
    /// does, and fewer parts of the inner dimension are worth more.
    const PANEL_ROWS: usize;

    /// Asks for the cache line at p, which may be any address, to come near the core.
    unsafe fn prefetch(p: *const f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// Loads the first `n` lanes (n <= LANES), zero elsewhere, touching no memory past them: none at all where n is 0.
    unsafe fn load_first(p: *const f32, n: usize) -> Self;
    unsafe fn store_first(self, p: *mut f32, n: usize);
    /// The first `n` lanes (0 <= n <= LANES), `other` elsewhere.
    unsafe fn first_or(self, n: usize, other: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `other` where either is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// The bits that either has: of zeros and NaN, whether any is NaN.
    unsafe fn or(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once where the hardware fuses it.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    unsafe fn round(self) -> Self;
    /// 2^n for lanes that hold whole numbers n in -126..=127.
    unsafe fn exp2_whole(self) -> Self;
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;

    /// Writes the transpose of the 8 x 8 block at `from` to `to`, with so many floats from row to row.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..8 {
            for j in 0..8 {
                // SAFETY: the caller vouches for both blocks.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) }
            }
        }
    }
}

/// e^x with a relative error below 2e-7 on [-87.3, 88.3]; arguments outside are clamped to it.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite's two-part ln 2), e^r by a polynomial of degree 7.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: no memory is touched; the caller vouches for the instruction set.
    unsafe {
        // The bounds come first, since `max` and `min` give their second operand where one is NaN.
        let x = V::splat(88.3).min(V::splat(-87.3).max(x));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(V::splat(-0.693_359_4), x);
        let r = n.mul_add(V::splat(2.121_944_4e-4), r);
        // Taylor's coefficients: at |r| <= 0.35 the first one left out is below 6e-9.
        let mut p = V::splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = p.mul_add(r, V::splat(c));
        }
        p.mul(n.exp2_whole())
    }
}

/// tanh x with an absolute error below 2e-7: 1 - 2 / (e^2x + 1).
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub unsafe fn tanh<V: Vector>(x: V) -> V {
    // SAFETY: as for `exp`.
    unsafe {
        let e = exp(x.add(x));
        V::splat(1.0).sub(V::splat(2.0).div(e.add(V::splat(1.0))))
    }
}

/// Phi(x), the standard normal distribution function, with an absolute error below 3e-7.
///
/// Phi(x) = 1/2 + x P(x^2) / Q(x^2) on |x| <= 5.6, beyond which it is 0 or 1 to f32's precision;
/// the coefficients are a minimax fit by scripts/fit_normal_cdf.py.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub unsafe fn normal_cdf<V: Vector>(x: V) -> V {
    // SAFETY: as for `exp`.
    unsafe {
        let x = V::splat(NORMAL_CDF_RANGE).min(V::splat(-NORMAL_CDF_RANGE).max(x));
        let t = x.mul(x);
        let mut p = V::splat(NORMAL_CDF_P[NORMAL_CDF_P.len() - 1]);
        for &c in NORMAL_CDF_P.iter().rev().skip(1) {
            p = p.mul_add(t, V::splat(c));
        }
        let mut q = V::splat(NORMAL_CDF_Q[NORMAL_CDF_Q.len() - 1]);
        for &c in NORMAL_CDF_Q.iter().rev().skip(1) {
            q = q.mul_add(t, V::splat(c));
        }
        x.mul(p).div(q).add(V::splat(0.5))
    }
}

const NORMAL_CDF_RANGE: f32 = 5.6;
const NORMAL_CDF_P: [f32; 6] =
    [0.398_942_22, 0.034_376_07, 4.707_256_4e-3, 1.738_502_8e-4, 6.356_523e-6, 2.214_531e-8];
const NORMAL_CDF_Q: [f32; 6] =
    [1.0, 0.252_833_74, 0.028_940_065, 1.912_975_5e-3, 7.510_175e-5, 1.180_211_2e-6];

/// Runs a block for every vector of a row of h floats: `for_lanes!(V, h, |j, n| block)`, where the vector
/// starts at j and has n lanes in the row.
///
/// A macro, since a closure would be compiled without the target features of the kernel around it.
macro_rules! for_lanes {
    ($vector:ident, $h:expr, |$j:ident, $n:ident| $block:expr) => {{
        let h: usize = $h;
        let mut first = 0;
        while first + $vector::LANES <= h {
            let ($j, $n) = (first, $vector::LANES);
            $block;
            first += $vector::LANES;
        }
        if first < h {
            let ($j, $n) = (first, h - first);
            $block;
        }
    }};
}
pub(crate) use for_lanes;

/// The first n lanes from p, zero elsewhere.
///
/// # Safety
/// As for [`Vector::load_first`].
#[inline(always)]
pub unsafe fn load<V: Vector>(p: *const f32, n: usize) -> V {
    // SAFETY: the caller vouches for n floats at p.
    unsafe { if n == V::LANES { V::load(p) } else { V::load_first(p, n) } }
}

/// Writes the first n lanes to p.
///
/// # Safety
/// As for [`Vector::store_first`].
#[inline(always)]
pub unsafe fn store<V: Vector>(x: V, p: *mut f32, n: usize) {
    // SAFETY: the caller vouches for n floats at p.
    unsafe { if n == V::LANES { x.store(p) } else { x.store_first(p, n) } }
}

/// x with the lanes from n on set to zero.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub unsafe fn keep_first<V: Vector>(x: V, n: usize) -> V {
    let mut spill = [0.0; 64];
    // SAFETY: no vector has more than 64 lanes.
    unsafe {
        x.store_first(spill.as_mut_ptr(), n);
        V::load(spill.as_ptr())
    }
}

/// Plain Rust, for any CPU: eight lanes that the compiler may vectorise as it can.
#[derive(Clone, Copy)]
pub struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;
    const PANEL_ROWS: usize = 256;

    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 8])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable floats.
        Portable(unsafe { p.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for eight writable floats.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: only lanes below n are read.
        Portable(std::array::from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        for (i, x) in self.0.into_iter().enumerate().take(n) {
            // SAFETY: only lanes below n are written.
            unsafe { p.add(i).write(x) }
        }
    }
    #[inline(always)]
    unsafe fn first_or(self, n: usize, other: f32) -> Self {
        Portable(std::array::from_fn(|i| if i < n { self.0[i] } else { other }))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| f32::from_bits(a.to_bits() | b.to_bits()))
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Not f32::mul_add, which is a library call where the hardware has no fused form.
        Portable(std::array::from_fn(|i| self.0[i] * factor.0[i] + addend.0[i]))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Portable(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Portable(self.0.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32)))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::mask_avx512;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    /// AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub struct Avx2(pub(in crate::device::cpu) __m256);

    /// AVX-512 F.
    #[derive(Clone, Copy)]
    pub struct Avx512(pub(in crate::device::cpu) __m512);

    #[inline(always)]
    unsafe fn mask_avx2(n: usize) -> __m256i {
        // SAFETY: the trait's contract gives the instruction set.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
        }
    }

    /// The first n of 16 lanes.
    #[inline(always)]
    pub(in crate::device::cpu) fn mask_avx512(n: usize) -> __mmask16 {
        ((1u32 << n) - 1) as __mmask16
    }

    // SAFETY (of every block below): the trait's contract gives the instruction set and the memory.
    impl Vector for Avx2 {
        const LANES: usize = 8;
        const TILE_ROWS: usize = 6;
        const TILE_VECTORS: usize = 2;
        const PANEL_ROWS: usize = 384;

        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { Avx2(_mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { Avx2(_mm256_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm256_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> Self {
            unsafe { Avx2(_mm256_maskload_ps(p, mask_avx2(n))) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, n: usize) {
            unsafe { _mm256_maskstore_ps(p, mask_avx2(n), self.0) }
        }
        #[inline(always)]
        unsafe fn first_or(self, n: usize, other: f32) -> Self {
            unsafe {
                let mask = _mm256_castsi256_ps(mask_avx2(n));
                Avx2(_mm256_blendv_ps(_mm256_set1_ps(other), self.0, mask))
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_div_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_max_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_min_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn or(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_or_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Avx2(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe { Avx2(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
        }
        #[inline(always)]
        unsafe fn exp2_whole(self) -> Self {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe {
                let x = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
            }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe {
                let x = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
            }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            unsafe {
                // Pairs of rows, then of pairs, within the halves of 128 bits; rows i and i + 4 share a register.
                let half = |i: usize, j: usize| _mm_loadu_ps(from.add(i * from_stride + 4 * j));
                for j in 0..2 {
                    let row = |i: usize| _mm256_set_m128(half(i + 4, j), half(i, j));
                    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                    let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                    let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                    let columns = [
                        _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
                        _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
                        _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
                        _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
                    ];
                    for (i, column) in columns.into_iter().enumerate() {
                        _mm256_storeu_ps(to.add((4 * j + i) * to_stride), column);
                    }
                }
            }
        }
    }

    // SAFETY (of every block below): the trait's contract gives the instruction set and the memory.
    impl Vector for Avx512 {
        const LANES: usize = 16;
        const TILE_ROWS: usize = 8;
        const TILE_VECTORS: usize = 3;
        const PANEL_ROWS: usize = 384;

        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { Avx512(_mm512_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            unsafe { Avx512(_mm512_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> Self {
            unsafe { Avx512(_mm512_maskz_loadu_ps(mask_avx512(n), p)) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, n: usize) {
            unsafe { _mm512_mask_storeu_ps(p, mask_avx512(n), self.0) }
        }
        #[inline(always)]
        unsafe fn first_or(self, n: usize, other: f32) -> Self {
            unsafe { Avx512(_mm512_mask_mov_ps(_mm512_set1_ps(other), mask_avx512(n), self.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn or(self, other: Self) -> Self {
            unsafe {
                let both = _mm512_or_si512(_mm512_castps_si512(self.0), _mm512_castps_si512(other.0));
                Avx512(_mm512_castsi512_ps(both))
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe {
                Avx512(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
            }
        }
        #[inline(always)]
        unsafe fn exp2_whole(self) -> Self {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe { _mm512_reduce_max_ps(self.0) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            unsafe { Avx2::transpose(from, from_stride, to, to_stride) }
        }
    }
}
