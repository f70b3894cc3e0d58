//! Every operation, forward and backward, against its naive form in f64, for every instruction set.

mod adamw;
mod attention;
mod attention_case;
mod autodiff;
mod bert;
mod correlation;
mod correlation_case;
mod elementary;
mod embedding;
mod embedding_case;
mod gather_rows;
mod gemm;
mod harness;
mod layer_norm;
mod lora_linear;
mod mwer;
mod network;
mod oracle;
mod score_head;
mod score_head_case;
#[path = "../support/mod.rs"]
mod support;
