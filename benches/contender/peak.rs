use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::bert::Config;
use lorb_engine::device::Dtype;
use lorb_engine::device::cpu::Isa;
use lorb_engine::device::cpu::bandwidth::read_bandwidth;
use lorb_engine::device::cpu::peak::fma_peak;
use serde_json::json;

use crate::rounds::{object, serve};

/// The rates that floors are taken at: of multiply-adds, and of reading as many bytes as the model's layers have.
#[derive(Args)]
pub struct Peak {
    /// A Hugging Face BERT folder
    model: PathBuf,
}

const EACH: Duration = Duration::from_millis(300);

impl Peak {
    pub fn run(self) -> Result<()> {
        let isa = Isa::detect()?;
        let config = Config::open(&self.model)?;
        let layers = config.encoder_tensors().into_iter().filter(|(name, _)| name.starts_with("encoder."));
        let floats: usize = layers.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        serve(|| {
            Ok(object(json!({
                "contender": format!("peak {}", isa.name()),
                "flop_per_s": fma_peak(isa, Dtype::F32, EACH),
                "bytes_per_s": read_bandwidth(isa, floats * size_of::<f32>(), EACH),
            })))
        })
    }
}
