use clap::Args;
use lorb_engine::Result;
use lorb_engine::bert::{Encoder, floor};
use lorb_engine::device::AnyDevice;
use lorb_engine::train::batch::StepBatch;
use lorb_engine::train::examples::Example;
use lorb_engine::train::learner::{CpuLearner, CudaLearner, Learner};
use lorb_engine::train::{Beta, TrainOptions};
use serde_json::{Map, Value, json};

use crate::rounds::{Call, answer, floors, object, serve};
use crate::{Inputs, start};

const HYPOTHESES: usize = 8;

#[derive(Args)]
pub struct Step {
    #[command(flatten)]
    inputs: Inputs,
    /// Lists of a step
    #[arg(default_value_t = 4)]
    utterances: usize,
}

impl Step {
    pub fn run(self) -> Result<()> {
        let (device, name) = start("step", self.inputs.device, self.inputs.dtype)?;
        let model = self.inputs.model()?;
        let adapter = self.inputs.adapter(&model, false)?;
        let batches = batches(&self.inputs.examples(&model)?, self.utterances, self.inputs.count);
        let (targets, trained_pooler) = (adapter.config.targets, adapter.layout.pooler().is_some());
        let of_batch = |b: &StepBatch| floor::training(&model.config, targets, trained_pooler, &b.sequences);
        let of_batches = floors(&batches.iter().map(of_batch).collect::<Vec<_>>());
        let options =
            TrainOptions { beta: Beta::Fixed(1.0), correlation_weight: 0.0, ..TrainOptions::default() };
        match &device {
            AnyDevice::Cpu(cpu) => {
                let encoder = Encoder::load(cpu, &model.config, &model.checkpoint, true)?;
                let mut learner = CpuLearner::new(cpu, &encoder, &options, adapter);
                steps(&name, || of_batches.clone(), &mut learner, &batches)
            }
            AnyDevice::Cuda(cuda) => {
                let encoder = Encoder::load(cuda, &model.config, &model.checkpoint, true)?;
                let weights = cuda.allocated();
                let mut learner = CudaLearner::new(cuda, &encoder, &options, adapter);
                // MiB of the device that the work has taken, weights apart.
                let taken = || (cuda.allocated() - weights) as f64 / f64::from(1 << 20);
                steps(&name, || object(json!({ "device_mb": taken() })), &mut learner, &batches)
            }
        }
    }
}

/// Rounds of steps, each waited for: what is read after it is there. Every round says what the loss of the very first
/// step was, before anything had moved, so that contenders can be compared.
fn steps(
    name: &str,
    more: impl Fn() -> Map<String, Value>,
    learner: &mut dyn Learner,
    batches: &[StepBatch],
) -> Result<()> {
    let mut first_loss = None;
    serve(|| {
        let mut step = |batch: &StepBatch| {
            Call::timed(batch.sequences.iter().map(Vec::len).sum(), || {
                learner.step(batch, 0, 1e-2)?;
                let losses = learner.losses(true)?;
                first_loss = first_loss.or(losses.first().map(|l| l.mwer));
                Ok(())
            })
        };
        let timed = batches.iter().map(&mut step).collect::<Result<Vec<_>>>()?;
        let mut answer = answer(name, &timed);
        answer.append(&mut more());
        answer.insert("first_loss".into(), first_loss.into());
        Ok(answer)
    })
}

/// As step.py: lists of at least 8 hypotheses, the first 8 of each, as many lists a step.
fn batches(examples: &[Example], utterances: usize, steps: usize) -> Vec<StepBatch> {
    let long: Vec<_> = examples.iter().filter(|e| e.tokens.len() >= HYPOTHESES).collect();
    let batch = |group: &[&Example]| {
        let mut batch = StepBatch::default();
        for example in group {
            let hypotheses = example.tokens.iter().zip(&example.list.hypotheses).take(HYPOTHESES);
            batch.push(
                hypotheses.map(|(tokens, h)| (tokens.clone(), 0.3 * h.features.first_pass, h.errors as u32)),
            );
        }
        batch
    };
    // A short file goes round.
    let lists: Vec<&Example> = long.iter().copied().cycle().take(utterances * steps).collect();
    lists.chunks_exact(utterances).map(batch).collect()
}
