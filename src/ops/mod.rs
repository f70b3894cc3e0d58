//! The operations of the encoder and of its losses: one folder each, with the contract in `mod.rs` and one
//! file per device.

pub mod adamw;
pub mod attention;
pub mod correlation;
pub mod embedding;
pub mod gather_rows;
pub mod layer_norm;
pub mod lora_linear;
pub mod mwer;
pub mod score_head;
