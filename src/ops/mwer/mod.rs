//! The MWER loss (Prabhavalkar et al. 2018, arXiv 1712.01818; RescoreBERT, arXiv 2202.01094).
//!
//! For the hypotheses i of an utterance with combined scores s_i = offset_i + beta g_i, P = softmax(s) and
//! word errors e_i: L = sum_i P_i (e_i - mean e), dL/ds_i = P_i (e_i - sum_j P_j e_j),
//! dL/dg_i = beta dL/ds_i, and for beta = e^theta, dL/dtheta = sum_i dL/ds_i beta g_i.

mod cpu;
pub mod cuda;

pub use cpu::{mean_mwer, mwer, part_of_mean_mwer};

/// One utterance's hypotheses.
pub struct MwerInputs<'a> {
    /// The part of the combined score that is not trained: w_a a_i, and other first-pass terms.
    pub offsets: &'a [f64],
    /// g_i, of this model.
    pub scores: &'a [f32],
    /// e_i: word errors against the reference.
    pub errors: &'a [u32],
    pub beta: f64,
}

/// The mean loss over the utterances of a step, and its gradients.
pub struct MeanMwer {
    pub loss: f64,
    /// What it would be without g.
    pub loss_without: f64,
    /// dL/dg_i of all hypotheses.
    pub d_scores: Vec<f32>,
    /// dL/dtheta.
    pub d_theta: f64,
}

/// The loss of one utterance and its gradients.
#[derive(Debug, PartialEq)]
pub struct Mwer {
    pub loss: f64,
    /// dL/dg_i.
    pub d_scores: Vec<f32>,
    /// dL/dtheta.
    pub d_theta: f64,
}
