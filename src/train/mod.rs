//! Training of an adapter.
