use lorb_engine::device::Memory;

use crate::devices::{devices, rounded};
use crate::harness::{Random, bits};

#[test]
fn sums_are_those_of_the_elements() {
    for cuda in devices() {
        for (rows, columns) in [(1, 1), (7, 5), (3, 256), (2, 771)] {
            let mut random = Random::new(5);
            let mut values = |columns: usize| rounded(&random.values(rows * columns), cuda.precision());
            let (a, b) = (values(columns), values(columns + 3));
            let right = |i: usize| b[i / columns * (columns + 3) + 2 + i % columns];
            let exact: Vec<f32> = a.iter().enumerate().map(|(i, &a)| a + right(i)).collect();
            let (x, y) = (cuda.upload(&a, rows, columns), cuda.upload(&b, rows, columns + 3));
            let y = y.slice_columns(2..columns + 2);
            let sum = cuda.download(&cuda.add(&x, &y)).unwrap();
            assert_eq!(bits(&sum), bits(&rounded(&exact, cuda.precision())));
        }
    }
}

#[test]
fn rows_past_the_live_ones_are_not_written() {
    for cuda in devices() {
        let x = cuda.upload(&[1.0; 12], 4, 3).with_rows(cuda.live_rows(4, 2));
        let sum = cuda.download(&cuda.add(&x, &x)).unwrap();
        assert!(sum[..6].iter().all(|&x| x == 2.0) && sum[6..].iter().all(|x| x.is_nan()));
    }
}
