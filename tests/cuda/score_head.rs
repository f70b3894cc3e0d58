use std::ops::Range;

use lorb_engine::device::Memory;
use lorb_engine::device::cuda::{Cuda, Precision, Tensor};
use lorb_engine::ops::score_head::ScoreHead;

use crate::devices::{devices, rounded, stored};
use crate::harness::{Oracle, Random, ULP, bits, weights};
use crate::score_head_case::{Case, Classifier};

/// The error of tanhf, as the CUDA C++ Programming Guide has it: two units in the last place.
const TANH: f64 = ULP;

/// One row, one column, tiles in full and in part, and more along the inner dimension than a block takes at once.
const CASES: [(usize, usize); 9] =
    [(1, 1), (2, 7), (3, 64), (37, 24), (5, 97), (32, 32), (67, 33), (3, 165), (2, 259)];

fn cases() -> impl Iterator<Item = Case> {
    CASES.into_iter().map(|(rows, width)| Case { rows, width })
}

/// x of a precision, W and b; the weights as large as makes z neither small nor saturated.
fn pooler_inputs(case: Case, precision: Precision) -> Vec<f32> {
    let mut random = Random::new(7);
    let mut all = rounded(&random.values(case.rows * case.width), precision);
    let size = 2.0 / (case.width as f32).sqrt();
    all.extend(random.values((case.width + 1) * case.width).iter().map(|w| w * size));
    all
}

/// Parameters with these values at two places among others.
fn among(weight: &[f32], bias: &[f32], other: f32) -> (Vec<f32>, Range<usize>, Range<usize>) {
    let (w, b) = (5..5 + weight.len(), 9 + weight.len()..9 + weight.len() + bias.len());
    let mut parameters = vec![other; b.end + 3];
    parameters[w.clone()].copy_from_slice(weight);
    parameters[b.clone()].copy_from_slice(bias);
    (parameters, w, b)
}

#[test]
fn the_pooler_is_that_of_the_oracle() {
    for case in cases() {
        let Case { rows, width } = case;
        let dz = Random::new(8).values(rows * width);
        for cuda in devices() {
            let inputs = pooler_inputs(case, cuda.precision());
            let forward = Oracle::forward(&case, &inputs);
            let backward = Oracle::backward(&case, &inputs, &dz);
            let (of_x, of_w, end) = (rows * width, (rows + width) * width, inputs.len());
            let name = format!("{:?}, {case:?}", cuda.precision());
            let (weight, bias) = inputs[of_x..].split_at(width * width);
            let (parameters, w, b) = among(weight, bias, f32::NAN);
            let parameters = cuda.parameters(&parameters);
            let trained = cuda.trained_pooler(&[&parameters], w.clone(), b.clone(), true);
            let frozen = cuda.frozen_pooler(&weights(weight), &weights(bias), true);

            let x = cuda.upload(&inputs[..of_x], rows, width);
            let z = cuda.pooler(&trained, None, &x);
            let found = cuda.download(&z).unwrap();
            forward.check(format!("pooler {name}"), &found, TANH + ULP);
            assert_eq!(
                bits(&cuda.download(&cuda.pooler(&frozen, None, &x)).unwrap()),
                bits(&found),
                "{name}"
            );
            for i in [0, rows - 1] {
                let row = cuda.upload(&inputs[i * width..][..width], 1, width);
                let alone = cuda.download(&cuda.pooler(&trained, None, &row)).unwrap();
                assert_eq!(bits(&alone), bits(&found[i * width..][..width]), "row {i} {name}");
            }

            let dz = cuda.upload_f32(&dz, rows, width);
            // An error e of z is one of 2 e in tanh'(z) = 1 - z^2, times a sum of `width` or `rows` terms.
            let floor = |terms: usize, size: f64| (2.0 * TANH + ULP) * (terms as f64).sqrt() * size;
            let largest = weight.iter().fold(0.0, |a: f64, &w| a.max(f64::from(w).abs()));
            let mut gradient = cuda.parameters(&vec![0.0; parameters.len()]);
            let dx = cuda.pooler_backward(&trained, &x, &z, &dz, true, &mut gradient).unwrap();
            let dx = cuda.download(&dx).unwrap();
            let of_x = stored(backward.slice(0..of_x), cuda.precision());
            of_x.check(format!("pooler_backward dx {name}"), &dx, floor(width, largest));
            let first = cuda.download_flat(&gradient).unwrap();
            let oracle = backward.slice(rows * width..of_w);
            oracle.check(format!("pooler_backward dW {name}"), &first[w.clone()], floor(rows, 1.0));
            let oracle = backward.slice(of_w..end);
            oracle.check(format!("pooler_backward db {name}"), &first[b.clone()], floor(rows, 1.0));

            // What was there is added to, and nothing else is touched: again, and among other values.
            let mut gradient = cuda.parameters(&vec![0.25; parameters.len()]);
            assert!(cuda.pooler_backward(&trained, &x, &z, &dz, false, &mut gradient).is_none());
            let sum: Vec<f32> = first.iter().map(|g| 0.25 + g).collect();
            assert_eq!(bits(&cuda.download_flat(&gradient).unwrap()), bits(&sum), "{name}");

            let frozen_dx = cuda.pooler_backward(&frozen, &x, &z, &dz, true, &mut gradient).unwrap();
            assert_eq!(bits(&cuda.download(&frozen_dx).unwrap()), bits(&dx), "{name}");
            assert_eq!(bits(&cuda.download_flat(&gradient).unwrap()), bits(&sum), "{name}: it is frozen");
        }
    }
}

