use lorb_emulate::Order;

use crate::run::{Memory, ORDERS, Shape, found};

const SHAPE: Shape = Shape { blocks: 1, threads: 96, shared_bytes: 0 };

fn run(kernel: &str, order: Order) -> Result<Vec<f32>, String> {
    let mut memory = Memory::new();
    let parameters = memory.add(&[f32::NAN; 96]);
    memory.launch(kernel, SHAPE, &parameters, order)?;
    Ok(memory.values(0).to_vec())
}

#[test]
fn a_barrier_does_not_wait_for_threads_that_have_ended() {
    for order in ORDERS {
        let out = run("planted_early_end", order).unwrap();
        assert_eq!(out[..64], [32.0; 64], "{order:?}");
    }
}

#[test]
fn a_deadlock_names_who_waits_for_what() {
    let lanes = "31 lanes of warp 1 wait in __shfl_xor_sync, lane 5 is elsewhere";
    found("planted_deadlock", run, &["deadlock: 65 threads wait at the barrier of waiting.cu:", lanes]);
}

#[test]
fn all_threads_must_be_at_the_same_barrier() {
    found(
        "planted_divergent_barrier",
        run,
        &["divergent barrier: waits at waiting.cu:", "waits at waiting.cu:"],
    );
}

#[test]
fn all_lanes_must_be_in_the_same_operation() {
    found("planted_lane_that_ended", run, &["__shfl_xor_sync"]);
    found("planted_other_operation", run, &["__shfl_sync", "__syncwarp"]);
}

#[test]
fn the_launch_must_be_that_of_the_kernel() {
    let mut memory = Memory::new();
    let mut launch = |kernel: &str, threads, parameters: &[u64; 1]| {
        memory.launch(kernel, Shape { threads, ..SHAPE }, parameters, Order::Forward).unwrap_err()
    };
    assert!(launch("planted_nothing", 32, &[0]).contains("no such kernel"));
    assert!(launch("planted_early_end", 128, &[0]).contains("launch bounds"));
    assert!(launch("planted_turn", 64, &[0]).contains("another size"));
}
