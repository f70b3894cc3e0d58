//! What a device does for a training run: the steps, and the scores that validation asks for.

mod cuda;

use std::collections::VecDeque;
use std::ops::Range;

pub use cuda::CudaLearner;

use rayon::prelude::*;

use super::Losses;
use super::batch::StepBatch;
use super::options::TrainOptions;
use super::schedule::parameter_groups;
use super::step::{Objective, gradient};
use super::team::Team;
use crate::Result;
use crate::bert::batch::chunks;
use crate::bert::{Encoder, PackedBatch};
use crate::device::Memory;
use crate::device::cpu::Cpu;
use crate::lora::Adapter;
use crate::ops::adamw::{Adamw, AdamwOptions};
use crate::profile::Work;
use crate::rescore::scorer::{CHUNK_TOKENS, scores};
use crate::tape::Tape;

/// The parameters of a run on their device, and the optimizer that moves them.
pub trait Learner {
    /// Takes a step, or this process's part of one, with the learning rates at `factor` of their peaks. Its losses
    /// come from [`losses`](Self::losses), now or some steps later: a device need not be waited for. Where the
    /// gradient is not finite, nothing moves, and its norm in the losses says so.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where a device fails.
    fn step(&mut self, batch: &StepBatch, step: u64, factor: f32) -> Result<()>;

    /// The losses that are known of steps not yet told of, in order; of all of them where `wait`.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn losses(&mut self, wait: bool) -> Result<Vec<Losses>>;

    /// The parameters and the optimizer's state after the last step.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn snapshot(&mut self) -> Result<(Vec<f32>, Adamw)>;

    /// Goes back to a [`snapshot`](Self::snapshot).
    fn restore(&mut self, values: &[f32], adamw: &Adamw);

    /// The features [sequences, H] that enter the classifier, with the parameters as they are.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn features(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<f32>>;

    /// g of each sequence with the parameters as they are.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn scores(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>>;
}

/// Training on the CPU.
pub struct CpuLearner<'a> {
    cpu: &'a Cpu,
    encoder: &'a Encoder<Cpu>,
    options: &'a TrainOptions,
    objective: Objective,
    adapter: Adapter,
    adamw: Adamw,
    team: Team,
    told: VecDeque<Losses>,
}

impl<'a> CpuLearner<'a> {
    /// `encoder` is loaded for training.
    pub fn new(cpu: &'a Cpu, encoder: &'a Encoder<Cpu>, options: &'a TrainOptions, adapter: Adapter) -> Self {
        let adamw = Adamw::new(AdamwOptions::default(), adapter.values.len());
        let (objective, team) = (options.objective(), Team::default());
        CpuLearner { cpu, encoder, options, objective, adapter, adamw, team, told: VecDeque::new() }
    }

    /// The same, which does its share of what `team` does.
    pub fn in_team(self, team: &Team) -> Self {
        CpuLearner { team: team.clone(), ..self }
    }
}

impl Learner for CpuLearner<'_> {
    fn step(&mut self, batch: &StepBatch, step: u64, factor: f32) -> Result<()> {
        let (cpu, adapter, adamw, team) = (self.cpu, &mut self.adapter, &mut self.adamw, &self.team);
        let losses = cpu.recorder().phase("step", || -> Result<Losses> {
            let g = team.sum(gradient(cpu, self.encoder, adapter, batch, self.objective, step))?;
            let groups = parameter_groups(adapter, self.options, factor);
            // Parameters and both moments are read and written, the gradient is read.
            let work = |_: &f64| Work::bytes(7.0 * size_of_val(&g.gradient[..]) as f64);
            let update = || adamw.update(&mut adapter.values, &g.gradient, &groups);
            let gradient_norm = cpu.operation("AdamW", work, update);
            let (mwer, mwer_without) = (g.mwer, g.mwer_without);
            Ok(Losses { mwer, mwer_without, correlation: g.correlation, gradient_norm })
        })?;
        self.told.push_back(losses);
        Ok(())
    }

    fn losses(&mut self, _wait: bool) -> Result<Vec<Losses>> {
        Ok(self.told.drain(..).collect())
    }

    fn snapshot(&mut self) -> Result<(Vec<f32>, Adamw)> {
        Ok((self.adapter.values.clone(), self.adamw.clone()))
    }

    fn restore(&mut self, values: &[f32], adamw: &Adamw) {
        self.adapter.values = values.to_vec();
        self.adamw = adamw.clone();
    }

    fn features(&mut self, sequences: &[Vec<u32>]) -> Result<Vec<f32>> {
        let (cpu, encoder) = (self.cpu, self.encoder);
        let operands = encoder.operands(cpu, &[(&self.adapter, &self.adapter.values)]);
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let share = self.team.share(&lengths);
        let (sequences, lengths) = (&sequences[share.clone()], &lengths[share]);
        let of_chunk = |range: Range<usize>| {
            let batch = PackedBatch::new(cpu, &sequences[range]);
            encoder.forward(cpu, &operands, &batch, None, &mut Tape::idle()).features.value.values()
        };
        let chunks = chunks(lengths, CHUNK_TOKENS, rayon::current_num_threads());
        let all = || chunks.into_par_iter().flat_map_iter(of_chunk).collect();
        self.team.concatenate(cpu.recorder().phase("features", all))
    }

    fn scores(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        let operands = self.encoder.operands(self.cpu, &[(&self.adapter, &self.adapter.values)]);
        let share = self.team.share(&sequences.iter().map(|s| s.len()).collect::<Vec<_>>());
        self.team.concatenate(scores(self.cpu, self.encoder, &operands, &sequences[share]))
    }
}
