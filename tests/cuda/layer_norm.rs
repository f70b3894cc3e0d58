use lorb_engine::device::Memory;
use lorb_engine::ops::layer_norm::{LayerNorm, NormWeights};

use crate::autodiff::{Operation, Real};
use crate::devices::{devices, rounded, stored};
use crate::harness::{Oracle, Random, ULP, weights};
use crate::oracle::{constants, layer_norm};

struct Data {
    width: usize,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

const EPS: f32 = 1e-12;

impl Operation for Data {
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R> {
        let (gamma, beta) = (constants(&self.gamma), constants(&self.beta));
        x.chunks_exact(self.width).flat_map(|row| layer_norm(row, &gamma, &beta, EPS)).collect()
    }
}

#[test]
fn both_directions_are_those_of_the_oracle() {
    for (rows, width) in [(1, 1024), (3, 7), (5, 97), (13, 384), (4, 768)] {
        for cuda in devices() {
            let name = format!("{:?}, {rows} rows of {width}", cuda.precision());
            let mut random = Random::new(3);
            let data = Data { width, gamma: random.values(width), beta: random.values(width) };
            let x = rounded(&random.values(rows * width), cuda.precision());
            let dy = rounded(&random.values(rows * width), cuda.precision());
            let forward = stored(Oracle::forward(&data, &x), cuda.precision());
            let backward = stored(Oracle::backward(&data, &x, &dy), cuda.precision());

            let (gamma, beta) = (weights(&data.gamma), weights(&data.beta));
            let norm = cuda.norm(NormWeights { gamma, beta, eps: EPS });
            let x = cuda.upload(&x, rows, width);
            let y = cuda.download(&cuda.layer_norm(&norm, &x)).unwrap();
            forward.check(format!("layer_norm {name}"), &y, 4.0 * ULP * forward.largest());
            let dy = cuda.upload(&dy, rows, width);
            let dx = cuda.download(&cuda.layer_norm_backward(&norm, &x, &dy)).unwrap();
            backward.check(format!("layer_norm_backward {name}"), &dx, 4.0 * ULP * backward.largest());
        }
    }
}

/// y = beta, and dx = (d - mean(d)) / sqrt(eps).
#[test]
fn a_row_of_one_value_is_divided_by_the_epsilon() {
    for cuda in devices() {
        let (gamma, beta, eps) = (weights(&[1.0; 32]), weights(&[0.5; 32]), 0.25);
        let norm = cuda.norm(NormWeights { gamma, beta, eps });
        let x = cuda.upload(&[2.0; 32], 1, 32);
        assert_eq!(cuda.download(&cuda.layer_norm(&norm, &x)).unwrap(), [0.5; 32]);
        let mut dy = [0.0; 32];
        (dy[0], dy[1]) = (1.0, -1.0);
        let dx = cuda.layer_norm_backward(&norm, &x, &cuda.upload(&dy, 1, 32));
        assert_eq!(cuda.download(&dx).unwrap(), dy.map(|d| 2.0 * d));
    }
}
