//! Rescoring: combined scores, their weights, and streaming over lists.

pub mod tune;
pub mod weights;
