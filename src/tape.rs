//! A reverse-mode tape that knows operations only as "given dL/dy, add to dL/dx".
//!
//! It records a value only where something trainable lies behind it; walking back touches nothing else.

use crate::device::Device;

/// A value of the forward pass, and its place on the tape where a gradient must reach it.
pub struct Var<D: Device> {
    pub value: D::Tensor,
    node: Option<usize>,
}

impl<D: Device> Clone for Var<D> {
    fn clone(&self) -> Self {
        Var { value: self.value.clone(), node: self.node }
    }
}

impl<D: Device> Var<D> {
    /// A value that needs no gradient.
    pub fn constant(value: D::Tensor) -> Self {
        Var { value, node: None }
    }

    /// Whether something trainable lies behind the value.
    pub fn needs_gradient(&self) -> bool {
        self.node.is_some()
    }
}

/// The reverse of one recorded operation.
pub trait Backward<D: Device>: Send {
    /// Given `dy`, the gradient of the operation's output, adds to those of its inputs and parameters.
    fn backward(self: Box<Self>, device: &D, dy: D::Tensor, gradients: &mut Gradients<'_, D>);
}

/// Gradients on the way back: those of values not yet walked, and those of the parameters.
pub struct Gradients<'g, D: Device> {
    values: Vec<Option<D::Tensor>>,
    /// Flat, laid out as the adapter's values; operations add to it.
    pub parameters: &'g mut D::Parameters,
}

impl<D: Device> Gradients<'_, D> {
    /// Takes what has reached `x` so far, so that an operation can add to it in its own epilogue.
    /// Pair with [`set`](Self::set).
    pub fn take(&mut self, x: &Var<D>) -> Option<D::Tensor> {
        self.values[x.node?].take()
    }

    /// Sets the gradient of `x`, including what [`take`](Self::take) gave; nothing where none is needed.
    pub fn set(&mut self, x: &Var<D>, gradient: D::Tensor) {
        if let Some(node) = x.node {
            self.values[node] = Some(gradient);
        }
    }

    /// Adds `gradient` to that of `x`.
    pub fn add(&mut self, device: &D, x: &Var<D>, gradient: D::Tensor) {
        let sum = match self.take(x) {
            Some(before) => device.add(&before, &gradient),
            None => gradient,
        };
        self.set(x, sum);
    }
}

/// The operations of one forward pass, in order.
pub struct Tape<'a, D: Device> {
    nodes: Vec<Box<dyn Backward<D> + 'a>>,
    recording: bool,
}

impl<'a, D: Device + 'a> Tape<'a, D> {
    /// A tape for training.
    pub fn recording() -> Self {
        Tape { nodes: Vec::new(), recording: true }
    }

    /// A tape that keeps nothing: inference.
    pub fn idle() -> Self {
        Tape { nodes: Vec::new(), recording: false }
    }

    /// Whether operations should save what their reverse needs.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Wraps the output of an operation; `node` makes its reverse, and is called only where the tape
    /// records and `trainable` says that a gradient is wanted.
    pub fn record<B: Backward<D> + 'a>(
        &mut self,
        value: D::Tensor,
        trainable: bool,
        node: impl FnOnce() -> B,
    ) -> Var<D> {
        if !(self.recording && trainable) {
            return Var::constant(value);
        }
        self.nodes.push(Box::new(node()));
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Walks back from `seeds` (values with their gradients), adding to the parameters' gradients.
    pub fn backward(self, device: &D, seeds: Vec<(Var<D>, D::Tensor)>, parameters: &mut D::Parameters) {
        let mut gradients = Gradients { values: vec![None; self.nodes.len()], parameters };
        for (x, gradient) in seeds {
            gradients.add(device, &x, gradient);
        }
        for (i, node) in self.nodes.into_iter().enumerate().rev() {
            if let Some(dy) = gradients.values[i].take() {
                node.backward(device, dy, &mut gradients);
            }
        }
    }
}
