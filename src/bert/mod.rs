//! The BERT encoder: configuration, checkpoint, tokenizer, and the one description of the model.

pub mod checkpoint;
pub mod config;
pub mod fingerprint;
pub mod tensors;
pub mod tokenizer;

pub use checkpoint::Checkpoint;
pub use config::Config;
pub use fingerprint::Fingerprint;
pub use tensors::Weights;
pub use tokenizer::{Encoded, Tokenizer};
