use super::{LayerNorm, NormWeights};
use crate::device::cpu::simd::{Vector, for_lanes, keep_first, load, store};
use crate::device::cpu::{Cpu, Isa, Matrix};
use crate::kernel;

impl LayerNorm for Cpu {
    type Norm = NormWeights;

    fn norm(&self, weights: NormWeights) -> NormWeights {
        weights
    }

    fn layer_norm(&self, norm: &NormWeights, x: &Matrix) -> Matrix {
        let h = x.columns();
        assert!(norm.gamma.len() == h && norm.beta.len() == h);
        self.fill(x.rows(), h, |out| {
            for (i, y) in out.chunks_exact_mut(h).enumerate() {
                let (x, y) = (x.row(i).as_ptr(), y.as_mut_ptr());
                // SAFETY: the four rows hold h floats, and y overlaps none of the others.
                unsafe { forward_row(self.isa(), x, norm.gamma.as_ptr(), norm.beta.as_ptr(), y, h, norm.eps) }
            }
        })
    }

    fn layer_norm_backward(&self, norm: &NormWeights, x: &Matrix, dy: &Matrix) -> Matrix {
        let h = x.columns();
        assert!(norm.gamma.len() == h && dy.columns() == h && dy.rows() == x.rows());
        self.fill(x.rows(), h, |out| {
            for (i, dx) in out.chunks_exact_mut(h).enumerate() {
                // SAFETY: the four rows hold h floats, and dx overlaps none of the others.
                unsafe {
                    backward_row(
                        self.isa(),
                        x.row(i).as_ptr(),
                        dy.row(i).as_ptr(),
                        norm.gamma.as_ptr(),
                        dx.as_mut_ptr(),
                        h,
                        norm.eps,
                    );
                }
            }
        })
    }
}

/// Normalises every row of `rows` in place; gamma and beta hold h floats.
pub(crate) fn normalise_rows(isa: Isa, rows: &mut [f32], h: usize, gamma: &[f32], beta: &[f32], eps: f32) {
    assert!(gamma.len() == h && beta.len() == h);
    for row in rows.chunks_exact_mut(h) {
        let x = row.as_mut_ptr();
        // SAFETY: the three slices hold h floats, and the row, which is read and written, overlaps no other.
        unsafe { forward_row(isa, x, gamma.as_ptr(), beta.as_ptr(), x, h, eps) }
    }
}

kernel! {
    fn forward_row(
        x: *const f32, gamma: *const f32, beta: *const f32, y: *mut f32, h: usize, eps: f32,
    ) = forward;
}

kernel! {
    fn backward_row(
        x: *const f32, dy: *const f32, gamma: *const f32, dx: *mut f32, h: usize, eps: f32,
    ) = backward;
}

/// # Safety
/// The pointers are valid for h floats; y overlaps neither gamma nor beta, and x only where it is x.
#[inline(always)]
unsafe fn forward<V: Vector>(
    x: *const f32,
    gamma: *const f32,
    beta: *const f32,
    y: *mut f32,
    h: usize,
    eps: f32,
) {
    // SAFETY: `for_lanes!` stays within 0..h, for which the caller vouches.
    unsafe {
        let (mean, scale) = moments::<V>(x, h, eps);
        let (mean, scale) = (V::splat(mean), V::splat(scale));
        for_lanes!(V, h, |j, n| {
            let z = load::<V>(x.add(j), n).sub(mean).mul(scale);
            let z = z.mul_add(load::<V>(gamma.add(j), n), load::<V>(beta.add(j), n));
            store(z, y.add(j), n);
        });
    }
}

/// # Safety
/// The pointers are valid for h floats; dx overlaps nothing else.
#[inline(always)]
unsafe fn backward<V: Vector>(
    x: *const f32,
    dy: *const f32,
    gamma: *const f32,
    dx: *mut f32,
    h: usize,
    eps: f32,
) {
    // SAFETY: `for_lanes!` stays within 0..h, for which the caller vouches.
    unsafe {
        let (mean, scale) = moments::<V>(x, h, eps);
        let (mean, scale_v) = (V::splat(mean), V::splat(scale));
        let (mut sum, mut dot) = (V::splat(0.0), V::splat(0.0));
        for_lanes!(V, h, |j, n| {
            let d = load::<V>(dy.add(j), n).mul(load::<V>(gamma.add(j), n));
            let z = load::<V>(x.add(j), n).sub(mean).mul(scale_v);
            sum = sum.add(d);
            dot = d.mul_add(z, dot);
        });
        let (mean_d, mean_dz) = (V::splat(sum.sum() / h as f32), V::splat(dot.sum() / h as f32));
        for_lanes!(V, h, |j, n| {
            let d = load::<V>(dy.add(j), n).mul(load::<V>(gamma.add(j), n));
            let z = load::<V>(x.add(j), n).sub(mean).mul(scale_v);
            store(d.sub(mean_d).sub(z.mul(mean_dz)).mul(scale_v), dx.add(j), n);
        });
    }
}

/// The mean of a row and 1 / sqrt(variance + eps), in two passes: the second one is exact where the mean
/// is large.
///
/// # Safety
/// x is valid for h floats.
#[inline(always)]
unsafe fn moments<V: Vector>(x: *const f32, h: usize, eps: f32) -> (f32, f32) {
    // SAFETY: `for_lanes!` stays within 0..h, for which the caller vouches.
    unsafe {
        let mut sum = V::splat(0.0);
        for_lanes!(V, h, |j, n| sum = sum.add(load::<V>(x.add(j), n)));
        let mean = sum.sum() / h as f32;
        let mut squares = V::splat(0.0);
        for_lanes!(V, h, |j, n| {
            let d = load::<V>(x.add(j), n).sub(V::splat(mean));
            // Lanes past the row hold -mean, not 0: leave them out.
            let d = if n == V::LANES { d } else { keep_first(d, n) };
            squares = d.mul_add(d, squares);
        });
        (mean, 1.0 / (squares.sum() / h as f32 + eps).sqrt())
    }
}
