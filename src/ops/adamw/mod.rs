//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), after
//! clipping by the global norm, as `torch.optim.AdamW` and `clip_grad_norm_` compute them.

mod cpu;
pub mod cuda;

use serde::{Deserialize, Serialize};

/// The constants of the update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamwOptions {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// The gradient's norm over all parameters is scaled down to this where it is larger.
    pub clip: f32,
}

impl Default for AdamwOptions {
    fn default() -> Self {
        AdamwOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: 1.0 }
    }
}

/// A range of the parameters with its own rate and decay.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterGroup {
    pub range: std::ops::Range<usize>,
    /// The learning rate of this step.
    pub lr: f32,
    pub weight_decay: f32,
}

/// The optimizer's state: first and second moments, and the number of steps taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Adamw {
    pub options: AdamwOptions,
    pub m: Vec<f32>,
    pub v: Vec<f32>,
    pub step: u64,
}
