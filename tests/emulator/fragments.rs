//! Where the tensor cores keep which element, from two sources: the formulas of the PTX ISA ("Matrix Fragments
//! for mma.m16n8k16 with floating point type", "ldmatrix"), and the layouts by which CuTe describes the same
//! instruction (SM80_16x8x16_F32BF16BF16F32_TN).

use bytemuck::{Pod, Zeroable};
use lorb_emulate::Order;

use crate::run::{Memory, ORDERS, Shape, found};

const LANES: usize = 32;
const ONE: u16 = 0x3f80;

/// A layout of CuTe: a coordinate is counted in these shapes, and each digit times its stride is summed.
type Layout<'a> = &'a [(usize, usize)];

fn offset(layout: Layout, mut coordinate: usize) -> usize {
    let mut offset = 0;
    for (shape, stride) in layout {
        offset += coordinate % shape * stride;
        coordinate /= shape;
    }
    offset
}

/// Which element is value `i` of a lane.
struct Fragment {
    values: usize,
    rows: usize,
    columns: usize,
    lanes: Layout<'static>,
    elements: Layout<'static>,
    ptx: fn(group: usize, place: usize, i: usize) -> (usize, usize),
}

const A: Fragment = Fragment {
    values: 8,
    rows: 16,
    columns: 16,
    lanes: &[(4, 32), (8, 1)],
    elements: &[(2, 16), (2, 8), (2, 128)],
    ptx: |group, place, i| {
        let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
        (row, place * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
    },
};

/// B transposed, [8, 16], as CuTe has it.
const B: Fragment = Fragment {
    values: 4,
    rows: 8,
    columns: 16,
    lanes: &[(4, 16), (8, 1)],
    elements: &[(2, 8), (2, 64)],
    ptx: |group, place, i| (group, place * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }),
};

const D: Fragment = Fragment {
    values: 4,
    rows: 16,
    columns: 8,
    lanes: &[(4, 32), (8, 1)],
    elements: &[(2, 16), (2, 8)],
    ptx: |group, place, i| (if i < 2 { group } else { group + 8 }, place * 2 + (i & 1)),
};

impl Fragment {
    /// The row and column of value `i` of `lane`.
    fn element(&self, lane: usize, i: usize) -> (usize, usize) {
        let at = offset(self.lanes, lane) + offset(self.elements, i);
        (at % self.rows, at / self.rows)
    }

    /// The number of an element among the values of all lanes.
    fn place(&self, row: usize, column: usize) -> usize {
        let holds = |&at: &usize| self.element(at / self.values, at % self.values) == (row, column);
        (0..LANES * self.values).find(holds).unwrap()
    }
}

#[test]
fn both_sources_say_the_same() {
    for fragment in [A, B, D] {
        let mut seen = vec![false; fragment.rows * fragment.columns];
        for lane in 0..LANES {
            for i in 0..fragment.values {
                let (row, column) = fragment.element(lane, i);
                assert_eq!((row, column), (fragment.ptx)(lane / 4, lane % 4, i));
                seen[row * fragment.columns + column] = true;
            }
        }
        assert!(seen.iter().all(|&s| s));
    }
}

#[test]
fn a_product_of_one_element_each_is_one_element() {
    // Block (k, column) has a B that is 1 there and 0 elsewhere.
    let mut b = vec![0u16; 128 * LANES * 4];
    for block in 0..128 {
        b[block * LANES * 4 + B.place(block % 8, block / 8)] = ONE;
    }
    for row in 0..16 {
        for k in 0..16 {
            let mut a = vec![0u16; LANES * 8];
            a[A.place(row, k)] = ONE;
            let mut expected = vec![0.5f32; 128 * LANES * 4];
            for column in 0..8 {
                expected[(k * 8 + column) * LANES * 4 + D.place(row, column)] += 1.0;
            }

            let mut memory = Memory::new();
            let parameters = [memory.add(&a), memory.add(&b), memory.add(&vec![0.5f32; 128 * LANES * 4])];
            let shape = Shape { blocks: 128, threads: 32, shared_bytes: 0 };
            memory.launch("planted_mma", shape, &parameters, ORDERS[k % ORDERS.len()]).unwrap();
            assert_eq!(memory.values::<f32>(2), expected, "row {row}, k {k}");
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ldmatrix {
    matrices: u64,
    r: u64,
    transposed: u32,
    skewed: u32,
}

/// The 16-bit halves of the registers, by lane, register and half.
fn ldmatrix(kernel: &str, transposed: bool, skewed: u32, order: Order) -> Result<Vec<u16>, String> {
    let mut memory = Memory::new();
    let matrices: Vec<u16> = (1000..1000 + 4 * 64).collect();
    let (matrices, r) = (memory.add(&matrices), memory.add(&[0u32; 4 * LANES]));
    let parameters = Ldmatrix { matrices, r, transposed: transposed.into(), skewed };
    let shape = Shape { blocks: 1, threads: 32, shared_bytes: 32 * 32 };
    memory.launch(kernel, shape, &parameters, order)?;
    Ok(memory.values(1).to_vec())
}

#[test]
fn ldmatrix_gives_each_element_to_its_lane() {
    for order in ORDERS {
        let plain = ldmatrix("planted_ldmatrix", false, 0, order).unwrap();
        let transposed = ldmatrix("planted_ldmatrix", true, 0, order).unwrap();
        for matrix in 0..4 {
            for row in 0..8 {
                for column in 0..8 {
                    let value = 1000 + (matrix * 64 + row * 8 + column) as u16;
                    // Lane 4 i + j has elements 2 j and 2 j + 1 of row i.
                    let place = |i: usize, j: usize| ((i * 4 + j / 2) * 4 + matrix) * 2 + j % 2;
                    assert_eq!(plain[place(row, column)], value);
                    assert_eq!(transposed[place(column, row)], value);
                }
            }
        }
    }
}

#[test]
fn ldmatrix_takes_aligned_rows_of_shared_memory() {
    let skewed = |kernel: &str, order| ldmatrix(kernel, false, 4, order);
    found("planted_ldmatrix", skewed, &["ldmatrix of a row that is not aligned to 16 bytes"]);
    let aligned = |kernel: &str, order| ldmatrix(kernel, false, 0, order);
    found("planted_ldmatrix_of_global", aligned, &["ldmatrix of what is not shared memory"]);
}
