//! Training on a GPU: a step is asked for and not waited for; its losses are read some steps later.

use super::{Learner, TrainOptions};
use crate::Result;
use crate::bert::encoder::DropoutStep;
use crate::bert::{Encoder, PackedBatch};
use crate::device::Memory;
use crate::device::cuda::{Cuda, Flat, Rows};
use crate::lora::Adapter;
use crate::ops::adamw::cuda::DeviceAdamw;
use crate::ops::adamw::{Adamw, AdamwOptions};
use crate::ops::mwer::cuda::{Beta, Lists};
use crate::rescore::scorer::{BATCH_TOKENS, Place, Plan};
use crate::tape::Tape;
use crate::train::Losses;
use crate::train::batch::StepBatch;
use crate::train::schedule::parameter_groups;

/// Steps between two waits for the GPU.
const STEPS_UNREAD: usize = 16;
/// Of a step: MWER, MWER without g, correlation, gradient norm.
const VALUES: usize = 4;

/// The parameters of a run on a GPU, and the optimizer that moves them there.
pub struct CudaLearner<'a> {
    cuda: &'a Cuda,
    encoder: &'a Encoder<Cuda>,
    options: &'a TrainOptions,
    /// Its values are those of the start.
    adapter: Adapter,
    values: Flat,
    gradient: Flat,
    adamw: DeviceAdamw,
    steps: u64,
    /// [STEPS_UNREAD, VALUES]
    losses: Flat,
    unread: usize,
    read: Vec<Losses>,
}

impl<'a> CudaLearner<'a> {
    /// `encoder` is loaded for training.
    pub fn new(
        cuda: &'a Cuda,
        encoder: &'a Encoder<Cuda>,
        options: &'a TrainOptions,
        adapter: Adapter,
    ) -> Self {
        let len = adapter.values.len();
        let state = Adamw::new(AdamwOptions::default(), len);
        let losses = cuda.flat(STEPS_UNREAD * VALUES);
        cuda.clear(&losses);
        CudaLearner {
            values: cuda.upload_flat(&adapter.values),
            gradient: cuda.flat(len),
            adamw: DeviceAdamw::new(cuda, &state, &parameter_groups(&adapter, options, 1.0)),
            steps: 0,
            losses,
            unread: 0,
            read: Vec::new(),
            cuda,
            encoder,
            options,
            adapter,
        }
    }

    /// Waits for the losses of all steps so far.
    fn read(&mut self) -> Result<()> {
        let values = self.cuda.download_flat(&self.losses)?;
        let of_steps = values.chunks_exact(VALUES).take(self.unread);
        self.read.extend(of_steps.map(|v| Losses {
            mwer: v[0].into(),
            mwer_without: v[1].into(),
            correlation: v[2].into(),
            gradient_norm: v[3].into(),
        }));
        self.unread = 0;
        Ok(())
    }
}

impl Learner for CudaLearner<'_> {
    fn step(&mut self, batch: &StepBatch, step: u64, factor: f32) -> Result<()> {
        if self.unread == STEPS_UNREAD {
            self.read()?;
        }
        let (cuda, at) = (self.cuda, self.unread * VALUES);
        let objective = self.options.objective();
        // All that is copied comes first: between kernels it would keep the next from starting early.
        cuda.clear(&self.gradient);
        let lists = HostLists::new(batch);
        let lists = Lists {
            offsets: &cuda.upload_flat(&lists.offsets),
            errors: &cuda.upload_flat(&lists.errors),
            starts: &cuda.index(&lists.starts),
            utterances: &Rows::all(batch.utterances.len()),
        };
        self.steps += 1;
        self.adamw.set_step(cuda, self.steps as u32, factor);
        let operands = self.encoder.operands(cuda, &[(&self.adapter, &self.values)]);
        let packed = PackedBatch::new(cuda, &batch.sequences);
        let p = self.adapter.config.dropout;
        let dropout = (p > 0.0).then_some(DropoutStep {
            p,
            seed: objective.seed,
            step: step as u32,
            first_token: 0,
            first_sequence: 0,
        });
        let mut tape = Tape::recording();
        let scored = self.encoder.forward(cuda, &operands, &packed, dropout, &mut tape);
        let beta = match self.adapter.layout.theta() {
            Some(theta) => Beta::Learned { parameters: &self.values, theta },
            None => Beta::Given(objective.beta as f32),
        };
        let g = &scored.scores.value;
        let d_scores = cuda.mwer(&lists, g, beta, &mut self.gradient, (&mut self.losses, at));
        let mut seeds = Vec::new();
        if objective.correlation_weight > 0.0 {
            let weight = objective.correlation_weight as f32;
            let d = cuda.correlation(&scored.features.value, weight, (&mut self.losses, at + 2));
            seeds.push((scored.features, d));
        }
        seeds.push((scored.scores, d_scores));
        tape.backward(cuda, seeds, &mut self.gradient);

        self.adamw.update(cuda, &mut self.values, &self.gradient, (&mut self.losses, at + 3));
        self.unread += 1;
        Ok(())
    }

    fn losses(&mut self, wait: bool) -> Result<Vec<Losses>> {
        if wait {
            self.read()?;
        }
        Ok(std::mem::take(&mut self.read))
    }

    fn snapshot(&mut self) -> Result<(Vec<f32>, Adamw)> {
        Ok((self.cuda.download_flat(&self.values)?, self.adamw.state(self.cuda, self.steps)?))
    }

    fn restore(&mut self, values: &[f32], adamw: &Adamw) {
        self.values = self.cuda.upload_flat(values);
        let groups = parameter_groups(&self.adapter, self.options, 1.0);
        self.adamw = DeviceAdamw::new(self.cuda, adamw, &groups);
        self.steps = adamw.step;
    }

    fn features(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<f32>> {
        let operands = self.encoder.operands(self.cuda, &[(&self.adapter, &self.values)]);
        let batch = PackedBatch::new(self.cuda, sequences);
        let forward = self.encoder.forward(self.cuda, &operands, &batch, None, &mut Tape::idle());
        self.cuda.download(&forward.features.value)
    }

    fn scores(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        let operands = self.encoder.operands(self.cuda, &[(&self.adapter, &self.values)]);
        let sequences = sequences.iter().map(|s| (Place::default(), *s));
        let plan = Plan::new(sequences, BATCH_TOKENS, 1);
        let mut scored = Vec::new();
        for chunk in &plan.chunks {
            let batch = PackedBatch::new(self.cuda, &chunk.tokens());
            let forward = self.encoder.forward(self.cuda, &operands, &batch, None, &mut Tape::idle());
            scored.extend(self.cuda.download(&forward.scores.value)?);
        }
        Ok(plan.spread.of(&scored))
    }
}

/// The lists of a step as the kernel takes them.
struct HostLists {
    offsets: Vec<f32>,
    errors: Vec<f32>,
    starts: Vec<u32>,
}

impl HostLists {
    fn new(batch: &StepBatch) -> HostLists {
        let mut lists = HostLists { offsets: Vec::new(), errors: Vec::new(), starts: vec![0] };
        for range in &batch.utterances {
            let offsets = &batch.offsets[range.clone()];
            // In f64: what is left is small where it matters, and precise in f32.
            let largest = offsets.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            lists.offsets.extend(offsets.iter().map(|a| (a - largest) as f32));
            lists.errors.extend(batch.errors[range.clone()].iter().map(|&e| e as f32));
            lists.starts.push(range.end as u32);
        }
        lists
    }
}
