//! Rescoring: combined scores, their weights, and streaming over lists.

pub mod weights;
