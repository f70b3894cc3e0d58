//! A reverse-mode tape that knows operations only as "given dL/dy, add to dL/dx".
//!
//! It records a value only where something trainable lies behind it; walking back touches nothing else.

use std::sync::Arc;

use crate::device::{Device, Memory};
use crate::profile::Work;

/// A value of the forward pass, and its place on the tape.
pub struct Var<D: Device> {
    pub value: D::Tensor,
    place: Place<D>,
    /// How the value is computed again, where that costs less than to keep it for the way back.
    again: Option<Again<D>>,
}

type Again<D> = Arc<dyn Fn(&D) -> <D as Memory>::Tensor + Send + Sync>;

/// What an operation keeps of an input whose value its reverse needs.
pub enum Kept<D: Device> {
    Value(D::Tensor),
    Again(Again<D>),
}

/// Where the gradient of a value goes: what an operation keeps of an input whose value its reverse has no use for.
pub struct Place<D: Device> {
    /// Where a gradient must reach it.
    node: Option<usize>,
    /// GELU' at its argument, of the output of a GELU: on the way back stands the gradient of the argument
    /// in place of the output's, so that whoever computes the latter multiplies while it has it at hand.
    slope: Option<D::Slope>,
}

impl<D: Device> Clone for Var<D> {
    fn clone(&self) -> Self {
        Var { value: self.value.clone(), place: self.place.clone(), again: self.again.clone() }
    }
}

impl<D: Device> Clone for Place<D> {
    fn clone(&self) -> Self {
        Place { node: self.node, slope: self.slope.clone() }
    }
}

impl<D: Device> Var<D> {
    /// A value that needs no gradient.
    pub fn constant(value: D::Tensor) -> Self {
        Var { value, place: Place { node: None, slope: None }, again: None }
    }

    /// Whether something trainable lies behind the value.
    pub fn needs_gradient(&self) -> bool {
        self.place.needs_gradient()
    }

    /// The same as the output of a GELU with this slope.
    pub fn with_slope(self, slope: Option<D::Slope>) -> Self {
        Var { place: Place { slope, ..self.place }, ..self }
    }

    /// The same, whose value `again` computes to the bit: where something trainable lies behind it, else it is never
    /// asked for.
    pub fn computed_again(self, again: impl FnOnce() -> Again<D>) -> Self {
        let again = self.needs_gradient().then(again);
        Var { again, ..self }
    }

    /// What an operation keeps of the value.
    pub fn keep(&self) -> Kept<D> {
        self.again.clone().map_or_else(|| Kept::Value(self.value.clone()), Kept::Again)
    }

    pub fn place(&self) -> &Place<D> {
        &self.place
    }
}

impl<D: Device> Kept<D> {
    pub fn value(&self, device: &D) -> D::Tensor {
        match self {
            Kept::Value(value) => value.clone(),
            Kept::Again(again) => again(device),
        }
    }
}

impl<D: Device> Place<D> {
    /// Whether something trainable lies behind the value.
    pub fn needs_gradient(&self) -> bool {
        self.node.is_some()
    }

    /// GELU' at its argument, where the value is the output of a GELU.
    pub fn slope(&self) -> Option<&D::Slope> {
        self.slope.as_ref()
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
    /// Takes what has reached `x` so far, so that an operation can add to it in its own epilogue. Pair with
    /// [`set`](Self::set).
    ///
    /// # Panics
    /// For the output of a GELU, which only a product may read: it multiplies by the slope in its epilogue.
    pub fn take(&mut self, x: &Place<D>) -> Option<D::Tensor> {
        assert!(x.slope.is_none(), "{GELU}");
        self.take_sloped(x)
    }

    /// Sets the gradient of `x`, including what [`take`](Self::take) gave; nothing where none is needed.
    ///
    /// # Panics
    /// As [`take`](Self::take).
    pub fn set(&mut self, x: &Place<D>, gradient: D::Tensor) {
        assert!(x.slope.is_none(), "{GELU}");
        self.set_sloped(x, gradient);
    }

    /// Takes what has reached `x` so far, times its slope where it has one. Pair with
    /// [`set_sloped`](Self::set_sloped).
    pub fn take_sloped(&mut self, x: &Place<D>) -> Option<D::Tensor> {
        self.values[x.node?].take()
    }

    /// Sets the gradient of `x` times its slope where it has one, including what
    /// [`take_sloped`](Self::take_sloped) gave; nothing where none is needed.
    pub fn set_sloped(&mut self, x: &Place<D>, gradient: D::Tensor) {
        if let Some(node) = x.node {
            self.values[node] = Some(gradient);
        }
    }

    /// Adds `gradient` to that of `x`.
    ///
    /// # Panics
    /// As [`take`](Self::take).
    pub fn add(&mut self, device: &D, x: &Place<D>, gradient: D::Tensor) {
        if !x.needs_gradient() {
            return;
        }
        let sum = match self.take(x) {
            Some(before) => {
                let work = |sum: &D::Tensor| Work::bytes(3.0 * D::bytes(sum));
                device.operation("add", work, || device.add(&before, &gradient))
            }
            None => gradient,
        };
        self.set(x, sum);
    }
}

const GELU: &str = "only a product reads the output of a GELU";

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
        Var { value, place: Place { node: Some(self.nodes.len() - 1), slope: None }, again: None }
    }

    /// Walks back from `seeds` (values with their gradients), adding to the parameters' gradients.
    pub fn backward(self, device: &D, seeds: Vec<(Var<D>, D::Tensor)>, parameters: &mut D::Parameters) {
        let mut gradients = Gradients { values: vec![None; self.nodes.len()], parameters };
        for (x, gradient) in seeds {
            gradients.add(device, x.place(), gradient);
        }
        for (i, node) in self.nodes.into_iter().enumerate().rev() {
            if let Some(dy) = gradients.values[i].take() {
                node.backward(device, dy, &mut gradients);
            }
        }
    }
}
