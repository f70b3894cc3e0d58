//! Every operation of the CUDA device against its naive form in f64. The kernels are emulated on the CPU.

#[path = "../ops/attention_case.rs"]
mod attention_case;
#[path = "../ops/autodiff.rs"]
#[allow(dead_code, reason = "tests/ops uses the rest of it")]
mod autodiff;
#[path = "../ops/correlation_case.rs"]
mod correlation_case;
#[path = "../ops/embedding_case.rs"]
mod embedding_case;
#[path = "../support/emulated.rs"]
mod emulated;
#[path = "../ops/harness.rs"]
#[allow(dead_code, reason = "tests/ops uses the rest of it")]
mod harness;
#[path = "../ops/oracle.rs"]
#[allow(dead_code, reason = "tests/ops uses the rest of it")]
mod oracle;
#[path = "../ops/score_head_case.rs"]
mod score_head_case;
#[path = "../support/mod.rs"]
mod support;

mod adamw;
mod add;
mod attention;
mod bounds;
mod capture;
mod compiler;
mod correlation;
mod devices;
mod embedding;
mod faulty;
mod first_use;
mod gather_rows;
mod layer_norm;
mod lora_linear;
mod memory;
mod mwer;
mod network;
mod score_head;
mod selection;
mod selfcheck;
mod stream;
mod table;
