//! The rate at which the CPU reads memory: what work that does little with much is measured against.

use std::time::{Duration, Instant};

use super::simd::Vector;
use super::{Buffer, Isa};

/// Independent sums, so that no read waits for an addition.
const SUMS: usize = 8;
/// Lanes of the widest vector.
const LANES: usize = 16;
/// What is read in one pass of the loop on any instruction set, or a whole number of times that.
const BLOCK: usize = SUMS * LANES;
/// Floats that one timed piece reads at least: long beside the wait for the slowest thread.
const PIECE: usize = 1 << 24;

crate::kernel! {
    /// # Safety
    /// `data` has `blocks` blocks of floats; `sums` has room for one vector.
    fn read(blocks: usize, data: *const f32, sums: *mut f32) = read_body;
}

/// # Safety
/// As for [`Vector`]; `data` has `blocks` blocks of floats; `sums` has room for one vector.
#[inline(always)]
unsafe fn read_body<V: Vector>(blocks: usize, data: *const f32, sums: *mut f32) {
    // SAFETY: every index is below blocks * BLOCK; the caller vouches for the rest.
    unsafe {
        let mut s = [V::splat(0.0); SUMS];
        for first in (0..blocks * BLOCK).step_by(SUMS * V::LANES) {
            for (i, sum) in s.iter_mut().enumerate() {
                *sum = sum.add(V::load(data.add(first + i * V::LANES)));
            }
        }
        let all = s.into_iter().skip(1).fold(s[0], |a, b| a.add(b));
        all.store(sums);
    }
}

/// Bytes a second that all threads of the pool read together, each its share of about `bytes` bytes, over and over:
/// from memory where no cache holds them, and else from that cache. The best piece of `time`.
pub fn read_bandwidth(isa: Isa, bytes: usize, time: Duration) -> f64 {
    let threads = rayon::current_num_threads();
    let blocks = (bytes / size_of::<f32>() / BLOCK).div_ceil(threads).max(1);
    // Written, since pages that never were are all one page of zeros; by the thread that reads it, so that it is near.
    let shares: Vec<Buffer> = rayon::broadcast(|_| {
        let mut share = Buffer::zeroed(blocks * BLOCK);
        share.fill(1.0);
        share
    });
    let passes = PIECE.div_ceil(threads * blocks * BLOCK);
    let began = Instant::now();
    let mut best = 0.0f64;
    while began.elapsed() < time {
        let piece = Instant::now();
        rayon::broadcast(|thread| {
            let share = &shares[thread.index()];
            let mut sums = [0.0f32; LANES];
            for _ in 0..passes {
                // SAFETY: a share has so many blocks, and no vector has more lanes than `sums`.
                unsafe { read(isa, blocks, share.as_ptr(), sums.as_mut_ptr()) };
                // Whoever reads the sums keeps the loop from being left out.
                std::hint::black_box(sums);
            }
        });
        let read = passes * threads * blocks * BLOCK * size_of::<f32>();
        best = best.max(read as f64 / piece.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_reads_everything_once() {
        let mut data = Buffer::zeroed(3 * BLOCK);
        data.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
        for &isa in Isa::available() {
            let mut sums = [0.0f32; LANES];
            // SAFETY: `data` has three blocks, and no vector has more lanes than `sums`.
            unsafe { read(isa, 3, data.as_ptr(), sums.as_mut_ptr()) };
            let expected = (3 * BLOCK * (3 * BLOCK - 1) / 2) as f32;
            assert_eq!(sums.iter().sum::<f32>(), expected, "{}", isa.name());
        }
    }

    #[test]
    fn a_rate_is_found_for_what_fits_a_cache_and_what_does_not() {
        for bytes in [1, 1 << 12, 1 << 24] {
            let rate = read_bandwidth(Isa::available()[0], bytes, Duration::from_millis(1));
            assert!(rate > 1e7 && rate.is_finite(), "{rate} for {bytes}");
        }
    }
}
