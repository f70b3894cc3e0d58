//! Devices: where tensors live and operations run.
//!
//! The boundary is one trait per operation, declared in the operation's folder under [`crate::ops`] and
//! implemented there for each device. [`Device`] is their sum; the encoder is written once against it.

pub mod cpu;
pub mod cuda;
mod dtype;
mod free;
mod select;

pub use dtype::Dtype;
pub use select::{AnyDevice, Choice, Chosen, choose, select};

use crate::Result;
use crate::ops::{attention, embedding, gather_rows, layer_norm, lora_linear, score_head};
use crate::profile::Work;

/// Neighbouring rows of a batch that belong to one adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub rows: usize,
    /// Its number among the adapters of the call.
    pub adapter: usize,
}

/// The memory of a device.
pub trait Memory: Sized + Send + Sync + 'static {
    /// A matrix of activations or gradients, cheap to clone, immutable once an operation has made it.
    type Tensor: Clone + Send + Sync + 'static;
    /// Row numbers or token ids.
    type Index: Clone + Send + Sync;
    /// The flat vector of trainable parameters, or of their gradients (see [`crate::lora::Layout`]).
    type Parameters: Send + Sync;
    /// Which adapter each row of a batch belongs to.
    type Segments: Send + Sync;

    fn index(&self, values: &[u32]) -> Self::Index;
    /// Row numbers below `rows`, for gathering and scattering.
    fn row_index(&self, values: &[u32], rows: usize) -> Self::Index;
    /// Rows of several adapters: runs of them, one after the other.
    fn segments(&self, runs: &[Run]) -> Self::Segments;
    /// The flat vector of trainable parameters.
    fn parameters(&self, values: &[f32]) -> Self::Parameters;
    /// A tensor [rows, columns] from row-major values.
    fn upload(&self, data: &[f32], rows: usize, columns: usize) -> Self::Tensor;
    /// The values, row-major, once everything asked for before is done.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where something failed on the device up to now.
    fn download(&self, tensor: &Self::Tensor) -> Result<Vec<f32>>;
    /// a + b, of equal shapes.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Self::Tensor;

    /// Runs an operation. A device that is being profiled notes how long it takes, and the work that `work` makes
    /// of its result.
    fn operation<T>(
        &self,
        _name: &'static str,
        _work: impl FnOnce(&T) -> Work,
        run: impl FnOnce() -> T,
    ) -> T {
        run()
    }

    /// What a tensor takes, for [`operation`](Self::operation); 0 where that does not ask.
    fn bytes(_tensor: &Self::Tensor) -> f64 {
        0.0
    }
}

/// A device that runs every operation of the encoder, forward and backward.
pub trait Device:
    Memory
    + embedding::Embedding
    + gather_rows::GatherRows
    + layer_norm::LayerNorm
    + lora_linear::LoraLinear
    + attention::Attention
    + score_head::ScoreHead
{
    /// Whether layer 0's rows are computed once for each distinct pair of token and position, and gathered for
    /// the tokens; else every token has its own. The scores are the same. It pays where the time goes with the
    /// number of rows, and not where a list's rows take one wave of the processors either way.
    const SHARES_PAIRS: bool;
}
