//! Rescoring: combined scores, their weights, and streaming over lists.

pub mod scorer;
pub mod tune;
pub mod weights;
