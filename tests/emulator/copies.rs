use lorb_emulate::Order;

use crate::run::{Memory, ORDERS, Shape, found};

const CHUNK: usize = 256;
const CHUNKS: usize = 5;

fn run(kernel: &str, order: Order) -> Result<Vec<f32>, String> {
    let mut memory = Memory::new();
    let parameters = [memory.add(&input()), memory.add(&[0.0f32; CHUNK])];
    let shape = Shape { blocks: 1, threads: 64, shared_bytes: 3 << 10 };
    memory.launch(kernel, shape, &parameters, order)?;
    Ok(memory.values(1).to_vec())
}

fn input() -> Vec<f32> {
    (0..CHUNK * CHUNKS).map(|i| (i * i % 1009) as f32).collect()
}

#[test]
fn what_is_right_passes() {
    let turned = |i: usize| input().chunks(CHUNK).map(|c| c[CHUNK - 1 - i]).sum::<f32>();
    let expected: Vec<f32> = (0..CHUNK).map(turned).collect();
    for order in ORDERS {
        assert_eq!(run("planted_copies", order).unwrap(), expected, "{order:?}");
    }
}

#[test]
fn nobody_touches_a_copy_that_was_not_waited_for() {
    for kernel in ["planted_no_wait", "planted_wait_for_too_few", "planted_no_commit"] {
        found(kernel, run, &["copy under way: reads byte", "was not waited for"]);
    }
}

#[test]
fn a_wait_is_for_the_copies_of_its_thread() {
    // The other's copy has landed without a barrier, or not yet.
    found("planted_no_barrier_after_wait", run, &["of shared memory", "thread"]);
    found("planted_early_barrier", run, &["thread 1: ", "reads byte 0 of shared memory", "thread 0"]);
}

#[test]
fn a_copy_writes_as_its_thread_does() {
    found("planted_no_barrier_before_copy", run, &["of shared memory", "thread"]);
}

#[test]
fn copies_do_not_outlive_their_thread() {
    found("planted_never_waited", run, &["ends with 1 asynchronous copies"]);
}

#[test]
fn both_ends_are_aligned() {
    found("planted_misaligned_copy", run, &["cp.async of what is not aligned to 16 bytes"]);
}

#[test]
fn the_source_stays_until_the_copy_has_landed() {
    found("planted_source_changes", run, &["wrote while a copy was under way"]);
}
