use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::ScoreHead;
use crate::bert::Weights;
use crate::device::cuda::kernels::{
    CLASSIFIER, CLASSIFIER_BACKWARD, POOLER_BACKWARD_BF16, POOLER_BACKWARD_F32, POOLER_BF16, POOLER_F32,
    POOLER_GRADIENT_BF16, POOLER_GRADIENT_F32,
};
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Cuda, Flat, Precision, Tensor, tiles};

/// `Pooler` of kernels/score_head.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct PoolerParameters {
    x: Address,
    weight: Address,
    bias: Address,
    z: Address,
    dz: Address,
    dx: Address,
    d_weight: Address,
    d_bias: Address,
    rows: RowsParameter,
    width: u32,
    x_stride: u32,
}

/// `Classifier` of kernels/score_head.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ClassifierParameters {
    z: Address,
    weight: Address,
    g: Address,
    dg: Address,
    dz: Address,
    d_weight: Address,
    rows: RowsParameter,
    width: u32,
    bias: f32,
}

/// W and b as f32 in every precision: they are less than a hundredth of an encoder's weights, so a frozen
/// pooler and one that is trained can have the same kernels.
pub struct Pooler {
    /// They lie in here: parameters, which this shares, or memory of its own.
    values: Flat,
    weight: Range<usize>,
    bias: Range<usize>,
    trained: bool,
}

/// The classifier: its weight is read where the parameters are.
pub struct Classifier {
    parameters: Flat,
    weight: Range<usize>,
    bias: f32,
}

impl Pooler {
    fn new(values: Flat, weight: Range<usize>, bias: Range<usize>, trained: bool) -> Pooler {
        assert!(weight.len() == bias.len().pow(2) && weight.end <= values.len() && bias.end <= values.len());
        Pooler { values, weight, bias, trained }
    }

    /// What all of its kernels read.
    fn parameters(&self, x: &Tensor) -> PoolerParameters {
        let width = self.bias.len();
        assert_eq!(x.columns(), width);
        PoolerParameters {
            x: x.address(),
            weight: self.values.at(self.weight.start),
            bias: self.values.at(self.bias.start),
            z: Address::NULL,
            dz: Address::NULL,
            dx: Address::NULL,
            d_weight: Address::NULL,
            d_bias: Address::NULL,
            rows: x.rows().parameter(),
            width: width as u32,
            x_stride: x.stride() as u32,
        }
    }
}

/// Blocks of a product with as many rows and columns.
fn tiles_of(rows: usize, columns: usize) -> [u32; 3] {
    [(columns as u32).div_ceil(tiles::GEMM_TILE), (rows as u32).div_ceil(tiles::GEMM_TILE), 1]
}

/// Whether it is an f32 matrix without gaps, with as many rows as `like` and `columns` columns.
fn is_plain(x: &Tensor, like: &Tensor, columns: usize) -> bool {
    x.precision() == Precision::F32
        && x.rows().capacity == like.rows().capacity
        && x.columns() == columns
        && x.stride() == columns
}

impl ScoreHead for Cuda {
    type Pooler = Pooler;
    type Classifier = Classifier;

    fn frozen_pooler(&self, weight: &Weights, bias: &Weights) -> Pooler {
        let values = self.upload_flat(&[&weight[..], bias].concat());
        let end = values.len();
        Pooler::new(values, 0..weight.len(), weight.len()..end, false)
    }

    fn trained_pooler(&self, parameters: &Flat, weight: Range<usize>, bias: Range<usize>) -> Pooler {
        Pooler::new(parameters.clone(), weight, bias, true)
    }

    fn classifier_weights(&self, parameters: &Flat, weight: Range<usize>, bias: f32) -> Classifier {
        assert!(weight.end <= parameters.len());
        Classifier { parameters: parameters.clone(), weight, bias }
    }

    fn pooler_is_trained(pooler: &Pooler) -> bool {
        pooler.trained
    }

    fn pooler(&self, pooler: &Pooler, x: &Tensor) -> Tensor {
        let z = self.tensor(x.rows().clone(), x.columns(), Precision::F32);
        let parameters = PoolerParameters { z: z.address(), ..pooler.parameters(x) };
        let kernel = match x.precision() {
            Precision::F32 => POOLER_F32,
            Precision::Bf16 => POOLER_BF16,
        };
        let grid = tiles_of(x.rows().capacity, x.columns());
        // SAFETY: x and z have as many rows of `width` elements, W `width` squared and b `width`; z is new
        // memory.
        unsafe { self.launch(kernel, grid, tiles::GEMM_SHARED_BYTES, &parameters) };
        z
    }

