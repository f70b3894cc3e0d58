use lorb_engine::device::Memory;
use lorb_engine::ops::layer_norm::{LayerNorm, NormWeights};

use crate::autodiff::{Operation, Real};
use crate::harness::{Oracle, Random, ULP, check_derivatives, devices, row_bits, weights};
use crate::oracle::{constants, layer_norm, mean};

#[derive(Debug)]
struct Case {
    rows: usize,
    width: usize,
    /// Added to every element: the variance must not be lost in it.
    mean: f32,
    eps: f32,
}

struct Data<'c> {
    case: &'c Case,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn data(&self) -> Data<'_> {
        let mut random = Random::new(3);
        let (rows, width) = (self.rows, self.width);
        Data {
            case: self,
            gamma: random.values(width),
            beta: random.values(width),
            x: random.values(rows * width).into_iter().map(|x| x + self.mean).collect(),
            dy: random.values(rows * width),
        }
    }
}

impl Data<'_> {
    /// What a rounding of the mean makes of y, and twice of dx, where it is divided by a small sd.
    fn floors(&self) -> (f64, f64) {
        if self.case.width == 1 {
            return (0.0, 0.0);
        }
        let of_row = |row: &[f32]| {
            let row: Vec<f64> = row.iter().map(|&x| x.into()).collect();
            let m = mean(&row);
            let variance = mean(&row.iter().map(|x| (x - m).powi(2)).collect::<Vec<_>>());
            let sd = (variance + f64::from(self.case.eps)).sqrt();
            (ULP * m.abs() / sd, 2.0 * ULP * m.abs() / sd / sd)
        };
        let worse = |a: (f64, f64), b: (f64, f64)| (a.0.max(b.0), a.1.max(b.1));
        self.x.chunks_exact(self.case.width).map(of_row).fold((0.0, 0.0), worse)
    }
}

impl Operation for Data<'_> {
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R> {
        let (gamma, beta) = (constants(&self.gamma), constants(&self.beta));
        x.chunks_exact(self.case.width)
            .flat_map(|row| layer_norm(row, &gamma, &beta, self.case.eps))
            .collect()
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let rows = [1, 2, 3, 7, 8, 9, 13, 50, 97];
    let shapes = rows.into_iter().flat_map(|r| [1, 2, 7, 17, 64, 97, 384].map(|w| (r, w)));
    shapes.flat_map(|(rows, width)| {
        [(0.0, 1e-12), (0.3, 1e-5), (30.0, 1e-12)].map(|(mean, eps)| Case { rows, width, mean, eps })
    })
}

#[test]
fn both_directions_are_those_of_the_oracle() {
    for case in cases() {
        let data = case.data();
        let forward = Oracle::forward(&data, &data.x);
        let backward = Oracle::backward(&data, &data.x, &data.dy);
        let floors = data.floors();
        for cpu in devices() {
            let name = format!("on {}, {case:?}", cpu.isa().name());
            let norm = cpu.norm(NormWeights {
                gamma: weights(&data.gamma),
                beta: weights(&data.beta),
                eps: case.eps,
            });
            let x = cpu.upload(&data.x, case.rows, case.width);
            let y = cpu.layer_norm(&norm, &x);
            forward.check(format!("layer_norm {name}"), &y.values(), floors.0 + ULP * forward.largest());
            let dx = cpu.layer_norm_backward(&norm, &x, &cpu.upload(&data.dy, case.rows, case.width));
            let floor = floors.1 + ULP * backward.largest();
            backward.check(format!("layer_norm_backward {name}"), &dx.values(), floor);
        }
    }
}

#[test]
fn the_oracle_follows_finite_differences() {
    for width in [3, 17] {
        let case = Case { rows: 2, width, mean: 0.3, eps: 1e-5 };
        let data = case.data();
        check_derivatives(format!("{case:?}"), &data, &data.x, &data.dy);
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let case = Case { rows: 9, width: 97, mean: 0.3, eps: 1e-12 };
    let data = case.data();
    for cpu in devices() {
        let norm =
            cpu.norm(NormWeights { gamma: weights(&data.gamma), beta: weights(&data.beta), eps: case.eps });
        let (x, dy) = (cpu.upload(&data.x, 9, 97), cpu.upload(&data.dy, 9, 97));
        let (y, dx) = (cpu.layer_norm(&norm, &x), cpu.layer_norm_backward(&norm, &x, &dy));
        for i in 0..9 {
            let (x, dy) = (cpu.upload(x.row(i), 1, 97), cpu.upload(dy.row(i), 1, 97));
            assert_eq!(row_bits(&cpu.layer_norm(&norm, &x), 0), row_bits(&y, i));
            assert_eq!(row_bits(&cpu.layer_norm_backward(&norm, &x, &dy), 0), row_bits(&dx, i));
        }
    }
}
