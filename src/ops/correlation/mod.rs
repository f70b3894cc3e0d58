//! The correlation-based regulariser of LoRB (arXiv 2309.15223, section 3.3): decorrelates the features
//! that enter the classifier.
//!
//! Over the N hypotheses of a step, Z [N, d] is standardised per dimension with the population variance:
//! y = (z - mean) / sqrt(variance + eps), C = Y^T Y / N, L = (1 / d) sum_{j != k} C_jk^2. The gradient
//! passes through mean and variance. L = 0 for N < 2.

mod cpu;
pub mod cuda;

pub use cpu::correlation;

/// Added to the variance, so that a constant feature gives 0 and not 0 / 0.
pub const EPSILON: f32 = 1e-5;

/// The loss and its gradient.
pub struct Correlation {
    pub loss: f64,
    /// dL/dZ [N, d].
    pub d_features: Vec<f32>,
}
