//! The rate of multiply-adds that the CPU can reach at all: what any product of matrices is measured against.

use std::time::{Duration, Instant};

use super::Isa;
use super::gemm::shape;
use super::simd::Vector;

/// Enough independent sums to hide the latency of two fused units, few enough for sixteen registers.
const SUMS: usize = 12;
/// Of one timed piece: long beside the wait for the slowest thread.
const ROUNDS: usize = 1 << 20;

crate::kernel! {
    /// # Safety
    /// `sums` has room for one vector.
    fn multiply_add(rounds: usize, sums: *mut f32) = multiply_add_body;
}

/// # Safety
/// As for [`Vector`]; `sums` has room for one vector.
#[inline(always)]
unsafe fn multiply_add_body<V: Vector>(rounds: usize, sums: *mut f32) {
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
                *sum = sum.mul_add(x, y);
            }
        }
        let all = s.into_iter().skip(1).fold(s[0], |a, b| a.add(b));
        all.store(sums);
    }
}

/// Lanes of the widest vector.
const LANES: usize = 16;

/// Multiply-adds of f32, counted twice, that all threads of the pool reach together: FLOP/s, the best piece of `time`.
pub fn fma_peak(isa: Isa, time: Duration) -> f64 {
    let (lanes, _) = shape(isa);
    let began = Instant::now();
    let mut best = 0.0f64;
    while began.elapsed() < time {
        let piece = Instant::now();
        let threads = rayon::broadcast(|_| {
            let mut sums = [0.0f32; LANES];
            // SAFETY: no vector has more lanes than `sums`.
            unsafe { multiply_add(isa, ROUNDS, sums.as_mut_ptr()) };
            // Whoever reads the sums keeps the loop from being left out.
            std::hint::black_box(sums);
        });
        let seconds = piece.elapsed().as_secs_f64();
        best = best.max((2 * SUMS * ROUNDS * lanes * threads.len()) as f64 / seconds);
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
            unsafe { multiply_add(isa, 3, sums.as_mut_ptr()) };
            let expected = (0..3).fold(1.0f64, |s, _| s * f64::from(0.999f32) + f64::from(1e-3f32));
            for sum in &sums[..lanes] {
                assert!((f64::from(*sum) / SUMS as f64 - expected).abs() < 1e-5, "{} {sum}", isa.name());
            }
            assert!(sums[lanes..].iter().all(|&s| s == 0.0), "{} has more lanes", isa.name());
            assert!(fma_peak(isa, Duration::from_millis(1)) > 1e8);
        }
    }
}
