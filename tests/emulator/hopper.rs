//! Where Hopper's engines keep which element, from two sources: the PTX ISA ("Asynchronous warpgroup level matrix
//! shared memory layout", "Register fragments for wgmma", "Swizzling modes" of tensor copies), and the layouts by
//! which CuTe describes the same (its canonical GMMA layouts, CLayout_64xN, ALayout_64x16, Swizzle<3, 4, 3>). Then
//! bugs in a product that uses all of it.

use bytemuck::{Pod, Zeroable};
use lorb_emulate::{Boxes, Order};

use crate::run::{Memory, ORDERS, Shape, found};

const THREADS: usize = 128;

/// CuTe's Swizzle<3, 4, 3> of a byte's place.
fn swizzled(place: usize) -> usize {
    place ^ (place >> 3 & 0x70)
}

/// Byte of element k of row `row`, in a tile along k.
fn along_k(row: usize, k: usize) -> usize {
    let cute = swizzled(2 * (row % 8 * 64 + row / 8 * 512 + k % 8 + k / 8 * 8));
    let ptx = row * 128 + ((k / 8) ^ (row % 8)) * 16 + k % 8 * 2;
    assert_eq!(cute, ptx);
    ptx
}

/// The same in a tile [k, columns] in boxes of 64 columns.
fn along_columns(column: usize, k: usize, box_bytes: usize) -> usize {
    let (n, of_box) = (column % 64, column / 64 * box_bytes);
    let cute = of_box + swizzled(2 * (n % 8 + n / 8 * 8 + k % 8 * 64 + k / 8 * 512));
    let ptx = of_box + k * 128 + ((n / 8) ^ (k % 8)) * 16 + n % 8 * 2;
    assert_eq!(cute, ptx);
    ptx
}

/// Row and column of register `i` of a thread, among D [64, n]; or, i being one of the 8 halves of its registers,
/// among A [64, 16].
fn fragment(thread: usize, i: usize) -> (usize, usize) {
    let (lane, warp) = (thread % 32, thread / 32);
    // ((4, 8, 4), (2, 2, n / 8)) : ((128, 1, 16), (64, 8, 512))
    let cute = lane % 4 * 128 + lane / 4 + warp * 16 + i % 2 * 64 + i / 2 % 2 * 8 + i / 4 * 512;
    let ptx = (warp * 16 + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2);
    assert_eq!((cute % 64, cute / 64), ptx);
    ptx
}

fn bf16(value: usize) -> u16 {
    assert!(value <= 256, "exact");
    ((value as f32).to_bits() >> 16) as u16
}

/// Every row of A has one element, another in each turn: a column of B tells which.
fn a_of(turn: usize, row: usize) -> (usize, usize) {
    ((row + turn) % 16, 1 + row / 16)
}

