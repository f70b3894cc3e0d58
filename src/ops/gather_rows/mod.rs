//! Rows picked by number: the [CLS] rows of a batch, or, on a device that shares them, layer 0's rows from one per
//! distinct (position, token) pair (exact, since layer 0 sees nothing but that pair).

mod cpu;
pub mod cuda;

use crate::device::{Device, Memory};
use crate::profile::Work;
use crate::tape::{Backward, Gradients, Place, Tape, Var};

/// Gathering on a device.
pub trait GatherRows: Memory {
    /// y[i] = x[index[i]].
    ///
    /// # Panics
    /// Where x has no such row.
    fn gather_rows(&self, x: &Self::Tensor, index: &Self::Index) -> Self::Tensor;

    /// dx [rows, columns of dy], dx[index[i]] += dy[i], added to `dx` where given; in the order of i.
    fn scatter_rows(
        &self,
        dy: &Self::Tensor,
        index: &Self::Index,
        rows: usize,
        dx: Option<Self::Tensor>,
    ) -> Self::Tensor;
}

/// Gathers rows of `x`, which has `rows` of them.
pub fn gather_rows<'a, D: Device + 'a>(
    device: &D,
    tape: &mut Tape<'a, D>,
    x: &Var<D>,
    index: &D::Index,
    rows: usize,
) -> Var<D> {
    // Of x no more than is picked.
    let work = |y: &D::Tensor| Work::bytes(D::bytes(&x.value).min(D::bytes(y)) + D::bytes(y));
    let y = device.operation("gather rows", work, || device.gather_rows(&x.value, index));
    tape.record(y, x.needs_gradient(), || Node { x: x.place().clone(), index: index.clone(), rows })
}

struct Node<D: Device> {
    x: Place<D>,
    index: D::Index,
    rows: usize,
}

impl<D: Device> Backward<D> for Node<D> {
    fn backward(self: Box<Self>, device: &D, dy: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let before = gradients.take(&self.x);
        let work = |dx: &D::Tensor| Work::bytes(D::bytes(&dy) + D::bytes(dx));
        let backward = || device.scatter_rows(&dy, &self.index, self.rows, before);
        let dx = device.operation("gather rows, backward", work, backward);
        gradients.set(&self.x, dx);
    }
}
