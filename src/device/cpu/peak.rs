//! The rate of multiply-adds that the CPU can reach at all: what any product of matrices is measured against.

use std::time::{Duration, Instant};

use super::Isa;
use super::gemm::packed::depth;
use super::gemm::shape;
use super::gemm::words::{Words, of_words};
use super::simd::Vector;
use crate::device::Dtype;

/// Enough independent sums to hide the latency of two fused units, few enough for sixteen registers.
const SUMS: usize = 12;
/// Of one timed piece: long beside the wait for the slowest thread.
const ROUNDS: usize = 1 << 20;

of_words! {
    /// The rounds of [`run`], on operands of this type where the CPU multiplies those.
    ///
    /// # Safety
    /// `sums` has room for one vector.
    fn multiply_add(rounds: usize, sums: *mut f32) = run;
}

/// # Safety
/// As for [`Words`]; `sums` has room for one vector.
#[inline(always)]
unsafe fn run<V: Vector, W: Words<V>>(rounds: usize, sums: *mut f32) {
    // SAFETY: the caller vouches for the instruction set and for `sums`.
    unsafe {
        let (x, y) = (V::splat(0.999), V::splat(1e-3));
        // Equal sums would be computed once, were it known that they are.
        let mut s = [V::splat(0.0); SUMS];
        for sum in &mut s {
            *sum = V::splat(std::hint::black_box(1.0));
        }
        for _ in 0..rounds {
            for sum in &mut s {
                *sum = W::dot(x, y, *sum);
            }
        }
        // No closure: the compiler would not have it in this function, whose instructions it needs.
        let mut all = W::value(s[0]);
        for &sum in &s[1..] {
            all = all.add(W::value(sum));
        }
        all.store(sums);
    }
}

/// Lanes of the widest vector.
const LANES: usize = 16;

/// Multiply-adds of `dtype`, or of f32 where the CPU does not multiply that, counted twice, that all threads of the pool
/// reach together: FLOP/s, the best piece of `time`.
pub fn fma_peak(isa: Isa, dtype: Dtype, time: Duration) -> f64 {
    let (lanes, _) = shape(isa);
    let depth = if isa.multiplies(dtype) { depth(dtype) } else { 1 };
    let began = Instant::now();
    let mut best = 0.0f64;
    while began.elapsed() < time {
        let piece = Instant::now();
        let threads = rayon::broadcast(|_| {
            let mut sums = [0.0f32; LANES];
            // SAFETY: no vector has more lanes than `sums`.
            unsafe { multiply_add(isa, dtype, ROUNDS, sums.as_mut_ptr()) };
            // Whoever reads the sums keeps the loop from being left out.
            std::hint::black_box(sums);
        });
        let seconds = piece.elapsed().as_secs_f64();
        best = best.max((2 * SUMS * ROUNDS * lanes * depth * threads.len()) as f64 / seconds);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_computes_what_it_counts() {
        for &isa in Isa::available() {
            let (lanes, _) = shape(isa);
            let mut sums = [0.0f32; LANES];
            // SAFETY: no vector has more lanes than `sums`.
            unsafe { multiply_add(isa, Dtype::F32, 3, sums.as_mut_ptr()) };
            let expected = 1.0 + 3.0 * f64::from(0.999f32) * f64::from(1e-3f32);
            for sum in &sums[..lanes] {
                assert!((f64::from(*sum) / SUMS as f64 - expected).abs() < 1e-5, "{} {sum}", isa.name());
            }
            assert!(sums[lanes..].iter().all(|&s| s == 0.0), "{} has more lanes", isa.name());
            if isa.multiplies(Dtype::Int8) {
                // Whole numbers: those of the first sums' bits, and four products of bytes a round.
                let bytes = |x: f32| x.to_bits().to_le_bytes();
                let pairs = bytes(0.999).into_iter().zip(bytes(1e-3));
                let products: i32 = pairs.map(|(x, y)| i32::from(x) * i32::from(y.cast_signed())).sum();
                let expected = f64::from(1.0f32.to_bits()) + 3.0 * f64::from(products);
                // SAFETY: as above.
                unsafe { multiply_add(isa, Dtype::Int8, 3, sums.as_mut_ptr()) };
                for sum in &sums[..lanes] {
                    let relative = f64::from(*sum) / SUMS as f64 / expected;
                    assert!((relative - 1.0).abs() < 1e-6, "int8 on {}: {sum}", isa.name());
                }
            }
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
                assert!(fma_peak(isa, dtype, Duration::from_millis(1)) > 1e8);
            }
        }
    }
}
