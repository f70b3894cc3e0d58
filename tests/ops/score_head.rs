use lorb_engine::device::Memory;
use lorb_engine::ops::score_head::ScoreHead;

use crate::harness::{Oracle, Random, ULP, bits, check_derivatives, devices, row_bits, weights};
use crate::score_head_case::{Case, Classifier};

/// The documented bound of the kernels' tanh.
const TANH: f64 = 2e-7;

const CASES: [(usize, usize); 8] = [(1, 1), (2, 7), (3, 17), (7, 64), (9, 97), (13, 24), (50, 33), (2, 384)];

fn cases() -> impl Iterator<Item = Case> {
    CASES.into_iter().map(|(rows, width)| Case { rows, width })
}

/// x, W and b, side by side; the weights as large as makes z neither small nor saturated.
fn pooler_inputs(case: Case) -> Vec<f32> {
    let mut random = Random::new(7);
    let mut all = random.values(case.rows * case.width);
    let size = 2.0 / (case.width as f32).sqrt();
    all.extend(random.values((case.width + 1) * case.width).iter().map(|w| w * size));
    all
}

#[test]
fn the_pooler_is_that_of_the_oracle() {
    for case in cases() {
        let Case { rows, width } = case;
        let inputs = pooler_inputs(case);
        let dz = Random::new(8).values(rows * width);
        let forward = Oracle::forward(&case, &inputs);
        let backward = Oracle::backward(&case, &inputs, &dz);
        let (of_x, of_w, end) = (rows * width, (rows + width) * width, inputs.len());
        for cpu in devices() {
            let name = format!("on {}, {case:?}", cpu.isa().name());
            let (weight, bias) = inputs[of_x..].split_at(width * width);
            // With other parameters around those of the pooler.
            let trained = (5..5 + weight.len(), 9 + weight.len()..9 + weight.len() + width);
            for trained in [Some(trained), None] {
                let pooler = match trained.clone() {
                    Some((w, b)) => {
                        let mut parameters = vec![f32::NAN; b.end + 3];
                        parameters[w.clone()].copy_from_slice(weight);
                        parameters[b.clone()].copy_from_slice(bias);
                        cpu.trained_pooler(&[&parameters], w, b, true)
                    }
                    None => cpu.frozen_pooler(&weights(weight), &weights(bias), true),
                };
                let x = cpu.upload(&inputs[..of_x], rows, width);
                let z = cpu.pooler(&pooler, None, &x);
                forward.check(format!("pooler {name}"), &z.values(), TANH + ULP);
                for i in 0..rows {
                    let alone = cpu.pooler(&pooler, None, &cpu.upload(x.row(i), 1, width));
                    assert_eq!(row_bits(&alone, 0), row_bits(&z, i), "row {i} {name}");
                }

                let dz = cpu.upload(&dz, rows, width);
                let mut parameters = vec![0.0; weight.len() + width + 12];
                let dx = cpu.pooler_backward(&pooler, &x, &z, &dz, true, &mut parameters).unwrap();
                // An error e of z is one of 2 e in tanh'(z) = 1 - z^2, times a sum of `width` or `rows` terms.
                let floor = |terms: usize, size: f64| (2.0 * TANH + ULP) * (terms as f64).sqrt() * size;
                let largest = weight.iter().fold(0.0, |a: f64, &w| a.max(f64::from(w).abs()));
                let of_x = backward.slice(0..of_x);
                of_x.check(format!("pooler_backward dx {name}"), &dx.values(), floor(width, largest));
                let without = cpu.pooler_backward(&pooler, &x, &z, &dz, false, &mut parameters.clone());
                assert!(without.is_none());

                let Some((w, b)) = trained else {
                    assert!(parameters.iter().all(|&p| p == 0.0));
                    continue;
                };
                let (dw, db) = (&parameters[w.clone()], &parameters[b.clone()]);
                let rest: f32 = (0..parameters.len())
                    .filter(|i| !w.contains(i) && !b.contains(i))
                    .map(|i| parameters[i].abs())
                    .sum();
                assert_eq!(rest, 0.0, "{name}: a write outside the pooler's parameters");
                let oracle = backward.slice(rows * width..of_w);
                oracle.check(format!("pooler_backward dW {name}"), dw, floor(rows, 1.0));
                backward.slice(of_w..end).check(format!("pooler_backward db {name}"), db, floor(rows, 1.0));
            }
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
        for cpu in devices() {
            let name = format!("on {}, {case:?}", cpu.isa().name());
            // With other parameters around the weight.
            let among = [&[f32::NAN; 3][..], &weight, &[f32::NAN; 2]].concat();
            let classifier = cpu.classifier_weights(&[(&among, 0.3)], 3..3 + width);
            let z = cpu.upload(&z, rows, width);
            let g = cpu.classifier(&classifier, None, &z).values();
            forward.check(format!("classifier {name}"), &g, ULP * forward.largest());
            for i in 0..rows {
                let alone = cpu.classifier(&classifier, None, &cpu.upload(z.row(i), 1, width));
                assert_eq!(row_bits(&alone, 0), bits(&g[i..i + 1]), "row {i} {name}");
            }
            let mut parameters = vec![0.0; width + 5];
            let dg = cpu.upload(&dg, rows, 1);
            let dz = cpu.classifier_backward(&classifier, &z, &dg, &mut parameters);
            let name = format!("classifier_backward {name}");
            backward.slice(0..rows * width).check(&name, &dz.values(), 0.0);
            let dw = parameters.drain(3..3 + width).collect::<Vec<_>>();
            assert_eq!(parameters, [0.0; 5]);
            backward.slice(rows * width..inputs.len()).check(&name, &dw, ULP * rows as f64);
        }
    }
}

#[test]
fn the_oracles_follow_finite_differences() {
    let case = Case { rows: 3, width: 7 };
    let dz = Random::new(10).values(21);
    check_derivatives("pooler", &case, &pooler_inputs(case), &dz);
    check_derivatives("classifier", &Classifier(case, 0.3), &Random::new(11).values(28), &dz[..3]);
}
