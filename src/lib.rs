//! Second-pass rescoring of N-best lists with low-rank adapted BERT (LoRB, arXiv 2309.15223).

pub mod atomic;
pub mod bert;
pub mod builtin;
pub mod card;
pub mod device;
pub mod error;
pub mod hub;
pub mod lora;
pub mod model;
pub mod nbest;
pub mod ops;
pub mod profile;
pub mod report;
pub mod rescore;
pub mod serve;
pub mod tape;
pub mod text;
pub mod train;

pub use error::{Error, Result};
