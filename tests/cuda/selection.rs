use std::cell::Cell;
use std::sync::Arc;

use lorb_emulate::Order;
use lorb_engine::device::cuda::{Driver, Unavailable};
use lorb_engine::device::{Choice, choose};

use crate::emulated::Emulated;

fn there() -> Result<Arc<dyn Driver>, Unavailable> {
    Ok(Arc::new(Emulated::new(Order::Forward)))
}

fn old() -> Unavailable {
    Unavailable::TooOldDriver { found: (12, 4), needed: (13, 0) }
}

#[test]
fn the_gpu_is_taken_where_there_is_one_to_use() {
    for choice in [Choice::Auto, Choice::Cuda] {
        let chosen = choose(choice, there).unwrap();
        assert_eq!(chosen.driver.unwrap().properties().name, "emulated");
        assert!(chosen.note.unwrap().starts_with("device: emulated;"));
    }
}

#[test]
fn nobody_looks_for_a_gpu_where_the_cpu_was_asked_for() {
    let looked = Cell::new(false);
    let chosen = choose(Choice::Cpu, || {
        looked.set(true);
        there()
    });
    assert!(chosen.unwrap().driver.is_none() && !looked.get());
}

#[test]
fn without_a_driver_the_cpu_is_taken_in_silence() {
    for missing in [Unavailable::NotBuilt, Unavailable::NoDriver] {
        let chosen = choose(Choice::Auto, || Err(missing)).unwrap();
        assert!(chosen.driver.is_none() && chosen.note.is_none());
    }
}

#[test]
fn what_is_missing_is_named() {
    let chosen = choose(Choice::Auto, || Err(old())).unwrap();
    assert!(chosen.driver.is_none());
    let note = chosen.note.unwrap();
    assert!(
        note.contains("the CPU") && note.contains("CUDA 12.4") && note.contains("580 or later"),
        "{note}"
    );

    let error = choose(Choice::Cuda, || Err(old())).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("CUDA 12.4"), "{error}");
}
