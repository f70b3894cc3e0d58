//! The BERT encoder: configuration, checkpoint, tokenizer, and the one description of the model.

mod any_encoder;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod encoder;
pub mod fingerprint;
pub mod floor;
pub mod tensors;
pub mod tokenizer;

pub use any_encoder::AnyEncoder;
pub use batch::{PackedBatch, Packing};
pub use checkpoint::Checkpoint;
pub use config::Config;
pub use encoder::Encoder;
pub use fingerprint::Fingerprint;
pub use tensors::Weights;
pub use tokenizer::{Encoded, Tokenizer};
