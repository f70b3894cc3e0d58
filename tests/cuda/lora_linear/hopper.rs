//! The form for Hopper: wgmma and tensor copies.

use std::sync::Arc;

use lorb_emulate::Order;
use lorb_engine::device::Memory;
use lorb_engine::device::cuda::{Cuda, Level, Precision, Rows, Variants};

use super::{Case, Layer, Modules, Then, check};
use crate::devices::hoppers;
use crate::emulated::Emulated;

/// Rows, the room for them, input, modules.
type Shape = (usize, usize, usize, Modules);

/// One row; primes; several tiles of all widths; inner dimensions that end within a step; several parts, with
/// and without ranks; ranks of more than one step; dropout, for which there is no Hopper form of dx.
const SHAPES: [(Shape, Then, f32); 9] = [
    ((1, 1, 64, &[(64, Some(8))]), Then::Gelu, 0.0),
    ((131, 137, 72, &[(136, Some(8))]), Then::Residual, 0.0),
    ((131, 131, 136, &[(392, Some(16))]), Then::Gelu, 0.0),
    ((67, 67, 200, &[(72, Some(8)), (64, None), (40, Some(16))]), Then::Nothing, 0.0),
    ((67, 70, 72, &[(136, Some(72))]), Then::Residual, 0.0),
    ((131, 131, 136, &[(136, Some(40)), (72, Some(8))]), Then::Gelu, 0.0),
    ((35, 37, 104, &[(40, Some(8))]), Then::Gelu, 0.25),
    ((131, 131, 392, &[(520, Some(8))]), Then::Residual, 0.0),
    ((131, 131, 392, &[(264, Some(40)), (264, None)]), Then::Nothing, 0.0),
];

fn up_to(linear: Level) -> Variants {
    Variants { linear, ..Variants::PLAIN }
}

fn case(((rows, _, input, modules), then, dropout): (Shape, Then, f32)) -> Case {
    Case { rows, input, modules, range: 0..modules.len(), then, dropout }
}

#[test]
fn every_shape_is_that_of_the_oracle() {
    for cuda in hoppers() {
        for shape in SHAPES {
            check(&cuda, case(shape), shape.0.1);
        }
    }
}

/// The same sums on other units: a step of bf16 apart at most.
#[test]
fn it_is_the_form_of_mma() {
    let cuda = hoppers().next().unwrap();
    let plain = cuda.clone().limited(up_to(Level::Tensor));
    assert_eq!((cuda.limits().linear, plain.limits().linear), (Level::Hopper, Level::Tensor));
    for shape in SHAPES {
        let data = case(shape).data(Precision::Bf16);
        let run = |cuda: &Cuda| {
            let layer = Layer::new(cuda, &data, Rows::all(data.case.rows));
            let found = layer.run(&mut cuda.parameters(&vec![0.0; data.parameters.len()]), true);
            [found.y, found.slope, found.dx, found.gradient]
        };
        for (hopper, mma) in run(&cuda).iter().zip(run(&plain)) {
            let largest = mma.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= largest / 128.0;
            assert!(hopper.len() == mma.len() && hopper.iter().zip(&mma).all(close), "{:?}", data.case);
        }
    }
}

#[test]
fn it_runs_where_it_fits() {
    let ran = |shared_kib: u32, most: Level, shape: (Shape, Then, f32)| {
        let driver = Arc::new(Emulated::hopper(shared_kib << 10, Order::Forward));
        let cuda = Cuda::poisoned(driver.clone(), Precision::Bf16).limited(up_to(most));
        let data = case(shape).data(Precision::Bf16);
        let layer = Layer::new(&cuda, &data, Rows::all(data.case.rows));
        layer.run(&mut cuda.parameters(&vec![0.0; data.parameters.len()]), true);
        move |kernel: &str| driver.has_run(kernel)
    };
    let [narrow, wide, wide_dx, parts, stored, stored_wide, _, broad, stored_broad] = SHAPES;
    let of = ran(227, Level::Hopper, narrow);
    assert!(of("linear_wgmma_fused_narrow") && of("linear_dx_wgmma_fused_narrow"));
    assert!(ran(227, Level::Hopper, wide)("linear_wgmma_fused_wide"));
    assert!(ran(227, Level::Hopper, wide_dx)("linear_dx_wgmma_fused_wide"));
    // U of several modules is stored.
    let of = ran(227, Level::Hopper, parts);
    assert!(of("linear_wgmma_fused_narrow") && of("linear_dx_wgmma_narrow"));
    let of = ran(227, Level::Hopper, stored);
    assert!(of("linear_wgmma_narrow") && of("linear_dx_wgmma_narrow"));
    let of = ran(227, Level::Hopper, stored_wide);
    assert!(of("linear_wgmma_wide") && of("linear_dx_wgmma_wide"));
    let of = ran(227, Level::Hopper, broad);
    assert!(of("linear_wgmma_fused_broad") && of("linear_dx_wgmma_fused_broad"));
    let of = ran(227, Level::Hopper, stored_broad);
    assert!(of("linear_wgmma_broad") && of("linear_dx_wgmma_broad"));
    // No room for three stages of the broad one.
    assert!(ran(104, Level::Hopper, broad)("linear_wgmma_fused_wide"));
    // No room for three stages that have A as well; or not wanted.
    for of in [ran(99, Level::Hopper, narrow), ran(227, Level::Tensor, narrow)] {
        assert!(of("linear_fused_small") && of("linear_dx_fused_small"));
    }
    let of = ran(227, Level::Plain, narrow);
    assert!(of("linear_bf16") && of("linear_dx_bf16"));
}
