//! Formats of lists: what is read, what is written, and that nothing is lost on the way that both sides can hold.

#[path = "../support/mod.rs"]
mod support;

mod convert;
mod csv;
mod espnet;
mod kaldi;
mod memory;
mod mlm;
mod nemo;
mod parquet;
mod round_trip;
