use lorb_emulate::Order;

use crate::run::{Memory, ORDERS, Shape, found};

const BLOCKS: usize = 3;
const THREADS: usize = 64;

fn run(kernel: &str, order: Order) -> Result<Vec<f32>, String> {
    let mut memory = Memory::new();
    let parameters = [memory.add(&input()), memory.add(&[f32::NAN; BLOCKS * THREADS])];
    let shape =
        Shape { blocks: BLOCKS as u32, threads: THREADS as u32, shared_bytes: (128 + THREADS * 4) as u32 };
    memory.launch(kernel, shape, &parameters, order)?;
    Ok(memory.values(1).to_vec())
}

fn input() -> Vec<f32> {
    (0..BLOCKS * THREADS).map(|i| i as f32).collect()
}

#[track_caller]
fn passes(kernel: &str, expected: impl Fn(&[f32], usize) -> f32) {
    for order in ORDERS {
        let out = run(kernel, order).unwrap_or_else(|e| panic!("{kernel}, {order:?}: {e}"));
        let input = input();
        for (block, values) in input.chunks(THREADS).enumerate() {
            for t in 0..THREADS {
                assert_eq!(out[block * THREADS + t], expected(values, t), "{kernel}, {order:?}, thread {t}");
            }
        }
    }
}

#[test]
fn what_is_right_passes() {
    passes("planted_turn", |x, t| x[THREADS - 1 - t] + 2.0 * x[t]);
    passes("planted_neighbours", |x, t| x[t] + x[t ^ 1]);
    passes("planted_halves", |x, t| x[t] + x[THREADS - 1 - t]);
    passes("planted_broadcast", |x, t| x[t] + 1.0);
}

#[test]
fn a_missing_barrier_is_a_race() {
    found("planted_no_barrier", run, &["race: ", "of the 256 bytes of piece 1", "no barrier between"]);
    found(
        "planted_no_barrier_before_reuse",
        run,
        &["race: ", "of the 256 bytes of piece 1", "no barrier between"],
    );
    found("planted_reader_writes", run, &["race: ", "no barrier between"]);
    found("planted_write_under_readers", run, &["race: ", "barrier between"]);
}

#[test]
fn lanes_of_a_warp_need_syncwarp() {
    found("planted_no_syncwarp", run, &["race: ", "with no __syncwarp or barrier between"]);
    found("planted_shuffle_instead_of_syncwarp", run, &["race: ", "with no __syncwarp or barrier between"]);
}

#[test]
fn half_a_word_is_its_own() {
    found("planted_half_of_a_neighbour", run, &["race: ", "byte 82 of shared memory"]);
}

#[test]
fn an_access_outside_of_all_memory_is_stray() {
    found(
        "planted_past_shared",
        run,
        &["thread 63: stray access: writes 4 bytes at byte 384 of shared memory"],
    );
    found("planted_between_pieces", run, &["thread 5: ", "byte 124 of shared memory, which no piece holds"]);
    let past = "0 bytes past the 768 bytes at";
    found(
        "planted_read_past_global",
        run,
        &["thread 63: stray access: reads 4 bytes", past, "parameter at byte 0"],
    );
    found(
        "planted_write_past_global",
        run,
        &["thread 63: stray access: writes 4 bytes", past, "parameter at byte 8"],
    );
    found("planted_write_parameters", run, &["stray access: writes 4 bytes"]);
}

#[test]
fn blocks_have_no_order() {
    found("planted_same_output", run, &["conflict of blocks: writes", "wrote in the same launch"]);
    found("planted_reading_block_writes", run, &["conflict of blocks: "]);
    found("planted_output_of_next_block", run, &["conflict of blocks: "]);
}

#[test]
fn shared_memory_starts_without_a_value() {
    found("planted_unwritten", run, &["thread 54: uninitialised: reads byte 164 of shared memory"]);
}

#[test]
fn a_wide_access_must_be_aligned() {
    found("planted_misaligned", run, &["misaligned address", "memory.cu"]);
}
