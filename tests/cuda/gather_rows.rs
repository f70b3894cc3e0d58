use lorb_engine::device::Memory;
use lorb_engine::device::cuda::Rows;
use lorb_engine::ops::gather_rows::GatherRows;

use crate::devices::{devices, rounded};
use crate::harness::{Random, bits};

/// Rows of `columns`, picked by number.
fn gathered(x: &[f32], columns: usize, index: &[u32]) -> Vec<f32> {
    index.iter().flat_map(|&i| x[i as usize * columns..][..columns].to_vec()).collect()
}

/// dx += dy by row number.
fn scattered(mut dx: Vec<f32>, dy: &[f32], columns: usize, index: &[u32]) -> Vec<f32> {
    for (&i, dy) in index.iter().zip(dy.chunks_exact(columns)) {
        dx[i as usize * columns..].iter_mut().zip(dy).for_each(|(x, d)| *x += d);
    }
    dx
}

/// Copies are exact, and sums in f32 and in the order of the index: the oracle is met to the bit.
#[test]
fn rows_are_copied_and_their_gradients_summed_in_order() {
    let mut random = Random::new(5);
    let shapes = [(1, 1, 1), (1, 7, 9), (3, 17, 2), (7, 64, 50), (37, 13, 8), (5, 392, 23), (5, 3, 0)];
    for (rows, columns, picked) in shapes {
        let index: Vec<u32> = (0..picked).map(|_| random.below(rows) as u32).collect();
        for cuda in devices() {
            let mut values = |n: usize| rounded(&random.values(n), cuda.precision());
            let (x, dy) = (values(rows * columns), values(picked * columns));
            let before = values(rows * columns);
            let name = format!("{:?}, {picked} of {rows} rows of {columns}", cuda.precision());

            let at = cuda.row_index(&index, rows);
            let y = cuda.gather_rows(&cuda.upload(&x, rows, columns), &at);
            let y = cuda.download(&y).unwrap();
            assert_eq!(bits(&y), bits(&gathered(&x, columns, &index)), "{name}");
            for start in [None, Some(before)] {
                let d = cuda.upload(&dy, picked, columns);
                let added = start.as_ref().map(|x| cuda.upload(x, rows, columns));
                let dx = cuda.download(&cuda.scatter_rows(&d, &at, rows, added)).unwrap();
                let start = start.unwrap_or(vec![0.0; rows * columns]);
                let expected = rounded(&scattered(start, &dy, columns, &index), cuda.precision());
                assert_eq!(bits(&dx), bits(&expected), "{name}");
            }
        }
    }
}

/// As keys and values are of a fused projection: whether or not the columns allow loads of 16 bytes.
#[test]
fn a_range_of_columns_is_as_its_copy() {
    for range in [3..10, 8..24] {
        for cuda in devices() {
            let (columns, index) = (range.len(), [4, 0, 4]);
            let values = rounded(&Random::new(6).values(5 * 32), cuda.precision());
            let part = cuda.upload(&values, 5, 32).slice_columns(range.clone());
            let copy = cuda.upload(&cuda.download(&part).unwrap(), 5, columns);
            let at = cuda.row_index(&index, 5);
            let gathered = |x| cuda.download(&cuda.gather_rows(x, &at)).unwrap();
            assert_eq!(gathered(&part), gathered(&copy));
            let back = cuda.row_index(&[0, 1, 1, 0, 2], 5);
            let scattered = |dy, dx| cuda.download(&cuda.scatter_rows(dy, &back, 5, Some(dx))).unwrap();
            assert_eq!(scattered(&part, part.clone()), scattered(&copy, copy.clone()));
        }
    }
}

#[test]
fn rows_past_the_live_ones_are_neither_read_nor_written() {
    let (sources, rows, columns) = (Rows::all(9), Rows::all(7), 24);
    let index = [2u32, 0, 3, 3, 0, 2];
    for cuda in devices() {
        let mut random = Random::new(7);
        let mut with_nan = |live: usize, capacity: usize| {
            let live = rounded(&random.values(live * columns), cuda.precision());
            let mut all = live.clone();
            all.resize(capacity * columns, f32::NAN);
            (live, all)
        };
        let ((x, all_x), (dy, all_dy)) = (with_nan(4, rows.capacity), with_nan(6, sources.capacity));
        let sources = cuda.live_rows(sources.capacity, 6);
        let rows = cuda.live_rows(rows.capacity, 4);
        let at = cuda.row_index_within(&index, sources.clone(), rows.clone());

        let x_there = cuda.upload(&all_x, rows.capacity, columns).with_rows(rows.clone());
        let y = cuda.download(&cuda.gather_rows(&x_there, &at)).unwrap();
        assert_eq!(bits(&y[..6 * columns]), bits(&gathered(&x, columns, &index)));
        assert!(y[6 * columns..].iter().all(|y| y.is_nan()));
        let dy_there = cuda.upload(&all_dy, sources.capacity, columns).with_rows(sources);
        let dx = cuda.scatter_rows(&dy_there, &at, rows.capacity, Some(x_there));
        let dx = cuda.download(&dx).unwrap();
        let expected = rounded(&scattered(x, &dy, columns, &index), cuda.precision());
        assert_eq!(bits(&dx[..4 * columns]), bits(&expected));
        assert!(dx[4 * columns..].iter().all(|x| x.is_nan()));
    }
}
