//! Every operation of the CUDA device against its naive form in f64. The kernels are emulated on the CPU.

#[path = "../ops/autodiff.rs"]
mod autodiff;
#[path = "../support/emulated.rs"]
mod emulated;
#[path = "../ops/harness.rs"]
mod harness;
#[path = "../ops/oracle.rs"]
mod oracle;

mod devices;
mod elementwise;
mod layer_norm;
mod lora_linear;
