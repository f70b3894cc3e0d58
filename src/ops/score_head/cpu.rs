use std::ops::Range;

use super::ScoreHead;
use crate::bert::Weights;
use crate::device::cpu::gemm::{Addend, Gemm, Packed, Right, Term, gemm};
use crate::device::cpu::simd::{self, Vector, for_lanes, load, store};
use crate::device::cpu::{Cpu, Matrix};
use crate::kernel;

pub struct Pooler {
    hidden: usize,
    /// W^T for z, W for dx.
    forward: Packed,
    backward: Packed,
    bias: Vec<f32>,
    trained: Option<(Range<usize>, Range<usize>)>,
}

pub struct Classifier {
    weight: Vec<f32>,
    bias: f32,
    range: Range<usize>,
}

impl ScoreHead for Cpu {
    type Pooler = Pooler;
    type Classifier = Classifier;

    fn frozen_pooler(&self, weight: &Weights, bias: &Weights) -> Pooler {
        self.pack_pooler(weight, bias, None)
    }

    fn trained_pooler(&self, parameters: &Vec<f32>, weight: Range<usize>, bias: Range<usize>) -> Pooler {
        let (w, b) = (&parameters[weight.clone()], &parameters[bias.clone()]);
        self.pack_pooler(w, b, Some((weight, bias)))
    }

    fn classifier_weights(&self, parameters: &Vec<f32>, weight: Range<usize>, bias: f32) -> Classifier {
        Classifier { weight: parameters[weight.clone()].to_vec(), bias, range: weight }
    }

    fn pooler_is_trained(pooler: &Pooler) -> bool {
        pooler.trained.is_some()
    }

    fn pooler(&self, pooler: &Pooler, x: &Matrix) -> Matrix {
        let h = pooler.hidden;
        self.fill(x.rows(), h, |z| {
            let terms = [Term::new(x.data(), x.stride(), h, Right::Packed(&pooler.forward))];
            let g = Gemm { bias: Some(&pooler.bias), ..Gemm::plain(x.rows(), h, &terms) };
            gemm(self.isa(), g, z, h);
            // SAFETY: z holds z.len() floats.
            unsafe { tanh_in_place(self.isa(), z.as_mut_ptr(), z.len()) }
        })
    }

    fn pooler_backward(
        &self,
        pooler: &Pooler,
        x: &Matrix,
        z: &Matrix,
        dz: &Matrix,
        wanted: bool,
        parameters: &mut Vec<f32>,
    ) -> Option<Matrix> {
        let h = pooler.hidden;
        let d = self.fill(z.rows(), h, |d| {
            for (i, row) in d.chunks_exact_mut(h).enumerate() {
                for ((d, z), dz) in row.iter_mut().zip(z.row(i)).zip(dz.row(i)) {
                    *d = dz * (1.0 - z * z);
                }
            }
        });
        if let Some((weight, bias)) = &pooler.trained {
            let right = Right::Rows { data: x.data(), stride: x.stride() };
            let terms = [Term::transposed(d.data(), d.stride(), d.rows(), right)];
            let g = Gemm { addend: Addend::Itself, ..Gemm::plain(h, h, &terms) };
            gemm(self.isa(), g, &mut parameters[weight.clone()], h);
            for i in 0..d.rows() {
                parameters[bias.clone()].iter_mut().zip(d.row(i)).for_each(|(b, d)| *b += d);
            }
        }
        wanted.then(|| {
            self.fill(d.rows(), h, |dx| {
                let terms = [Term::new(d.data(), d.stride(), h, Right::Packed(&pooler.backward))];
                gemm(self.isa(), Gemm::plain(d.rows(), h, &terms), dx, h);
            })
        })
    }

    fn classifier(&self, classifier: &Classifier, z: &Matrix) -> Matrix {
        self.fill(z.rows(), 1, |g| {
            for (i, g) in g.iter_mut().enumerate() {
                *g = dot(z.row(i), &classifier.weight) + classifier.bias;
            }
        })
    }

    fn classifier_backward(
        &self,
        classifier: &Classifier,
        z: &Matrix,
        dg: &Matrix,
        parameters: &mut Vec<f32>,
    ) -> Matrix {
        let dw = &mut parameters[classifier.range.clone()];
        for i in 0..z.rows() {
            let d = dg.row(i)[0];
            dw.iter_mut().zip(z.row(i)).for_each(|(w, z)| *w += d * z);
        }
        self.fill(z.rows(), z.columns(), |dz| {
            for (i, row) in dz.chunks_exact_mut(z.columns()).enumerate() {
                let d = dg.row(i)[0];
                row.iter_mut().zip(&classifier.weight).for_each(|(x, w)| *x = d * w);
            }
        })
    }
}

impl Cpu {
    fn pack_pooler(
        &self,
        weight: &[f32],
        bias: &[f32],
        trained: Option<(Range<usize>, Range<usize>)>,
    ) -> Pooler {
        let h = bias.len();
        Pooler {
            hidden: h,
            forward: Packed::new(self.isa(), h, h, |k, j| weight[j * h + k]),
            backward: Packed::new(self.isa(), h, h, |k, j| weight[k * h + j]),
            bias: bias.to_vec(),
            trained,
        }
    }
}

/// Summed in f64: one product a row, and the last rounding before the score.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

kernel! {
    fn tanh_in_place(x: *mut f32, n: usize) = tanh;
}

/// # Safety
/// x is valid for n floats.
#[inline(always)]
unsafe fn tanh<V: Vector>(x: *mut f32, n: usize) {
    // SAFETY: `lanes` walks 0..n.
    unsafe { for_lanes!(V, n, |j, l| store(simd::tanh(load::<V>(x.add(j), l)), x.add(j), l)) }
}
