//! Scaled dot-product attention over packed sequences (Vaswani et al., arXiv 1706.03762), by offsets:
//! sequence s owns the query rows `query_offsets[s]..query_offsets[s + 1]` and the key rows
//! `key_offsets[s]..key_offsets[s + 1]`. In the last layer each sequence has one query, its [CLS] row.

mod cpu;
pub mod cuda;

use crate::device::{Device, Memory};
use crate::profile::Work;
use crate::tape::{Backward, Gradients, Tape, Var};

/// The shape of an attention: heads, their size, and where the sequences lie. The offsets ascend, and end
/// within the rows of the inputs; else the operations panic.
pub struct Shape<'a, D: Memory> {
    pub heads: usize,
    pub head_size: usize,
    pub query_offsets: &'a D::Index,
    pub key_offsets: &'a D::Index,
    /// Whether every sequence has one query, so that `query_offsets` is 0, 1, 2, …
    pub single_query: bool,
}

impl<D: Memory> Clone for Shape<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Memory> Copy for Shape<'_, D> {}

impl<D: Memory> Shape<'_, D> {
    /// 1 / sqrt(head size), what scores are multiplied by.
    fn scale(&self) -> f32 {
        1.0 / (self.head_size as f32).sqrt()
    }
}

/// Queries, keys and values.
#[derive(Clone)]
pub enum Inputs<T> {
    /// [T, 3 H]: query, key and value of every token.
    Fused(T),
    /// [Q, H] queries of some rows, and [T, 2 H]: key and value of every token.
    Split(T, T),
}

/// Attention on a device.
pub trait Attention: Memory {
    /// [queries, H], and the log-sum-exp of each query's scaled scores for each head, [queries, heads].
    fn attention(
        &self,
        shape: Shape<'_, Self>,
        inputs: &Inputs<Self::Tensor>,
    ) -> (Self::Tensor, Self::Tensor);

    /// The gradients of the inputs, of the same form. The probabilities are computed again from the
    /// log-sum-exp: dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)), dQ = c dS K, dK = c dS^T Q,
    /// c = 1 / sqrt(head size).
    fn attention_backward(
        &self,
        shape: Shape<'_, Self>,
        inputs: &Inputs<Self::Tensor>,
        output: &Self::Tensor,
        log_sum_exp: &Self::Tensor,
        dy: &Self::Tensor,
    ) -> Inputs<Self::Tensor>;

    /// The work of one of attention's products, for a profile.
    fn attention_product(_shape: Shape<'_, Self>) -> Work {
        Work::default()
    }
}

/// The attention of `inputs`.
pub fn attention<'a, D: Device + 'a>(
    device: &D,
    tape: &mut Tape<'a, D>,
    shape: Shape<'a, D>,
    inputs: Inputs<Var<D>>,
) -> Var<D> {
    let values = inputs.values();
    // Those of queries with keys and of probabilities with values.
    let work = |(y, _): &(D::Tensor, D::Tensor)| {
        let moved = Work::bytes(values.bytes::<D>() + D::bytes(y));
        D::attention_product(shape) * 2.0 + moved
    };
    let (y, log_sum_exp) = device.operation("attention", work, || device.attention(shape, &values));
    let trainable = match &inputs {
        Inputs::Fused(x) => x.needs_gradient(),
        Inputs::Split(q, kv) => q.needs_gradient() || kv.needs_gradient(),
    };
    let output = y.clone();
    tape.record(y, trainable, || Node { shape, inputs, output, log_sum_exp })
}

impl<T> Inputs<T> {
    fn bytes<D: Memory<Tensor = T>>(&self) -> f64 {
        match self {
            Inputs::Fused(x) => D::bytes(x),
            Inputs::Split(q, kv) => D::bytes(q) + D::bytes(kv),
        }
    }
}

impl<D: Device> Inputs<Var<D>> {
    fn values(&self) -> Inputs<D::Tensor> {
        match self {
            Inputs::Fused(x) => Inputs::Fused(x.value.clone()),
            Inputs::Split(q, kv) => Inputs::Split(q.value.clone(), kv.value.clone()),
        }
    }
}

struct Node<'a, D: Device> {
    shape: Shape<'a, D>,
    inputs: Inputs<Var<D>>,
    output: D::Tensor,
    log_sum_exp: D::Tensor,
}

impl<D: Device> Backward<D> for Node<'_, D> {
    fn backward(self: Box<Self>, device: &D, dy: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let values = self.inputs.values();
        // The scores again, and the gradients of probabilities, values, queries and keys.
        let work = |d: &Inputs<D::Tensor>| {
            let moved = Work::bytes(2.0 * D::bytes(&dy) + values.bytes::<D>() + d.bytes::<D>());
            D::attention_product(self.shape) * 5.0 + moved
        };
        let backward =
            || device.attention_backward(self.shape, &values, &self.output, &self.log_sum_exp, &dy);
        let d = device.operation("attention, backward", work, backward);
        match (&self.inputs, d) {
            (Inputs::Fused(x), Inputs::Fused(dx)) => gradients.add(device, x.place(), dx),
            (Inputs::Split(q, kv), Inputs::Split(dq, dkv)) => {
                gradients.add(device, q.place(), dq);
                gradients.add(device, kv.place(), dkv);
            }
            _ => unreachable!("the gradients have the form of the inputs"),
        }
    }
}
