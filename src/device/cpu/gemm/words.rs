//! What a word of the operands is, and how two of them are multiplied.

use crate::device::cpu::simd::Vector;

/// Words of 32 bits that the lanes of `V` multiply: one f32 each, two bf16 or four int8.
///
/// # Safety
/// Every method requires the instruction set of `V` and the one that the implementing type names.
#[expect(clippy::missing_safety_doc, reason = "the trait states one contract for all its methods")]
pub(in crate::device::cpu) trait Words<V: Vector> {
    /// Elements of the inner dimension in a word.
    const DEPTH: usize;
    /// Whether sums are whole numbers, which the scales of their row and column make values.
    const SCALED: bool;

    /// `sum` plus the products of the elements of two words, in each lane.
    unsafe fn dot(left: V, right: V, sum: V) -> V;

    /// Writes n elements of a row of the left matrix as `n.div_ceil(DEPTH)` words; elements behind the n-th are zero, or where
    /// right ones are zero anything. Gives nothing away about rows that are read as they are.
    unsafe fn convert(from: *const f32, n: usize, scale: f32, to: *mut f32);

    /// What an int8 of this row counts, for n elements of it.
    unsafe fn scale(from: *const f32, n: usize) -> f32;

    /// A sum as f32.
    unsafe fn value(sum: V) -> V;
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
    unsafe fn convert(_: *const f32, _: usize, _: f32, _: *mut f32) {}
    #[inline(always)]
    unsafe fn scale(_: *const f32, _: usize) -> f32 {
        1.0
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

    use super::Words;
    use crate::device::cpu::gemm::packed::INT8_MAX;
    use crate::device::cpu::simd::Avx512;

    /// Two bf16, by AVX512-BF16: both products are added to the f32 sum.
    pub struct Bf16;

    /// Four int8, the left ones stored 128 too high, by AVX512-VNNI: the products are added to the i32 sum.
    pub struct Int8;

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
        unsafe fn convert(from: *const f32, n: usize, _: f32, to: *mut f32) {
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
        }
        #[inline(always)]
        unsafe fn scale(_: *const f32, _: usize) -> f32 {
            1.0
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
        unsafe fn convert(from: *const f32, n: usize, scale: f32, to: *mut f32) {
            unsafe {
                let inverse = _mm512_set1_ps(if scale > 0.0 { 1.0 / scale } else { 0.0 });
                for k in (0..n).step_by(16) {
                    let left = n - k;
                    let x = _mm512_maskz_loadu_ps(first(left), from.wrapping_add(k));
                    let whole = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
                    let bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(128)));
                    let words = _mm512_castsi128_si512(bytes);
                    let mask = first(left.min(16).div_ceil(4));
                    _mm512_mask_storeu_epi32(to.wrapping_add(k / 4).cast(), mask, words);
                }
            }
        }
        #[inline(always)]
        unsafe fn scale(from: *const f32, n: usize) -> f32 {
            unsafe {
                let mut most = _mm512_setzero_ps();
                for k in (0..n).step_by(16) {
                    let x = _mm512_maskz_loadu_ps(first(n - k), from.wrapping_add(k));
                    most = _mm512_max_ps(most, _mm512_abs_ps(x));
                }
                _mm512_reduce_max_ps(most) / INT8_MAX
            }
        }
        #[inline(always)]
        unsafe fn value(sum: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_castps_si512(sum.0))) }
        }
    }
}
