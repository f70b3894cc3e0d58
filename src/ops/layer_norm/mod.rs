//! LayerNorm over rows: y = (x - mean) / sqrt(variance + eps) * gamma + beta.

mod cpu;
pub mod cuda;

pub(crate) use cpu::normalise_rows;

use std::sync::Arc;

use crate::bert::Weights;
use crate::device::{Device, Memory};
use crate::profile::Work;
use crate::tape::{Backward, Gradients, Tape, Var};

/// gamma and beta [H] of a LayerNorm, and its eps.
#[derive(Clone)]
pub struct NormWeights {
    pub gamma: Weights,
    pub beta: Weights,
    pub eps: f32,
}

/// LayerNorm on a device.
pub trait LayerNorm: Memory {
    type Norm: Send + Sync + 'static;

    fn norm(&self, weights: NormWeights) -> Self::Norm;

    /// y [rows, H] of x [rows, H].
    fn layer_norm(&self, norm: &Self::Norm, x: &Self::Tensor) -> Self::Tensor;

    /// dL/dx. With x^ = (x - mean) / sd and d = dy * gamma: (d - mean(d) - x^ mean(d x^)) / sd.
    /// mean and sd are computed again from x, which costs less than to keep them.
    fn layer_norm_backward(&self, norm: &Self::Norm, x: &Self::Tensor, dy: &Self::Tensor) -> Self::Tensor;
}

/// LayerNorm of `x`. Who reads it on the way back has it computed again: x is kept in any case.
pub fn layer_norm<D: Device>(device: &D, tape: &mut Tape<'_, D>, norm: &Arc<D::Norm>, x: &Var<D>) -> Var<D> {
    let y = normalised(device, norm, &x.value);
    let (again, kept) = (norm.clone(), x.value.clone());
    tape.record(y, x.needs_gradient(), || Node { norm: norm.clone(), x: x.clone() })
        .computed_again(|| Arc::new(move |device| normalised(device, &again, &kept)))
}

fn normalised<D: Device>(device: &D, norm: &D::Norm, x: &D::Tensor) -> D::Tensor {
    let work = |y: &D::Tensor| Work::bytes(D::bytes(x) + D::bytes(y));
    device.operation("layer norm", work, || device.layer_norm(norm, x))
}

struct Node<D: Device> {
    norm: Arc<D::Norm>,
    x: Var<D>,
}

impl<D: Device> Backward<D> for Node<D> {
    fn backward(self: Box<Self>, device: &D, dy: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let x = &self.x.value;
        let work = |dx: &D::Tensor| Work::bytes(D::bytes(x) + D::bytes(&dy) + D::bytes(dx));
        let backward = || device.layer_norm_backward(&self.norm, x, &dy);
        let dx = device.operation("layer norm, backward", work, backward);
        gradients.add(device, self.x.place(), dx);
    }
}
