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

/// Compiles a generic kernel once per instruction set and type of words, and declares the function that picks one.
///
/// `of_words!(fn name(args) = body;)` makes `unsafe fn name(isa, dtype, args)`, which calls `body::<V, W>(args)` with the words
/// of `dtype` where `isa` [`multiplies`](crate::device::cpu::Isa::multiplies) those, else with f32. Its safety is that of `body`.
macro_rules! of_words {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident;) => {
        $(#[$meta])*
        $vis unsafe fn $name(isa: $crate::device::cpu::Isa, dtype: $crate::device::Dtype, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            use $crate::device::{Dtype, cpu::isa::Set, cpu::simd::{Avx2, Avx512}};
            #[cfg(target_arch = "x86_64")]
            use $crate::device::cpu::gemm::words::{Bf16, Int8, Int8ByVnni};

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
            unsafe fn bf16($($arg: $ty),*) {
                // SAFETY: the caller's contract is the body's.
                unsafe { $body::<Avx512, Bf16>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vnni,avx2,fma")]
            unsafe fn int8($($arg: $ty),*) {
                // SAFETY: the caller's contract is the body's.
                unsafe { $body::<Avx512, Int8>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn int8_of_avx2($($arg: $ty),*) {
                // SAFETY: the caller's contract is the body's.
                unsafe { $body::<Avx2, Int8>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avxvnni")]
            unsafe fn int8_of_avx2_and_vnni($($arg: $ty),*) {
                // SAFETY: the caller's contract is the body's.
                unsafe { $body::<Avx2, Int8ByVnni>($($arg),*) }
            }
            #[inline(always)]
            unsafe fn with_f32<V: $crate::device::cpu::simd::Vector>($($arg: $ty),*) {
                // SAFETY: the caller's contract is the body's.
                unsafe { $body::<V, $crate::device::cpu::gemm::words::F32>($($arg),*) }
            }
            $crate::kernel! {
                fn f32($($arg: $ty),*) = with_f32;
            }
            // SAFETY: `isa` is available, `multiplies` vouches for what it need not have, and the caller's contract is the
            // body's.
            unsafe {
                match (isa.set(), dtype) {
                    #[cfg(target_arch = "x86_64")]
                    (Set::Avx512, Dtype::Bf16) if isa.multiplies(dtype) => bf16($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    (Set::Avx512, Dtype::Int8) if isa.multiplies(dtype) => int8($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    (Set::Avx2, Dtype::Int8) if is_x86_feature_detected!("avxvnni") => int8_of_avx2_and_vnni($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    (Set::Avx2, Dtype::Int8) => int8_of_avx2($($arg),*),
                    _ => f32(isa, $($arg),*),
                }
            }
        }
    };
}
pub(in crate::device::cpu) use of_words;

#[cfg(target_arch = "x86_64")]
pub(in crate::device::cpu) use x86::{Bf16, Int8, Int8ByVnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{Row, Words};
    use crate::device::cpu::simd::{Avx2, Avx512, Vector, load, mask_avx512};

    /// Two bf16, by AVX512-BF16: both products are added to the f32 sum.
    pub struct Bf16;

    /// Four int8, the left ones unsigned, whose products are added to the i32 sum: by AVX512-VNNI, or by AVX2 in three steps,
    /// with weights of [`int8_max`](crate::device::cpu::Isa::int8_max).
    pub struct Int8;

    /// The same numbers and the same whole sums on sets with 256 bits, by AVX-VNNI in one step.
    pub struct Int8ByVnni;

    const UINT8_MAX: f32 = 255.0;

    /// The first n of 16 lanes, all of them from 16 on.
    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        mask_avx512(n.min(16))
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
                let (row, inverse) = row::<Avx512>(from, n);
                for k in (0..n).step_by(16) {
                    let x = _mm512_maskz_loadu_ps(first(n - k), from.wrapping_add(k));
                    let whole = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
                    // At least 0, since the lowest rounds as the zero does; 256 becomes 255.
                    let above = _mm512_add_epi32(whole, _mm512_set1_epi32(row.zero as i32));
                    let words = _mm512_castsi128_si512(_mm512_cvtusepi32_epi8(above));
                    let mask = first((n - k).min(16).div_ceil(4));
                    _mm512_mask_storeu_epi32(to.wrapping_add(k / 4).cast(), mask, words);
                }
                row
            }
        }
        #[inline(always)]
        unsafe fn value(sum: Avx512) -> Avx512 {
            unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_castps_si512(sum.0))) }
        }
    }

    // SAFETY (of every block below): the trait's contract gives the instruction sets and the memory.
    impl Words<Avx2> for Int8 {
        const DEPTH: usize = 4;
        const SCALED: bool = true;

        #[inline(always)]
        unsafe fn dot(left: Avx2, right: Avx2, sum: Avx2) -> Avx2 {
            unsafe { Avx2(add_products(left.0, right.0, sum.0)) }
        }
        #[inline(always)]
        unsafe fn convert(from: *const f32, n: usize, to: *mut f32) -> Row {
            unsafe {
                let (row, inverse) = row::<Avx2>(from, n);
                for k in (0..n).step_by(32) {
                    // No closure: the compiler would not have it in this function, whose instructions it needs.
                    let mut above = [_mm256_setzero_si256(); 4];
                    for (i, above) in above.iter_mut().enumerate() {
                        let left = (n - k).saturating_sub(8 * i).min(8);
                        let x = load::<Avx2>(from.wrapping_add(k + 8 * i), left);
                        let whole = _mm256_cvtps_epi32(x.mul(Avx2::splat(inverse)).0);
                        // As with AVX-512.
                        *above = _mm256_add_epi32(whole, _mm256_set1_epi32(row.zero as i32));
                    }
                    let low = _mm256_packs_epi32(above[0], above[1]);
                    let high = _mm256_packs_epi32(above[2], above[3]);
                    // Each half of 128 bits has packed its own: words 0, 2, 4, 6, then 1, 3, 5, 7.
                    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                    let words = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
                    let words = Avx2(_mm256_castsi256_ps(words));
                    let to = to.add(k / 4);
                    match (n - k).div_ceil(4) {
                        ..8 => words.store_first(to, (n - k).div_ceil(4)),
                        _ => words.store(to),
                    }
                }
                row
            }
        }
        #[inline(always)]
        unsafe fn value(sum: Avx2) -> Avx2 {
            unsafe { Avx2(_mm256_cvtepi32_ps(_mm256_castps_si256(sum.0))) }
        }
    }

    // SAFETY (of every block below): the trait's contract gives the instruction sets and the memory.
    impl Words<Avx2> for Int8ByVnni {
        const DEPTH: usize = 4;
        const SCALED: bool = true;

        #[inline(always)]
        unsafe fn dot(left: Avx2, right: Avx2, sum: Avx2) -> Avx2 {
            unsafe {
                let bits = |x: Avx2| _mm256_castps_si256(x.0);
                Avx2(_mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(bits(sum), bits(left), bits(right))))
            }
        }
        #[inline(always)]
        unsafe fn convert(from: *const f32, n: usize, to: *mut f32) -> Row {
            unsafe { <Int8 as Words<Avx2>>::convert(from, n, to) }
        }
        #[inline(always)]
        unsafe fn value(sum: Avx2) -> Avx2 {
            unsafe { <Int8 as Words<Avx2>>::value(sum) }
        }
    }

    /// One for each pair of bytes.
    static ONES: [i16; 16] = [1; 16];

    /// `sum` plus four products in each lane. One piece of assembly: sums of whole numbers may be taken in any order, and the
    /// compiler's, of several steps at once, keeps more of them than there are registers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_products(left: __m256, right: __m256, mut sum: __m256) -> __m256 {
        // SAFETY: three instructions of AVX2 on registers and 32 bytes that live forever.
        unsafe {
            asm!(
                "vpmaddubsw {products}, {left}, {right}",
                "vpmaddwd {products}, {products}, ymmword ptr [{ones}]",
                "vpaddd {sum}, {sum}, {products}",
                products = out(ymm_reg) _,
                left = in(ymm_reg) left,
                right = in(ymm_reg) right,
                ones = in(reg) &ONES,
                sum = inout(ymm_reg) sum,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        sum
    }

    /// What n elements are as unsigned int8, and one over its scale, or 0.
    ///
    /// # Safety
    /// As for [`Vector`]; the elements are readable.
    #[inline(always)]
    unsafe fn row<V: Vector>(from: *const f32, n: usize) -> (Row, f32) {
        // SAFETY: the caller vouches for the instruction set and the memory.
        unsafe {
            let zero = V::splat(0.0);
            let (mut least, mut largest, mut none) = (zero, zero, zero);
            for k in (0..n).step_by(V::LANES) {
                let x = load::<V>(from.add(k), V::LANES.min(n - k));
                (least, largest) = (least.max(zero.sub(x)), largest.max(x));
                none = none.or(x.sub(x));
            }
            let (low, high) = (-least.largest(), largest.largest());
            // A row that holds no number gives none: no int8 could say so.
            let scale = (high - low) / UINT8_MAX + none.sum();
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            (Row { scale, zero: (-low * inverse).round_ties_even() }, inverse)
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::x86::{Int8, Int8ByVnni};
    use super::*;
    use crate::device::cpu::simd::Avx2;

    /// The whole sums of the products of words of the largest numbers and some others.
    ///
    /// # Safety
    /// Requires the instruction sets of `Avx2` and `W`.
    #[target_feature(enable = "avx2,fma,avxvnni")]
    unsafe fn sums<W: Words<Avx2>>() -> Vec<f32> {
        let word = |bytes: [i8; 4]| f32::from_bits(u32::from_le_bytes(bytes.map(i8::cast_unsigned)));
        let mut found = Vec::new();
        for (left, right) in [([-1; 4], [-64; 4]), ([-1; 4], [64; 4]), ([3, 0, -128, 127], [-64, 5, 64, -1])]
        {
            let mut out = [0.0; 8];
            // SAFETY: the caller vouches for the instruction sets; `out` is a vector.
            unsafe {
                let sum = W::dot(
                    Avx2::splat(word(left)),
                    Avx2::splat(word(right)),
                    Avx2::splat(word([9, 0, 0, 0])),
                );
                W::value(sum).store(out.as_mut_ptr());
            }
            found.extend(out);
        }
        found
    }

    #[test]
    fn avx_vnni_has_the_sums_of_avx2() {
        if !is_x86_feature_detected!("avxvnni") {
            return;
        }
        // SAFETY: a CPU with AVX-VNNI has AVX2 and FMA.
        let (in_three_steps, in_one) = unsafe { (sums::<Int8>(), sums::<Int8ByVnni>()) };
        assert_eq!(in_three_steps, in_one);
        assert_eq!(in_one[..8], [9.0 - 4.0 * 255.0 * 64.0; 8]);
    }
}
