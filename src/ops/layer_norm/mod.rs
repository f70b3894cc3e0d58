//! LayerNorm over rows: y = (x - mean) / sqrt(variance + eps) * gamma + beta.

mod cpu;
pub mod cuda;

pub(crate) use cpu::normalise_rows;

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
    type Norm: Send + Sync;

    fn norm(&self, weights: NormWeights) -> Self::Norm;

    /// y [rows, H] of x [rows, H].
    fn layer_norm(&self, norm: &Self::Norm, x: &Self::Tensor) -> Self::Tensor;

    /// dL/dx. With x^ = (x - mean) / sd and d = dy * gamma: (d - mean(d) - x^ mean(d x^)) / sd.
    /// mean and sd are computed again from x, which costs less than to keep them.
    fn layer_norm_backward(&self, norm: &Self::Norm, x: &Self::Tensor, dy: &Self::Tensor) -> Self::Tensor;
}

/// LayerNorm of `x`.
pub fn layer_norm<'a, D: Device + 'a>(
    device: &D,
    tape: &mut Tape<'a, D>,
    norm: &'a D::Norm,
    x: &Var<D>,
) -> Var<D> {
    let work = |y: &D::Tensor| Work::bytes(D::bytes(&x.value) + D::bytes(y));
    let y = device.operation("layer norm", work, || device.layer_norm(norm, &x.value));
    tape.record(y, x.needs_gradient(), || Node { norm, x: x.clone() })
}

struct Node<'a, D: Device> {
    norm: &'a D::Norm,
    x: Var<D>,
}

impl<D: Device> Backward<D> for Node<'_, D> {
    fn backward(self: Box<Self>, device: &D, dy: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let x = &self.x.value;
        let work = |dx: &D::Tensor| Work::bytes(D::bytes(x) + D::bytes(&dy) + D::bytes(dx));
        let backward = || device.layer_norm_backward(self.norm, x, &dy);
        let dx = device.operation("layer norm, backward", work, backward);
        gradients.add(device, self.x.place(), dx);
    }
}
