use std::time::Instant;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::device::{AnyDevice, Choice, Memory};
use lorb_engine::lora::{Adapter, LoraConfig, Target};
use lorb_engine::model::BaseModel;
use lorb_engine::ops::lora_linear::{Call as Product, DeviceEpilogue, LinearWeights, LoraLinear};

use crate::rounds::{Call, answer, serve};
use crate::{parse_device, start};

#[derive(Args)]
pub struct Linear {
    /// A Hugging Face BERT folder
    model: std::path::PathBuf,
    rows: usize,
    /// Products of a round
    count: usize,
    #[arg(default_value = "cpu", value_parser = parse_device)]
    device: Choice,
}

impl Linear {
    pub fn run(self, gelu: bool) -> Result<()> {
        let (device, name) = start(if gelu { "linear-gelu" } else { "linear" }, self.device, None)?;
        let model = BaseModel::open(&self.model)?;
        match &device {
            AnyDevice::Cpu(cpu) => self.products(&name, cpu, &model, gelu, || Ok(())),
            AnyDevice::Cuda(cuda) => {
                // Reading anything waits for all that was asked for before.
                let mark = cuda.parameters(&[0.0]);
                self.products(&name, cuda, &model, gelu, || cuda.download_flat(&mark).map(drop))
            }
        }
    }

    /// Rounds of calls of one product, all waited for together: the time of each is a share of that. As linear.py.
    fn products<D: LoraLinear>(
        &self,
        name: &str,
        device: &D,
        model: &BaseModel,
        gelu: bool,
        wait: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let target = Target::Intermediate;
        let (input, output) = target.sizes(&model.config);
        let module = format!("encoder.layer.0.{}", target.module());
        let weights = LinearWeights {
            weight: model.checkpoint.f32(&format!("{module}.weight"), &[output, input])?,
            bias: model.checkpoint.f32(&format!("{module}.bias"), &[output])?,
        };
        let lora = LoraConfig { targets: "intermediate.dense".parse()?, rank: 8, ..LoraConfig::default() };
        let adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, None, 1)?;
        let values = device.parameters(&adapter.values);
        let slots = [adapter.layout.lora(0, target).cloned()];
        let product = Product {
            linear: &device.linear(input, &[weights], false),
            lora: Some(&device.lora(&[(&values, adapter.config.scale())], &slots, false)),
            segments: None,
            modules: 0..1,
            dropout: None,
        };
        let x: Vec<f32> = (0..self.rows * input).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let x = device.upload(&x, self.rows, input);
        serve(|| {
            let start = Instant::now();
            for _ in 0..self.count {
                let epilogue = if gelu { DeviceEpilogue::Gelu } else { DeviceEpilogue::Nothing };
                device.lora_linear(&product, &x, epilogue, false);
            }
            wait()?;
            let seconds = start.elapsed().as_secs_f64() / self.count as f64;
            Ok(answer(name, &[Call { tokens: self.rows, seconds }]))
        })
    }
}
