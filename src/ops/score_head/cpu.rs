use std::ops::Range;
use std::sync::Arc;

use super::ScoreHead;
use crate::bert::Weights;
use crate::device::cpu::gemm::{Addend, Gemm, Packed, Right, Term, gemm};
use crate::device::cpu::simd::{self, Vector, for_lanes, load, store};
use crate::device::cpu::{Cpu, Matrix, Segments};
use crate::kernel;
use crate::profile::Work;

/// One of the base, or one of each adapter.
pub struct Pooler {
    adapters: Vec<Arc<Packs>>,
    trained: Option<(Range<usize>, Range<usize>)>,
}

struct Packs {
    /// W^T for z.
    forward: Packed,
    /// W for dx, where gradients pass through.
    backward: Option<Packed>,
    bias: Vec<f32>,
}

pub struct Classifier {
    /// Weight and bias of each adapter.
    adapters: Vec<(Arc<[f32]>, f32)>,
    range: Range<usize>,
}

impl Pooler {
    /// The poolers of all `parts`, which have the same place in their adapters; nothing is packed again.
    pub(crate) fn join(parts: &[&Pooler]) -> Pooler {
        let adapters = parts.iter().flat_map(|part| part.adapters.iter().cloned()).collect();
        Pooler { adapters, trained: parts[0].trained.clone() }
    }

    /// The memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        let of = |p: &Arc<Packs>| {
            p.forward.bytes() + p.backward.as_ref().map_or(0, Packed::bytes) + 4 * p.bias.len()
        };
        self.adapters.iter().map(of).sum()
    }
}

impl Classifier {
    /// The classifiers of all `parts`, which have the same place in their adapters.
    pub(crate) fn join(parts: &[&Classifier]) -> Classifier {
        let adapters = parts.iter().flat_map(|part| part.adapters.iter().cloned()).collect();
        Classifier { adapters, range: parts[0].range.clone() }
    }

    /// The memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.adapters.iter().map(|(weight, _)| 4 * weight.len()).sum()
    }
}

impl ScoreHead for Cpu {
    type Pooler = Pooler;
    type Classifier = Classifier;

    fn frozen_pooler(&self, weight: &Weights, bias: &Weights, backward: bool) -> Pooler {
        Pooler { adapters: vec![Arc::new(self.pack_pooler(weight, bias, backward))], trained: None }
    }

    fn trained_pooler(
        &self,
        adapters: &[&Vec<f32>],
        weight: Range<usize>,
        bias: Range<usize>,
        backward: bool,
    ) -> Pooler {
        let of = |p: &&Vec<f32>| Arc::new(self.pack_pooler(&p[weight.clone()], &p[bias.clone()], backward));
        Pooler { adapters: adapters.iter().map(of).collect(), trained: Some((weight, bias)) }
    }

    fn classifier_weights(&self, adapters: &[(&Vec<f32>, f32)], weight: Range<usize>) -> Classifier {
        let of = |&(p, bias): &(&Vec<f32>, f32)| (p[weight.clone()].into(), bias);
        Classifier { adapters: adapters.iter().map(of).collect(), range: weight }
    }

    fn pooler_is_trained(pooler: &Pooler) -> bool {
        pooler.trained.is_some()
    }

    fn pooler(&self, pooler: &Pooler, segments: Option<&Segments>, x: &Matrix) -> Matrix {
        let h = x.columns();
        // That of the base is everybody's.
        let segments = segments.filter(|_| pooler.trained.is_some());
        self.fill(x.rows(), h, |z| {
            for (run, adapter) in runs(segments, x.rows()) {
                let (x, packs) = (x.slice_rows(run.clone()), &pooler.adapters[adapter]);
                let terms = [Term::new(x.data(), x.stride(), h, Right::Packed(&packs.forward))];
                let g = Gemm { bias: Some(&packs.bias), ..Gemm::plain(x.rows(), h, &terms) };
                gemm(self.isa(), g, &mut z[run.start * h..run.end * h], h);
            }
            // SAFETY: z holds z.len() floats.
            unsafe { tanh_in_place(self.isa(), z.as_mut_ptr(), z.len()) }
        })
    }

    fn pooler_product(z: &Matrix) -> Work {
        let h = z.columns();
        Work::weights(z.rows(), h * h)
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
        let h = x.columns();
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
                let weights = pooler.adapters[0].backward.as_ref().expect("packed for training");
                let terms = [Term::new(d.data(), d.stride(), h, Right::Packed(weights))];
                gemm(self.isa(), Gemm::plain(d.rows(), h, &terms), dx, h);
            })
        })
    }

    fn classifier(&self, classifier: &Classifier, segments: Option<&Segments>, z: &Matrix) -> Matrix {
        self.fill(z.rows(), 1, |g| {
            for (run, adapter) in runs(segments, z.rows()) {
                let (weight, bias) = &classifier.adapters[adapter];
                for i in run {
                    g[i] = dot(z.row(i), weight) + bias;
                }
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
                row.iter_mut().zip(&*classifier.adapters[0].0).for_each(|(x, w)| *x = d * w);
            }
        })
    }
}

impl Cpu {
    fn pack_pooler(&self, weight: &[f32], bias: &[f32], backward: bool) -> Packs {
        let h = bias.len();
        Packs {
            forward: Packed::of_adapter(self.isa(), h, h, |k, j| weight[j * h + k]),
            backward: backward.then(|| Packed::of_adapter(self.isa(), h, h, |k, j| weight[k * h + j])),
            bias: bias.to_vec(),
        }
    }
}

/// The runs of rows with their adapters: one run, where they are not several.
fn runs(segments: Option<&Segments>, rows: usize) -> Segments {
    segments.cloned().unwrap_or_else(|| vec![(0..rows, 0)])
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
    // SAFETY: `for_lanes!` stays within 0..n, for which the caller vouches.
    unsafe { for_lanes!(V, n, |j, l| store(simd::tanh(load::<V>(x.add(j), l)), x.add(j), l)) }
}
