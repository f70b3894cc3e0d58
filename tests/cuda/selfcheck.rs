use std::sync::Arc;

use lorb_emulate::Order;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::kernels::{ALL, Entry, Id};
use lorb_engine::device::cuda::selfcheck::{Check, Sizes};
use lorb_engine::device::cuda::{Cuda, Driver, Precision, Trial, Variants, measure};

use rayon::prelude::*;

use crate::emulated::Emulated;
use crate::faulty::{Fault, Faulty, faulty};

fn cpu() -> Cpu {
    Cpu::new(Isa::detect().unwrap())
}

/// All trials with their checks.
fn checks() -> impl Iterator<Item = (Trial, &'static Check)> {
    let of_hopper = |precision| Trial::all(precision, (9, 0));
    let trials = [Precision::F32, Precision::Bf16].into_iter().flat_map(of_hopper);
    trials.flat_map(|trial| trial.subject.checks().iter().map(move |check| (trial, check)))
}

/// A sound device passes every check, and there is no kernel whose wrong results pass all of them: the first
/// check that runs it tells.
#[test]
fn sound_kernels_pass_and_no_faulty_one_does() {
    let cpu = cpu();
    let orders = [Order::Forward, Order::Reverse, Order::Random(1)];
    let checks: Vec<(Trial, &Check, Order)> = checks()
        .zip(orders.into_iter().cycle())
        .map(|((trial, check), order)| (trial, check, order))
        .collect();
    let launched = |&(trial, check, order): &(Trial, &Check, Order)| {
        let recorder = Arc::new(Faulty::new(order, None));
        let driver: Arc<dyn Driver> = recorder.clone();
        let off = check.run(&driver, &cpu, trial, &Sizes::SMALL).unwrap();
        assert!(off <= 1.0, "{trial}: {}", check.operation);
        recorder.launched()
    };
    let launched: Vec<Vec<Id>> = checks.par_iter().map(launched).collect();
    ALL.par_iter().enumerate().for_each(|(number, Entry { name, .. })| {
        let first = launched.iter().position(|kernels| kernels.contains(&Id(number)));
        let (trial, check, _) = checks[first.unwrap_or_else(|| panic!("nothing checks {name}"))];
        let found = check.run(&faulty(name, Fault::Signs), &cpu, trial, &Sizes::SMALL);
        assert!(found.is_err(), "{trial}: {}: wrong results of {name} pass", check.operation);
        println!("{trial}: {}: {name}", check.operation);
    });
    for ((trial, ..), kernels) in checks.iter().zip(&launched) {
        let of_tensor_cores =
            |name: &str| ["_mma", "_fused", "_down", "_wgmma"].iter().any(|part| name.contains(part));
        let any = kernels.iter().any(|kernel| of_tensor_cores(kernel.entry().name));
        assert!(trial.limits() != Variants::PLAIN || !any, "{trial} ran on tensor cores");
    }
}

/// What the check of layer_norm in f32 says of a faulty kernel.
fn complaint(fault: Fault) -> String {
    let trial = "f32 common".parse::<Trial>().unwrap();
    let check = trial.subject.checks().iter().find(|c| c.operation == "layer_norm").unwrap();
    check.run(&faulty("layer_norm_f32", fault), &cpu(), trial, &Sizes::SMALL).unwrap_err().to_string()
}

#[test]
fn a_complaint_names_the_operation_and_what_is_wrong() {
    let wrong = complaint(Fault::Signs);
    assert!(wrong.starts_with("layer_norm: y, element 0: ") && wrong.ends_with(" on the CPU"), "{wrong}");
    let wavers = complaint(Fault::Wavers);
    assert!(wavers.starts_with("layer_norm: y, element ") && wavers.contains("two runs gave"), "{wavers}");
    let fails = complaint(Fault::Fails);
    assert!(fails.starts_with("layer_norm: layer_norm_f32, grid ") && fails.ends_with("planted"), "{fails}");
}

#[test]
fn rates_are_measured() {
    let driver: Arc<dyn Driver> = Arc::new(Emulated::new(Order::Forward));
    assert!(measure::copy_rate(&driver, 1 << 20).unwrap() > 0.0);
    let latency = measure::latency(&driver).unwrap();
    assert!(!latency.queued.is_zero() && !latency.alone.is_zero());
    let rate = measure::product_rate(&Cuda::new(driver, Precision::Bf16), 32, 64).unwrap();
    assert!(rate > 0.0 && rate.is_finite());
}
