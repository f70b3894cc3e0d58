//! Training of an adapter.

pub mod step;