#[test]
fn the_classifier_is_that_of_the_oracle() {
    for case in cases() {
        let Case { rows, width } = case;
        let mut random = Random::new(9);
        let (z, weight, dg) = (random.values(rows * width), random.values(width), random.values(rows));
        let op = Classifier(case, 0.3);
        let inputs = [&z[..], &weight].concat();
        let forward = Oracle::forward(&op, &inputs);
        let backward = Oracle::backward(&op, &inputs, &dg);
        for cuda in devices() {
            let name = format!("{:?}, {case:?}", cuda.precision());
            let (parameters, w, _) = among(&weight, &[], f32::NAN);
            let parameters = cuda.parameters(&parameters);
            let classifier = cuda.classifier_weights(&[(&parameters, 0.3)], w.clone());
            let z = cuda.upload_f32(&z, rows, width);
            let g = cuda.download(&cuda.classifier(&classifier, None, &z)).unwrap();
            forward.check(format!("classifier {name}"), &g, ULP * forward.largest());
            // Aligned, where the width lets it be read by 16 bytes.
            let aligned = cuda.classifier_weights(&[(&cuda.parameters(&weight), 0.3)], 0..width);
            let g = cuda.download(&cuda.classifier(&aligned, None, &z)).unwrap();
            forward.check(format!("aligned classifier {name}"), &g, ULP * forward.largest());

            let dg = cuda.upload_f32(&dg, rows, 1);
            let mut gradient = cuda.parameters(&vec![0.0; parameters.len()]);
            let dz = cuda.classifier_backward(&classifier, &z, &dg, &mut gradient);
            let name = format!("classifier_backward {name}");
            backward.slice(0..rows * width).check(&name, &cuda.download(&dz).unwrap(), 0.0);
            let first = cuda.download_flat(&gradient).unwrap();
            let oracle = backward.slice(rows * width..inputs.len());
            oracle.check(&name, &first[w.clone()], ULP * rows as f64);
            let mut gradient = cuda.parameters(&vec![0.25; parameters.len()]);
            cuda.classifier_backward(&classifier, &z, &dg, &mut gradient);
            let sum: Vec<f32> = first.iter().map(|g| 0.25 + g).collect();
            assert_eq!(bits(&cuda.download_flat(&gradient).unwrap()), bits(&sum), "{name}");
        }
    }
}

/// Everything that the head gives for the first `live` rows, with or without room for more, which holds NaN.
fn head(cuda: &Cuda, live: usize, capacity: usize) -> Vec<Vec<u32>> {
    let width = 24;
    let mut random = Random::new(12);
    let (weight, bias) = (random.values(width * width), random.values(width));
    let (parameters, w, b) = among(&weight, &bias, 0.5);
    let parameters = cuda.parameters(&parameters);
    let mut gradient = cuda.parameters(&vec![0.0; parameters.len()]);
    let (pooler, classifier) = (
        cuda.trained_pooler(&[&parameters], w, b.clone(), true),
        cuda.classifier_weights(&[(&parameters, 0.1)], b),
    );
    let rows = cuda.live_rows(capacity, live as u32);
    let mut with_nan = |columns: usize| {
        let mut values = rounded(&random.values(live * columns), cuda.precision());
        values.resize(capacity * columns, f32::NAN);
        values
    };
    let x = cuda.upload(&with_nan(width), capacity, width).with_rows(rows.clone());
    let of_z = cuda.upload_f32(&with_nan(width), capacity, width).with_rows(rows.clone());
    let dg = cuda.upload_f32(&with_nan(1), capacity, 1).with_rows(rows);

    let z = cuda.pooler(&pooler, None, &x);
    let g = cuda.classifier(&classifier, None, &z);
    let dz = cuda.classifier_backward(&classifier, &of_z, &dg, &mut gradient);
    let dx = cuda.pooler_backward(&pooler, &x, &of_z, &dz, true, &mut gradient).unwrap();
    let live_bits = |x: &Tensor| {
        let (values, columns) = (cuda.download(x).unwrap(), x.columns());
        assert!(values[live * columns..].iter().all(|x| x.is_nan()), "a write past the live rows");
        bits(&values[..live * columns])
    };
    let gradient = bits(&cuda.download_flat(&gradient).unwrap());
    vec![live_bits(&z), live_bits(&g), live_bits(&dz), live_bits(&dx), gradient]
}

#[test]
fn rows_past_the_live_ones_are_neither_read_nor_written() {
    for cuda in devices() {
        assert_eq!(head(&cuda, 5, 40), head(&cuda, 5, 5));
        assert_eq!(head(&cuda, 35, 71), head(&cuda, 35, 35));
    }
}
