//! exp, tanh and Phi, against the bounds that their documentation gives.

use lorb_engine::device::cpu::Isa;
use lorb_engine::device::cpu::simd::{self, Vector};

use crate::autodiff::Real;
use crate::harness::Random;

macro_rules! elementary {
    ($name:ident) => {
        mod $name {
            use super::*;

            lorb_engine::kernel! {
                fn all(x: *mut f32, n: usize) = each;
            }

            /// # Safety
            /// x is valid for n floats.
            #[inline(always)]
            unsafe fn each<V: Vector>(x: *mut f32, n: usize) {
                for j in (0..n).step_by(V::LANES) {
                    let l = V::LANES.min(n - j);
                    // SAFETY: lanes j..j + l lie inside 0..n.
                    unsafe { simd::store(simd::$name(simd::load::<V>(x.add(j), l)), x.add(j), l) }
                }
            }

            pub fn of(isa: Isa, x: &[f32]) -> Vec<f32> {
                let mut y = x.to_vec();
                // SAFETY: y holds y.len() floats.
                unsafe { all(isa, y.as_mut_ptr(), y.len()) }
                y
            }
        }
    };
}
elementary!(exp);
elementary!(tanh);
elementary!(normal_cdf);

/// A fine grid and random points of `from..to`, a ragged number of them.
fn arguments(from: f32, to: f32) -> Vec<f32> {
    let mut random = Random::new(1);
    let middle = (from + to) / 2.0;
    let grid = (0..=20_000).map(|i| from + (to - from) * (i as f32 / 20_000.0));
    let mut all: Vec<f32> =
        grid.chain((0..20_002).map(|_| middle + random.value() * (to - middle))).collect();
    all.extend([0.0, -0.0, 1e-30, -1e-30, f32::MIN_POSITIVE, from, to]);
    all
}

type Function = fn(Isa, &[f32]) -> Vec<f32>;

/// The largest error over `x`, absolute or relative.
fn check(name: &str, f: Function, exact: fn(f64) -> f64, x: &[f32], relative: bool, bound: f64) {
    for &isa in Isa::available() {
        let mut worst = 0.0f64;
        for (&x, y) in x.iter().zip(f(isa, x)) {
            let expected = exact(x.into());
            let error = (f64::from(y) - expected).abs() / if relative { expected } else { 1.0 };
            assert!(error <= bound, "{name} on {}: {name}({x}) = {y}, not {expected}", isa.name());
            worst = worst.max(error);
        }
        println!("{name} on {}: error {worst:.2e}, naive 0, floor {bound:.2e}", isa.name());
    }
}

#[test]
fn exp_is_within_its_bound() {
    check("exp", exp::of, f64::exp, &arguments(-87.3, 88.3), true, 2e-7);
}

#[test]
fn tanh_is_within_its_bound() {
    for range in [0.1, 1.0, 10.0, 100.0] {
        check("tanh", tanh::of, f64::tanh, &arguments(-range, range), false, 2e-7);
    }
}

#[test]
fn normal_cdf_is_within_its_bound() {
    for range in [1.0, 6.0, 100.0] {
        let phi = <f64 as Real>::normal_cdf;
        check("normal_cdf", normal_cdf::of, phi, &arguments(-range, range), false, 3e-7);
    }
}

/// The oracle's Phi, against values of a table to 16 digits.
#[test]
fn the_oracle_knows_phi() {
    for (x, expected) in [
        (0.0, 0.5),
        (1.0, 0.841_344_746_068_542_9),
        (-2.0, 0.022_750_131_948_179_21),
        (-6.0, 9.865_876_450_376_98e-10),
    ] {
        let phi = f64::normal_cdf(x);
        assert!((phi - expected).abs() <= 1e-15, "Phi({x}) = {phi}");
    }
}

#[test]
fn arguments_beyond_the_range_are_clamped_and_nan_is_kept() {
    for &isa in Isa::available() {
        let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
        let ends = exp::of(isa, &[-87.3, 88.3]);
        assert_eq!(exp::of(isa, &[low, -1e30, -88.0]), [ends[0]; 3]);
        assert_eq!(exp::of(isa, &[high, 1e30, 89.0]), [ends[1]; 3]);
        assert_eq!(tanh::of(isa, &[low, -1e30, 1e30, high]), [-1.0, -1.0, 1.0, 1.0]);
        for x in normal_cdf::of(isa, &[low, -1e30, -6.0]) {
            assert!(x.abs() <= 3e-7);
        }
        for f in [exp::of, tanh::of, normal_cdf::of] as [Function; 3] {
            // In every place of a vector, and of a partial one.
            for n in [1, 5, 8, 16, 19] {
                for i in 0..n {
                    let mut x = vec![0.5; n];
                    x[i] = f32::NAN;
                    let y = f(isa, &x);
                    assert!(y.iter().enumerate().all(|(j, y)| y.is_nan() == (i == j)), "{y:?}");
                }
            }
        }
    }
}