fn b_of(k: usize, column: usize) -> usize {
    1 + (column + 13 * k) % 251
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tiles {
    a: u64,
    b: u64,
    d: u64,
    a_words: u32,
    b_words: u32,
    box_bytes: u32,
    add: u32,
}

/// Tiles that hold NaN where the product does not look.
fn one_product(
    kernel: &str,
    n: usize,
    rows: bool,
    registers: bool,
    turn: usize,
    order: Order,
) -> Result<(), String> {
    let box_bytes = 16 * 128;
    let add = registers || turn.is_multiple_of(2);
    let mut a = vec![u16::MAX; if registers { 8 * THREADS } else { 64 * 64 }];
    let mut b = vec![u16::MAX; if rows { n * 16 } else { n * 64 }];
    if registers {
        for (i, half) in a.iter_mut().enumerate() {
            let (row, k) = fragment(i / 8, i % 8);
            let (of_row, value) = a_of(turn, row);
            *half = bf16(if k == of_row { value } else { 0 });
        }
    }
    for k in 0..16 {
        for row in (0..64).filter(|_| !registers) {
            let (of_row, value) = a_of(turn, row);
            a[along_k(row, k) / 2] = bf16(if k == of_row { value } else { 0 });
        }
        for column in 0..n {
            let place = if rows { along_columns(column, k, box_bytes) } else { along_k(column, k) };
            b[place / 2] = bf16(b_of(k, column));
        }
    }
    let mut memory = Memory::new();
    let parameters = Tiles {
        a: memory.add(&a),
        b: memory.add(&b),
        d: memory.add(&vec![0.5f32; THREADS * n / 2]),
        a_words: if registers { 0 } else { a.len() as u32 / 2 },
        b_words: b.len() as u32 / 2,
        box_bytes: if rows { box_bytes as u32 } else { 0 },
        add: add.into(),
    };
    memory.launch(
        kernel,
        Shape { blocks: 1, threads: THREADS as u32, shared_bytes: 24 << 10 },
        &parameters,
        order,
    )?;
    for (i, &d) in memory.values::<f32>(2).iter().enumerate() {
        let (row, column) = fragment(i / (n / 2), i % (n / 2));
        let (k, value) = a_of(turn, row);
        let expected = (value * b_of(k, column)) as f32 + if add { 0.5 } else { 0.0 };
        assert_eq!(d, expected, "{kernel}, {order:?}: D[{row}][{column}], from k {k}");
    }
    Ok(())
}

#[test]
fn a_product_of_one_element_a_row_is_that_row_of_b() {
    for (kernel, n, rows, registers) in [
        ("planted_wgmma_16", 16, false, false),
        ("planted_wgmma_64", 64, false, false),
        ("planted_wgmma_128", 128, false, false),
        ("planted_wgmma_rows_64", 64, true, false),
        ("planted_wgmma_rows_128", 128, true, false),
        ("planted_wgmma_registers_64", 64, true, true),
        ("planted_wgmma_registers_128", 128, true, true),
    ] {
        for turn in 0..16 {
            one_product(kernel, n, rows, registers, turn, ORDERS[turn % ORDERS.len()]).unwrap();
        }
    }
}

#[test]
fn tensor_cores_see_what_was_fenced() {
    let run = |kernel: &str, order| one_product(kernel, 64, false, false, 0, order);
    found("planted_no_proxy_fence", run, &["missing fence: a wgmma reads byte", "no fence.proxy.async"]);
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CopiedBox {
    map: [u64; 16],
    out: u64,
    column: u32,
    row: u32,
    matrix: u32,
    rows: u32,
    unused: [u32; 26],
}

#[test]
fn a_box_has_zeros_outside_of_the_matrix() {
    const STRIDE: usize = 88;
    let (columns, rows, matrices, box_rows) = (80, 11, 2, 16);
    let values: Vec<u16> = (0..matrices * rows * STRIDE).map(|i| 1 + i as u16).collect();
    for (i, [column, row, matrix]) in
        [[0, 0, 0], [64, 0, 1], [8, 3, 0], [16, 10, 1], [80, 0, 0], [0, 11, 0]].into_iter().enumerate()
    {
        let mut memory = Memory::new();
        let boxes = Boxes {
            address: memory.add(&values),
            columns: columns as u32,
            rows: rows as u32,
            matrices: matrices as u32,
            stride: STRIDE as u32,
            box_rows: box_rows as u32,
        };
        let parameters = CopiedBox {
            map: boxes.tensor_map(),
            out: memory.add(&vec![7u16; box_rows * 64]),
            column: column as u32,
            row: row as u32,
            matrix: matrix as u32,
            rows: box_rows as u32,
            unused: [0; 26],
        };
        let shape = Shape { blocks: 1, threads: 64, shared_bytes: 4 << 10 };
        memory.launch("planted_copy_box", shape, &parameters, ORDERS[i]).unwrap();
        let found: &[u16] = memory.values(1);
        for r in 0..box_rows {
            for c in 0..64 {
                let inside = row + r < rows && column + c < columns;
                let at = (matrix * rows + row + r) * STRIDE + column + c;
                let expected = if inside { values[at] } else { 0 };
                assert_eq!(found[along_k(r, c) / 2], expected, "row {r}, column {c} of box {i}");
            }
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OfBoxes {
    x: [u64; 16],
    w: [u64; 16],
    out: u64,
    steps: u32,
    unused: [u32; 29],
}

const STEPS: usize = 5;

/// Small whole numbers, whose products and sums are exact.
fn operand(i: usize) -> usize {
    i * i % 7
}

fn product(kernel: &str, order: Order) -> Result<Vec<f32>, String> {
    let mut memory = Memory::new();
    let values: Vec<u16> = (0..64 * 64 * STEPS).map(|i| bf16(operand(i))).collect();
    let (columns, stride) = (64 * STEPS as u32, 64 * STEPS as u32);
    let map = |address| Boxes { address, columns, rows: 64, matrices: 1, stride, box_rows: 64 }.tensor_map();
    let parameters = OfBoxes {
        x: map(memory.add(&values)),
        w: map(memory.add(&values)),
        out: memory.add(&vec![0.5f32; 64 * 64]),
        steps: STEPS as u32,
        unused: [0; 29],
    };
    let shape = Shape { blocks: 1, threads: 160, shared_bytes: (32 << 10) + 256 };
    memory.launch(kernel, shape, &parameters, order)?;
    Ok(memory.values(2).to_vec())
}

#[test]
fn a_product_of_copied_boxes_is_exact() {
    let element = |row: usize, k: usize| operand(row * 64 * STEPS + k);
    for order in ORDERS {
        for (i, d) in product("planted_product", order).unwrap().into_iter().enumerate() {
            let (row, column) = fragment(i / 32, i % 32);
            let expected: usize = (0..64 * STEPS).map(|k| element(row, k) * element(column, k)).sum();
            assert_eq!(d, expected as f32, "{order:?}: {row}, {column}");
        }
    }
}

#[test]
fn a_product_starts_with_a_fence() {
    found("planted_no_wgmma_fence", product, &["missing fence: a wgmma", "no wgmma.fence"]);
}

#[test]
fn the_copying_engine_sees_barriers_that_were_fenced() {
    found("planted_no_fence_of_barriers", product, &["missing fence: a copy of a box uses the mbarrier"]);
}

#[test]
fn bytes_that_were_not_announced_are_found() {
    // Some thread reads what has not landed, or all wait for what never comes.
    found("planted_too_few_bytes", product, &["block (0, 0, 0)"]);
    found("planted_too_many_bytes", product, &["deadlock: ", "of the mbarrier at byte", "and 16 bytes;"]);
}

#[test]
fn a_wrong_parity_is_found() {
    found("planted_wrong_parity", product, &["block (0, 0, 0)"]);
}

#[test]
fn operands_stay_until_the_product_is_done() {
    found("planted_no_wait_for_room", product, &["block (0, 0, 0)"]);
    found("planted_early_release", product, &["product under way: writes byte", "which a wgmma of warp"]);
    found("planted_writes_under_product", product, &["product under way: writes byte"]);
}

#[test]
fn a_slot_that_is_not_given_back_is_a_deadlock() {
    found(
        "planted_no_release",
        product,
        &["deadlock: ", " 1 threads wait for parity 0 of the mbarrier at byte 32896"],
    );
}

#[test]
fn each_thread_waits_for_what_it_reads() {
    // Of what has not landed, or has without their knowing.
    found("planted_lonely_wait", product, &["reads byte", "of the 32768 bytes of piece 0"]);
}

#[test]
fn sums_are_nobody_s_until_the_wait() {
    for order in ORDERS {
        let sums = product("planted_reads_sums_early", order).unwrap();
        assert!(sums.iter().all(|x| x.is_nan()), "{order:?}");
    }
    found("planted_products_never_waited", product, &["ends with 4 products that it never waited for"]);
}
