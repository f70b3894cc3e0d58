//! The head of `BertForSequenceClassification(num_labels=1)`: z = tanh(pooler(x)) for each [CLS] row x,
//! g = classifier(z). z are the features that the correlation loss sees, g the scores.

mod cpu;

use std::ops::Range;

use crate::device::{Device, Memory};
use crate::tape::{Backward, Gradients, Tape, Var};

/// The pooler of a model: frozen, or trained and then part of the flat parameters.
pub struct PoolerWeights<'p> {
    /// [H, H]
    pub weight: &'p [f32],
    /// [H]
    pub bias: &'p [f32],
    /// Where the weight and the bias lie among the parameters, if they are trained.
    pub trained: Option<(Range<usize>, Range<usize>)>,
}

/// The classifier: weight [H], and a bias that is frozen (the MWER gradients of a list sum to zero, so
/// it would be moved by rounding errors alone).
pub struct ClassifierWeights<'p> {
    pub weight: &'p [f32],
    pub bias: f32,
    /// Where the weight lies among the parameters, if the adapter trains it.
    pub trained: Option<Range<usize>>,
}

/// The head on a device.
pub trait ScoreHead: Memory {
    type Pooler: Send + Sync;
    type Classifier: Send + Sync;

    fn pooler_weights(&self, weights: PoolerWeights<'_>) -> Self::Pooler;
    fn classifier_weights(&self, weights: ClassifierWeights<'_>) -> Self::Classifier;

    /// Whether dL/dz reaches anything trainable in the pooler itself.
    fn pooler_is_trained(pooler: &Self::Pooler) -> bool;

    /// z = tanh(x W^T + b): [rows, H].
    fn pooler(&self, pooler: &Self::Pooler, x: &Self::Tensor) -> Self::Tensor;

    /// dx where `wanted`; dW and db into `parameters` where they are trained. tanh' = 1 - z^2.
    fn pooler_backward(
        &self,
        pooler: &Self::Pooler,
        x: &Self::Tensor,
        z: &Self::Tensor,
        dz: &Self::Tensor,
        wanted: bool,
        parameters: &mut Self::Parameters,
    ) -> Option<Self::Tensor>;

    /// g = z w + c: [rows, 1].
    fn classifier(&self, classifier: &Self::Classifier, z: &Self::Tensor) -> Self::Tensor;

    /// dz; dw into `parameters` where it is trained.
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
    x: &Var<D>,
) -> Var<D> {
    let z = device.pooler(weights, &x.value);
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
        let dx = device.pooler_backward(self.weights, &self.x.value, &self.z, &dz, wanted, parameters);
        if let Some(dx) = dx {
            gradients.add(device, &self.x, dx);
        }
    }
}

/// The classifier of `z`. Its weight is trained with every adapter, so a recording tape records it always.
pub fn classifier<'a, D: Device + 'a>(
    device: &D,
    tape: &mut Tape<'a, D>,
    weights: &'a D::Classifier,
    z: &Var<D>,
) -> Var<D> {
    let g = device.classifier(weights, &z.value);
    tape.record(g, true, || Classifier { weights, z: z.clone() })
}

struct Classifier<'a, D: Device> {
    weights: &'a D::Classifier,
    z: Var<D>,
}

impl<D: Device> Backward<D> for Classifier<'_, D> {
    fn backward(self: Box<Self>, device: &D, dg: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let dz = device.classifier_backward(self.weights, &self.z.value, &dg, gradients.parameters);
        gradients.add(device, &self.z, dz);
    }
}
