use std::cell::{Cell, RefCell};
use std::sync::Arc;

use lorb_emulate::Order;
use lorb_engine::device::cuda::first_use::{FirstUse, Verdict};
use lorb_engine::device::cuda::{Cuda, Driver, Level, Precision, Trial, Unavailable, Variants};
use lorb_engine::device::{AnyDevice, Choice, Chosen, choose};
use lorb_engine::profile::Recorder;
use lorb_engine::{Error, Result};

/// Of the emulated device in bf16.
const BEST: Variants = Variants { linear: Level::Tensor, attention: Level::Tensor };

use crate::emulated::Emulated;

fn there() -> Result<Arc<dyn Driver>, Unavailable> {
    Ok(Arc::new(Emulated::new(Order::Forward)))
}

fn old() -> Unavailable {
    Unavailable::TooOldDriver { found: (12, 4), needed: (13, 0) }
}

/// The choice in bf16 where kernels do as `attempt` says.
fn choice_of(
    choice: Choice,
    open: &dyn Fn() -> Result<Arc<dyn Driver>, Unavailable>,
    attempt: &dyn Fn(Trial) -> Result<Verdict>,
) -> Result<Chosen> {
    choose(choice, Precision::Bf16, &FirstUse { folder: None, attempt }, open)
}

fn agree(_: Trial) -> Result<Verdict> {
    Ok(Verdict::Agrees)
}

#[test]
fn the_gpu_is_taken_where_there_is_one_to_use() {
    for choice in [Choice::Auto, Choice::Cuda] {
        let chosen = choice_of(choice, &there, &agree).unwrap();
        let (driver, limits) = chosen.gpu.unwrap();
        assert_eq!((driver.properties().name.as_str(), limits), ("emulated", BEST));
        assert_eq!(chosen.notes, ["device: emulated"]);
    }
}

#[test]
fn faulty_kernels_are_replaced_with_a_warning() {
    let attempt = |trial: Trial| match trial.to_string().as_str() {
        "bf16 attention tensor" => Ok(Verdict::Faulty("y, element 3: 1, and 2 on the CPU".into())),
        _ => Ok(Verdict::Agrees),
    };
    let chosen = choice_of(Choice::Auto, &there, &attempt).unwrap();
    let plainer = Variants { attention: Level::Plain, ..BEST };
    assert_eq!(chosen.gpu.unwrap().1, plainer);
    let [_, warning] = &chosen.notes[..] else { panic!("{:?}", chosen.notes) };
    assert!(warning.contains("bf16 attention tensor") && warning.contains("element 3"), "{warning}");
}

#[test]
fn a_gpu_without_kernels_to_trust_is_an_error_or_left_alone() {
    let faulty = |_| Ok(Verdict::Faulty("it was killed".into()));
    let failed = |_| Err(Error::Device("the kernels could not be checked".into()));
    let attempts: [&dyn Fn(Trial) -> Result<Verdict>; 2] = [&faulty, &failed];
    for (attempt, why) in attempts.into_iter().zip(["it was killed", "could not be checked"]) {
        let error = choice_of(Choice::Cuda, &there, attempt).err().unwrap();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains(why), "{error}");
        let chosen = choice_of(Choice::Auto, &there, attempt).unwrap();
        assert!(chosen.gpu.is_none());
        assert!(chosen.notes[0].starts_with("device: the CPU, since ") && chosen.notes[0].contains(why));
    }
}

#[test]
fn a_gpu_is_not_profiled_but_told_what_does_that() {
    let gpu = AnyDevice::Cuda(Cuda::new(there().unwrap(), Precision::Bf16));
    let refused = gpu.recorded_by(Recorder::start()).err().unwrap();
    assert_eq!(refused.exit_code(), 2);
    assert!(
        refused.to_string().contains("--device cpu") && refused.to_string().contains("nsys"),
        "{refused}"
    );
}

#[test]
fn nobody_looks_for_a_gpu_where_the_cpu_was_asked_for() {
    let looked = Cell::new(false);
    let open = || {
        looked.set(true);
        there()
    };
    let chosen = choice_of(Choice::Cpu, &open, &agree).unwrap();
    assert!(chosen.gpu.is_none() && chosen.notes.is_empty() && !looked.get());
}

#[test]
fn without_a_driver_the_cpu_is_taken_in_silence() {
    for missing in [Unavailable::NotBuilt, Unavailable::NoDriver] {
        let chosen = choice_of(Choice::Auto, &|| Err(missing.clone()), &agree).unwrap();
        assert!(chosen.gpu.is_none() && chosen.notes.is_empty());
    }
}

#[test]
fn what_is_missing_is_named() {
    let chosen = choice_of(Choice::Auto, &|| Err(old()), &agree).unwrap();
    assert!(chosen.gpu.is_none());
    let note = &chosen.notes[0];
    assert!(
        note.contains("the CPU") && note.contains("CUDA 12.4") && note.contains("580 or later"),
        "{note}"
    );

    let error = choice_of(Choice::Cuda, &|| Err(old()), &agree).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("CUDA 12.4"), "{error}");
}

/// A GPU may admit one process at a time, and trials are other processes.
#[test]
fn the_driver_is_closed_while_others_try_it() {
    let opened = RefCell::new(Vec::new());
    let open = || {
        let driver = there()?;
        opened.borrow_mut().push(Arc::downgrade(&driver));
        Ok(driver)
    };
    let attempt = |_| {
        assert!(opened.borrow().iter().all(|driver| driver.upgrade().is_none()));
        Ok(Verdict::Agrees)
    };
    let chosen = choice_of(Choice::Auto, &open, &attempt).unwrap();
    assert!(chosen.gpu.is_some());
    assert_eq!(opened.borrow().len(), 2);
}

/// Checkpoints and shards keep it, and are refused where it is another.
#[test]
fn descriptions_stay_as_they_were() {
    let of = |driver, precision| AnyDevice::Cuda(Cuda::new(driver, precision)).description();
    let plain = of(there().unwrap(), Precision::F32);
    assert_eq!(plain, "cuda sm_80 F32, lora_linear Plain, attention Plain");
    let hopper = of(Arc::new(Emulated::hopper(227 << 10, Order::Forward)), Precision::Bf16);
    assert_eq!(hopper, "cuda sm_90 Bf16, lora_linear Hopper, attention Tensor");
}
