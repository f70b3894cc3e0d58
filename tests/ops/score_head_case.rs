//! The textbook's form of the head, for the tests of both devices.

use crate::autodiff::{Operation, Real};
use crate::oracle::{constants, dot, linear};

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub rows: usize,
    pub width: usize,
}

/// z = tanh(x W^T + b) of [x, W, b].
impl Operation for Case {
    fn naive<R: Real>(&self, inputs: &[R]) -> Vec<R> {
        let (x, rest) = inputs.split_at(self.rows * self.width);
        let (w, b) = rest.split_at(self.width * self.width);
        x.chunks_exact(self.width).flat_map(|x| linear(x, w, b)).map(R::tanh).collect()
    }
}

/// g = z w + c of [z, w].
pub struct Classifier(pub Case, pub f32);

impl Operation for Classifier {
    fn naive<R: Real>(&self, inputs: &[R]) -> Vec<R> {
        let (z, w) = inputs.split_at(self.0.rows * self.0.width);
        let bias = constants::<R>(&[self.1])[0];
        z.chunks_exact(self.0.width).map(|z| dot(z, w) + bias).collect()
    }
}