    fn pooler_backward(
        &self,
        pooler: &Pooler,
        x: &Tensor,
        z: &Tensor,
        dz: &Tensor,
        wanted: bool,
        gradient: &mut Flat,
    ) -> Option<Tensor> {
        let (rows, width) = (x.rows().capacity, x.columns());
        assert!(is_plain(z, x, width) && is_plain(dz, x, width));
        let parameters = PoolerParameters { z: z.address(), dz: dz.address(), ..pooler.parameters(x) };
        let (of_dx, of_weight) = match x.precision() {
            Precision::F32 => (POOLER_BACKWARD_F32, POOLER_GRADIENT_F32),
            Precision::Bf16 => (POOLER_BACKWARD_BF16, POOLER_GRADIENT_BF16),
        };
        if pooler.trained {
            assert_eq!(gradient.len(), pooler.values.len(), "a gradient for each parameter");
            let parameters = PoolerParameters {
                d_weight: gradient.at(pooler.weight.start),
                d_bias: gradient.at(pooler.bias.start),
                ..parameters
            };
            // SAFETY: x, z and dz have as many rows of `width` elements; the gradient is as long as the
            // parameters, where W and b have their places, and apart from all that is read.
            unsafe {
                self.launch(of_weight, tiles_of(width, width + 1), tiles::GEMM_SHARED_BYTES, &parameters);
            }
        }
        wanted.then(|| {
            let dx = self.tensor(x.rows().clone(), width, x.precision());
            let parameters = PoolerParameters { dx: dx.address(), ..parameters };
            // SAFETY: z, dz and dx have as many rows of `width` elements, W `width` squared; dx is new memory.
            unsafe { self.launch(of_dx, tiles_of(rows, width), tiles::GEMM_SHARED_BYTES, &parameters) };
            dx
        })
    }

    fn classifier(&self, classifier: &Classifier, z: &Tensor) -> Tensor {
        let g = self.tensor(z.rows().clone(), 1, Precision::F32);
        let parameters = ClassifierParameters { g: g.address(), ..classifier.parameters(z) };
        let grid = [(z.rows().capacity as u32).div_ceil(tiles::CLASSIFIER_THREADS / 32), 1, 1];
        // SAFETY: z has as many rows of `width` floats as g has floats, w has `width`; g is new memory.
        unsafe { self.launch(CLASSIFIER, grid, 0, &parameters) };
        g
    }

    fn classifier_backward(
        &self,
        classifier: &Classifier,
        z: &Tensor,
        dg: &Tensor,
        gradient: &mut Flat,
    ) -> Tensor {
        let width = z.columns();
        assert!(is_plain(dg, z, 1));
        assert_eq!(gradient.len(), classifier.parameters.len(), "a gradient for each parameter");
        let dz = self.tensor(z.rows().clone(), width, Precision::F32);
        let parameters = ClassifierParameters {
            dg: dg.address(),
            dz: dz.address(),
            d_weight: gradient.at(classifier.weight.start),
            ..classifier.parameters(z)
        };
        let grid = [(width as u32).div_ceil(32), 1, 1];
        let shared_bytes = tiles::COLUMN_SUM_THREADS * size_of::<f32>() as u32;
        // SAFETY: z and dz have as many rows of `width` floats as dg has floats, w and its place in the
        // gradient have `width`; dz is new memory, and the gradient apart from all that is read.
        unsafe { self.launch(CLASSIFIER_BACKWARD, grid, shared_bytes, &parameters) };
        dz
    }
}

impl Classifier {
    /// What both of its kernels read.
    fn parameters(&self, z: &Tensor) -> ClassifierParameters {
        let width = self.weight.len();
        assert!(is_plain(z, z, width));
        ClassifierParameters {
            z: z.address(),
            weight: self.parameters.at(self.weight.start),
            g: Address::NULL,
            dg: Address::NULL,
            dz: Address::NULL,
            d_weight: Address::NULL,
            rows: z.rows().parameter(),
            width: width as u32,
            bias: self.bias,
        }
    }
}
