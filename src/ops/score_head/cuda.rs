use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::ScoreHead;
use crate::bert::Weights;
use crate::device::cuda::kernels::{
    CLASSIFIER, CLASSIFIER_BACKWARD, POOLER_BACKWARD_BF16, POOLER_BACKWARD_F32, POOLER_BF16, POOLER_F32,
    POOLER_GRADIENT_BF16, POOLER_GRADIENT_F32,
};
use crate::device::cuda::memory::Block;
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Cuda, Flat, Precision, Segments, Tensor, tiles};

/// `Pooler` of kernels/score_head.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct PoolerParameters {
    x: Address,
    parameters: Address,
    row_tiles: Address,
    z: Address,
    dz: Address,
    dx: Address,
    d_weight: Address,
    d_bias: Address,
    rows: RowsParameter,
    weight: u32,
    bias: u32,
    width: u32,
    x_stride: u32,
}

/// `Classifier` of kernels/score_head.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ClassifierParameters {
    z: Address,
    parameters: Address,
    bias: Address,
    row_tiles: Address,
    g: Address,
    dg: Address,
    dz: Address,
    d_weight: Address,
    rows: RowsParameter,
    weight: u32,
    width: u32,
}

/// Parameters of each adapter, where kernels find their addresses: shared, so that what is trained is read in
/// place.
struct Parameters {
    of: Vec<Flat>,
    addresses: Block,
}

impl Parameters {
    fn new(cuda: &Cuda, of: Vec<Flat>) -> Parameters {
        let addresses: Vec<u64> = of.iter().map(|flat| flat.address().0).collect();
        let block = cuda.block(size_of_val(&addresses[..]));
        cuda.write(&block, &addresses);
        Parameters { of, addresses: block }
    }

    /// Whether all of them have a place that ends there.
    fn reach(&self, end: usize) -> bool {
        self.of.iter().all(|flat| end <= flat.len())
    }

    /// Where a kernel finds whose the rows are, and the blocks in y that have them, as many as `height` rows each.
    fn tiles(&self, segments: Option<&Segments>, rows: usize, height: u32) -> (Address, u32) {
        let Some(segments) = segments else { return (Address::NULL, (rows as u32).div_ceil(height)) };
        assert!(segments.adapters() <= self.of.len() && segments.rows() <= rows, "no such adapter or row");
        let (table, count) = segments.table(height as usize);
        (table, count as u32)
    }
}

/// W and b as f32 in every precision: they are less than a hundredth of an encoder's weights, so a frozen
/// pooler and one that is trained can have the same kernels.
pub struct Pooler {
    parameters: Parameters,
    weight: Range<usize>,
    bias: Range<usize>,
    trained: bool,
}

/// The classifier of each adapter: its weight is read where the parameters are.
pub struct Classifier {
    parameters: Parameters,
    weight: Range<usize>,
    bias: Flat,
}

impl Pooler {
    fn new(parameters: Parameters, weight: Range<usize>, bias: Range<usize>, trained: bool) -> Pooler {
        assert!(weight.len() == bias.len().pow(2) && parameters.reach(weight.end.max(bias.end)));
        Pooler { parameters, weight, bias, trained }
    }

    /// What all of its kernels read.
    fn parameters(&self, x: &Tensor) -> PoolerParameters {
        let width = self.bias.len();
        assert_eq!(x.columns(), width);
        PoolerParameters {
            x: x.address(),
            parameters: self.parameters.addresses.address(),
            rows: x.rows().parameter(),
            weight: self.weight.start as u32,
            bias: self.bias.start as u32,
            width: width as u32,
            x_stride: x.stride() as u32,
            ..Zeroable::zeroed()
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

    fn frozen_pooler(&self, weight: &Weights, bias: &Weights, _backward: bool) -> Pooler {
        let values = self.upload_flat(&[&weight[..], bias].concat());
        let end = values.len();
        Pooler::new(Parameters::new(self, vec![values]), 0..weight.len(), weight.len()..end, false)
    }

    fn trained_pooler(
        &self,
        adapters: &[&Flat],
        weight: Range<usize>,
        bias: Range<usize>,
        _backward: bool,
    ) -> Pooler {
        let of = adapters.iter().copied().cloned().collect();
        Pooler::new(Parameters::new(self, of), weight, bias, true)
    }

    fn classifier_weights(&self, adapters: &[(&Flat, f32)], weight: Range<usize>) -> Classifier {
        let (of, bias): (Vec<_>, Vec<_>) = adapters.iter().map(|&(flat, bias)| (flat.clone(), bias)).unzip();
        let parameters = Parameters::new(self, of);
        assert!(parameters.reach(weight.end));
        Classifier { parameters, weight, bias: self.upload_flat(&bias) }
    }

    fn pooler_is_trained(pooler: &Pooler) -> bool {
        pooler.trained
    }

    fn pooler(&self, pooler: &Pooler, segments: Option<&Segments>, x: &Tensor) -> Tensor {
        let z = self.tensor(x.rows().clone(), x.columns(), Precision::F32);
        // That of the base is everybody's.
        let segments = segments.filter(|_| pooler.trained);
        let (row_tiles, blocks) = pooler.parameters.tiles(segments, x.rows().capacity, tiles::GEMM_TILE);
        let parameters = PoolerParameters { z: z.address(), row_tiles, ..pooler.parameters(x) };
        let kernel = match x.precision() {
            Precision::F32 => POOLER_F32,
            Precision::Bf16 => POOLER_BF16,
        };
        let grid = [(x.columns() as u32).div_ceil(tiles::GEMM_TILE), blocks, 1];
        // SAFETY: x and z have as many rows of `width` elements, and the parameters of each adapter that the
        // segments name have places for W, `width` squared, and b, `width`; z is new memory.
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
            assert_eq!(gradient.len(), pooler.parameters.of[0].len(), "a gradient for each parameter");
            let parameters = PoolerParameters {
                d_weight: gradient.at(pooler.weight.start),
                d_bias: gradient.at(pooler.bias.start),
                ..parameters
            };
            // SAFETY: x, z and dz have as many rows of `width` elements; the gradient is as long as the
            // parameters, where W and b have their places, and apart from all that is read.
            unsafe {
                self.launch(of_weight, tiles_of(width, width + 1), tiles::GEMM_GROUP_BYTES, &parameters);
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

    fn classifier(&self, classifier: &Classifier, segments: Option<&Segments>, z: &Tensor) -> Tensor {
        let g = self.tensor(z.rows().clone(), 1, Precision::F32);
        let (row_tiles, blocks) = classifier.parameters.tiles(segments, z.rows().capacity, tiles::GEMM_TILE);
        let parameters = ClassifierParameters { g: g.address(), row_tiles, ..classifier.parameters(z) };
        let grid = [tiles::GEMM_TILE / tiles::CLASSIFIER_ROWS, blocks, 1];
        // SAFETY: z has as many rows of `width` floats as g has floats, w has `width` in the parameters of each
        // adapter that the segments name, which has a bias too; g is new memory.
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
        assert_eq!(gradient.len(), classifier.parameters.of[0].len(), "a gradient for each parameter");
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
            parameters: self.parameters.addresses.address(),
            bias: self.bias.address(),
            rows: z.rows().parameter(),
            weight: self.weight.start as u32,
            width: width as u32,
            ..Zeroable::zeroed()
        }
    }
}
