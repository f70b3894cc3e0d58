//! What kernels do before they wait for the grid before them.

use lorb_emulate::Order;

use crate::run::{Memory, ORDERS, Shape, found};

const SHAPE: Shape = Shape { blocks: 1, threads: 64, shared_bytes: 0 };

/// Once with what the host wrote, then with what that left, which the host may be said to have written.
fn run_twice(kernel: &str, by_host: bool, order: Order) -> Result<Vec<f32>, String> {
    let mut memory = Memory::new();
    let [first, second, third] = [1.0f32, 0.0, 0.0].map(|value| memory.add(&[value; 64]));
    memory.launch(kernel, SHAPE, &[first, second], order)?;
    if by_host {
        memory.written(second, 64 * 4);
    }
    memory.launch(kernel, SHAPE, &[second, third], order)?;
    Ok(memory.values(2).to_vec())
}

#[test]
fn what_the_host_wrote_may_be_read_early() {
    for order in ORDERS {
        assert_eq!(run_twice("planted_early", true, order).unwrap(), [3.0; 64], "{order:?}");
    }
}

#[test]
fn what_a_kernel_wrote_may_not() {
    let run = |kernel: &str, order| run_twice(kernel, false, order);
    found("planted_early", run, &["too early: reads ", "of the 256 bytes at", "which a kernel wrote"]);
}

#[test]
fn nothing_may_be_written_early() {
    let run = |kernel: &str, order| run_twice(kernel, true, order);
    found("planted_early_write", run, &["too early: writes ", "of the 256 bytes at"]);
}

#[test]
fn every_thread_waits() {
    let run = |kernel: &str, order| run_twice(kernel, true, order);
    found("planted_never_waits", run, &["thread 40: ends and has not waited for the grid before"]);
}
