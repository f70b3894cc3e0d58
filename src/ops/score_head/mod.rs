//! The head of `BertForSequenceClassification(num_labels=1)`: z = tanh(pooler(x)) for each [CLS] row x,
//! g = classifier(z). z are the features that the correlation loss sees, g the scores.

mod cpu;
pub mod cuda;

use std::ops::Range;

use crate::bert::Weights;
use crate::device::{Device, Memory};
use crate::profile::Work;
use crate::tape::{Backward, Gradients, Tape, Var};

/// The head on a device.
pub trait ScoreHead: Memory {
    type Pooler: Send + Sync;
    type Classifier: Send + Sync;

    /// Packs a base's own pooler, W [H, H] and b [H]; `backward` also what gradients pass through.
    fn frozen_pooler(&self, weight: &Weights, bias: &Weights, backward: bool) -> Self::Pooler;

    /// The same of a pooler that was trained: W [H, H] and b [H] lie at these places of each adapter's parameters.
    fn trained_pooler(
        &self,
        adapters: &[&Self::Parameters],
        weight: Range<usize>,
        bias: Range<usize>,
        backward: bool,
    ) -> Self::Pooler;

    /// Packs the classifier of each adapter, its parameters with its bias: the weight [H] lies at this place of
    /// the parameters; the bias is frozen, since the MWER gradients of a list sum to zero, and it would be moved
    /// by rounding errors alone.
    fn classifier_weights(
        &self,
        adapters: &[(&Self::Parameters, f32)],
        weight: Range<usize>,
    ) -> Self::Classifier;

    /// Whether dL/dz reaches anything trainable in the pooler itself.
    fn pooler_is_trained(pooler: &Self::Pooler) -> bool;

    /// z = tanh(x W^T + b): [rows, H]; of one adapter, or with `segments` of several where it is trained.
    fn pooler(
        &self,
        pooler: &Self::Pooler,
        segments: Option<&Self::Segments>,
        x: &Self::Tensor,
    ) -> Self::Tensor;

    /// For rows of one adapter: dx where `wanted`; dW and db into `parameters` where they are trained. tanh' = 1 - z^2.
    fn pooler_backward(
        &self,
        pooler: &Self::Pooler,
        x: &Self::Tensor,
        z: &Self::Tensor,
        dz: &Self::Tensor,
        wanted: bool,
        parameters: &mut Self::Parameters,
    ) -> Option<Self::Tensor>;

    /// The work of a product of the pooler's weight with rows like those of `z`, for a profile.
    fn pooler_product(_z: &Self::Tensor) -> Work {
        Work::default()
    }

    /// g = z w + c: [rows, 1]; of one adapter, or with `segments` of several.
    fn classifier(
        &self,
        classifier: &Self::Classifier,
        segments: Option<&Self::Segments>,
        z: &Self::Tensor,
    ) -> Self::Tensor;

    /// For rows of one adapter: dz; dw into `parameters`.
    fn classifier_backward(
        &self,
        classifier: &Self::Classifier,
        z: &Self::Tensor,
        dg: &Self::Tensor,
        parameters: &mut Self::Parameters,
    ) -> Self::Tensor;
}

/// The pooler of `x`, the [CLS] rows.
pub fn pooler<'a, D: Device + 'a>(
    device: &D,
    tape: &mut Tape<'a, D>,
    weights: &'a D::Pooler,
    segments: Option<&D::Segments>,
    x: &Var<D>,
) -> Var<D> {
    let work = |z: &D::Tensor| D::pooler_product(z) + Work::bytes(D::bytes(&x.value) + D::bytes(z));
    let z = device.operation("pooler", work, || device.pooler(weights, segments, &x.value));
    let trainable = x.needs_gradient() || D::pooler_is_trained(weights);
    let saved = z.clone();
    tape.record(z, trainable, || Pooler { weights, x: x.clone(), z: saved })
}

struct Pooler<'a, D: Device> {
    weights: &'a D::Pooler,
    x: Var<D>,
    z: D::Tensor,
}

impl<D: Device> Backward<D> for Pooler<'_, D> {
    fn backward(self: Box<Self>, device: &D, dz: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let wanted = self.x.needs_gradient();
        let parameters = &mut *gradients.parameters;
        let (weights, x, z) = (self.weights, &self.x.value, &self.z);
        let products = f64::from(wanted) + f64::from(D::pooler_is_trained(weights));
        let work = |dx: &Option<D::Tensor>| {
            let moved = [Some(x), Some(z), Some(&dz), dx.as_ref()].into_iter().flatten().map(D::bytes).sum();
            D::pooler_product(z) * products + Work::bytes(moved)
        };
        let backward = || device.pooler_backward(weights, x, z, &dz, wanted, parameters);
        let dx = device.operation("pooler, backward", work, backward);
        if let Some(dx) = dx {
            gradients.add(device, self.x.place(), dx);
        }
    }
}

/// The classifier of `z`. Its weight is trained with every adapter, so a recording tape records it always.
pub fn classifier<'a, D: Device + 'a>(
    device: &D,
    tape: &mut Tape<'a, D>,
    weights: &'a D::Classifier,
    segments: Option<&D::Segments>,
    z: &Var<D>,
) -> Var<D> {
    let work = |_: &D::Tensor| Work::bytes(D::bytes(&z.value));
    let g = device.operation("classifier", work, || device.classifier(weights, segments, &z.value));
    tape.record(g, true, || Classifier { weights, z: z.clone() })
}

struct Classifier<'a, D: Device> {
    weights: &'a D::Classifier,
    z: Var<D>,
}

impl<D: Device> Backward<D> for Classifier<'_, D> {
    fn backward(self: Box<Self>, device: &D, dg: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let z = &self.z.value;
        let parameters = &mut *gradients.parameters;
        let work = |dz: &D::Tensor| Work::bytes(D::bytes(z) + D::bytes(dz));
        let backward = || device.classifier_backward(self.weights, z, &dg, parameters);
        let dz = device.operation("classifier, backward", work, backward);
        gradients.add(device, self.z.place(), dz);
    }
}
