//! What a word of the operands is, and how two of them are multiplied.

use crate::device::cpu::simd::Vector;

/// Words of 32 bits that the lanes of `V` multiply: one f32 each, two bf16 or four int8.
///
/// # Safety
/// Every method requires the instruction set of `V` and the one that the implementing type names.
pub(in crate::device::cpu) trait Words<V: Vector> {
    /// Elements of the inner dimension in a word.
    const DEPTH: usize;
    /// Whether sums are whole numbers, which the scales of their row and column make values.
    const SCALED: bool;

    /// `sum` plus the products of the elements of two words, in each lane.
    unsafe fn dot(left: V, right: V, sum: V) -> V;

    /// Writes n elements of a row of the left matrix as `n.div_ceil(DEPTH)` words; what they have behind the n-th meets
    /// zeros of the right one.
    unsafe fn convert(from: *const f32, n: usize, to: *mut f32) -> Row;

    /// A sum as f32.
    unsafe fn value(sum: V) -> V;
}

/// What the numbers of a row's words stand for: `scale` times the number less `zero`, where [`Words::SCALED`].
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct Row {
    pub scale: f32,
    pub zero: f32,
}

impl Row {
    const AS_IT_IS: Row = Row { scale: 1.0, zero: 0.0 };
}

/// One f32, on any set.
pub(in crate::device::cpu) struct F32;

impl<V: Vector> Words<V> for F32 {
    const DEPTH: usize = 1;
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn dot(left: V, right: V, sum: V) -> V {
        // SAFETY: the trait's contract gives the instruction set.
        unsafe { left.mul_add(right, sum) }
    }
    #[inline(always)]
    unsafe fn convert(_: *const f32, _: usize, _: *mut f32) -> Row {
        Row::AS_IT_IS
    }
    #[inline(always)]
    unsafe fn value(sum: V) -> V {
        sum
    }
}

#[cfg(target_arch = "x86_64")]
pub(in crate::device::cpu) use x86::{Bf16, Int8};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Row, Words};
    use crate::device::cpu::simd::Avx512;

    /// Two bf16, by AVX512-BF16: both products are added to the f32 sum.
    pub struct Bf16;

    /// Four int8, the left ones unsigned, by AVX512-VNNI: the products are added to the i32 sum.
    pub struct Int8;

    const UINT8_MAX: f32 = 255.0;

    /// The first n of 16 lanes, all of them from 16 on.
    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        ((1u32 << n.min(16)) - 1) as __mmask16
    }

    // SAFETY (of every block below): the trait's contract gives the instruction sets and the memory.
    impl Words<Avx512> for Bf16 {
        const DEPTH: usize = 2;
        const SCALED: bool = false;

        #[inline(always)]
        unsafe fn dot(left: Avx512, right: Avx512, sum: Avx512) -> Avx512 {
            unsafe {
                let pairs = |x: Avx512| -> __m512bh { std::mem::transmute(x.0) };
                Avx512(_mm512_dpbf16_ps(sum.0, pairs(left), pairs(right)))
            }
        }
        #[inline(always)]
        unsafe fn convert(from: *const f32, n: usize, to: *mut f32) -> Row {
            for k in (0..n).step_by(32) {
                let left = n - k;
                unsafe {
                    let low = _mm512_maskz_loadu_ps(first(left), from.wrapping_add(k));
                    let high =
                        _mm512_maskz_loadu_ps(first(left.saturating_sub(16)), from.wrapping_add(k + 16));
                    let words: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_mask_storeu_epi32(to.wrapping_add(k / 2).cast(), first(left.div_ceil(2)), words);
                }
            }
            Row::AS_IT_IS
        }
        #[inline(always)]
        unsafe fn value(sum: Avx512) -> Avx512 {
            sum
        }
    }

    // SAFETY (of every block below): the trait's contract gives the instruction sets and the memory.
    impl Words<Avx512> for Int8 {
        const DEPTH: usize = 4;
        const SCALED: bool = true;

        #[inline(always)]
        unsafe fn dot(left: Avx512, right: Avx512, sum: Avx512) -> Avx512 {
            unsafe {
                let bits = |x: Avx512| _mm512_castps_si512(x.0);
                Avx512(_mm512_castsi512_ps(_mm512_dpbusd_epi32(bits(sum), bits(left), bits(right))))
            }
        }
        #[inline(always)]
        unsafe fn convert(from: *const f32, n: usize, to: *mut f32) -> Row {
            unsafe {
                let load = |k: usize| _mm512_maskz_loadu_ps(first(n - k), from.wrapping_add(k));
                let (mut low, mut high, mut nan) = (_mm512_setzero_ps(), _mm512_setzero_ps(), 0);
                for k in (0..n).step_by(16) {
                    let x = load(k);
                    (low, high) = (_mm512_min_ps(low, x), _mm512_max_ps(high, x));
                    nan |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                }
                let (low, high) = (_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high));
                // A row that holds no number gives none: no int8 could say so.
                let scale = if nan == 0 { (high - low) / UINT8_MAX } else { f32::NAN };
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                let zero = (-low * inverse).round_ties_even();
                for k in (0..n).step_by(16) {
                    let whole = _mm512_cvtps_epi32(_mm512_mul_ps(load(k), _mm512_set1_ps(inverse)));
                    // At least 0, since the lowest rounds as the zero does; 256 becomes 255.
                    let above = _mm512_add_epi32(whole, _mm512_set1_epi32(zero as i32));
                    let words = _mm512_castsi128_si512(_mm512_cvtusepi32_epi8(above));
                    let mask = first((n - k).min(16).div_ceil(4));
                    _mm512_mask_storeu_epi32(to.wrapping_add(k / 4).cast(), mask, words);
                }
                Row { scale, zero }
            }
        }
        #[inline(always)]
        unsafe fn value(sum: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_castps_si512(sum.0))) }
        }
    }
}
