use lorb_engine::device::Memory;
use lorb_engine::ops::gather_rows::GatherRows;

use crate::harness::{Random, bits, devices};

/// Copies and sums in the order of the index are exact: the oracle is f32 to the bit.
#[test]
fn rows_are_copied_and_their_gradients_summed_in_order() {
    let mut random = Random::new(5);
    for (rows, columns, picked) in
        [(1, 1, 1), (1, 7, 9), (3, 17, 2), (7, 64, 50), (97, 13, 8), (13, 384, 97), (5, 3, 0)]
    {
        let index: Vec<u32> = (0..picked).map(|_| random.below(rows) as u32).collect();
        let (x, dy) = (random.values(rows * columns), random.values(picked * columns));
        let before = random.values(rows * columns);
        let name = format!("{picked} of {rows} rows of {columns}");

        let gathered: Vec<f32> =
            index.iter().flat_map(|&i| x[i as usize * columns..][..columns].to_vec()).collect();
        let scattered = |mut dx: Vec<f32>| {
            for (&i, dy) in index.iter().zip(dy.chunks_exact(columns)) {
                dx[i as usize * columns..].iter_mut().zip(dy).for_each(|(x, d)| *x += d);
            }
            dx
        };
        for cpu in devices() {
            let at = cpu.index(&index);
            let y = cpu.gather_rows(&cpu.upload(&x, rows, columns), &at);
            assert_eq!(bits(&y.values()), bits(&gathered), "{name}");
            let dy = cpu.upload(&dy, picked, columns);
            let dx = cpu.scatter_rows(&dy, &at, rows, None);
            assert_eq!(bits(&dx.values()), bits(&scattered(vec![0.0; rows * columns])), "{name}");
            let dx = cpu.scatter_rows(&dy, &at, rows, Some(cpu.upload(&before, rows, columns)));
            assert_eq!(bits(&dx.values()), bits(&scattered(before.clone())), "{name}");
        }
    }
}

/// As queries are of a fused projection.
#[test]
fn a_range_of_columns_is_gathered_and_added_as_its_copy() {
    let values = Random::new(6).values(5 * 12);
    for cpu in devices() {
        let whole = cpu.upload(&values, 5, 12);
        let part = whole.slice_columns(3..10);
        let copy = cpu.upload(&part.values(), 5, 7);
        assert_eq!(part.values()[7], values[12 + 3]);
        let at = cpu.index(&[4, 0, 4]);
        assert_eq!(cpu.gather_rows(&part, &at).values(), cpu.gather_rows(&copy, &at).values());
        let sum = cpu.add(&part, &copy).values();
        assert_eq!(sum, copy.values().iter().map(|x| x + x).collect::<Vec<_>>());
    }
}
