//! The loss of one step's batch and its gradient.

use rayon::prelude::*;

use super::batch::StepBatch;
use crate::bert::batch::chunks;
use crate::bert::encoder::{DropoutStep, Operands};
use crate::bert::{Encoder, PackedBatch};
use crate::device::Memory;
use crate::device::cpu::Cpu;
use crate::lora::Adapter;
use crate::ops::correlation::correlation;
use crate::ops::mwer::{MwerInputs, part_of_mean_mwer};
use crate::profile::Work;
use crate::rescore::scorer::CHUNK_TOKENS;
use crate::tape::Tape;

/// What the loss of a step is made of, apart from the batch.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// The weight of g where it is not learned.
    pub beta: f64,
    /// lambda, of the correlation loss; 0 leaves it out.
    pub correlation_weight: f64,
    pub seed: u64,
}

/// The losses of a step (the mean over its utterances for MWER) and the gradient of their weighted sum. Of a part: what
/// it adds to them.
pub struct StepGradient {
    pub mwer: f64,
    /// What MWER would be without g.
    pub mwer_without: f64,
    pub correlation: f64,
    /// Flat, as the adapter's values.
    pub gradient: Vec<f32>,
}

impl StepGradient {
    fn zero(adapter: &Adapter) -> StepGradient {
        StepGradient {
            mwer: 0.0,
            mwer_without: 0.0,
            correlation: 0.0,
            gradient: vec![0.0; adapter.layout.len()],
        }
    }

    fn plus(mut self, other: StepGradient) -> StepGradient {
        self.mwer += other.mwer;
        self.mwer_without += other.mwer_without;
        self.correlation += other.correlation;
        self.gradient.iter_mut().zip(other.gradient).for_each(|(sum, value)| *sum += value);
        self
    }
}

/// Tokens that a thread carries forward before it walks back.
const PIECE_TOKENS: usize = 192;

/// Runs a batch forward and back, a few utterances at a time, so that only theirs is kept for the way back; all at once
/// where the correlation loss looks at the features of all hypotheses. The result is a function of the arguments, the
/// instruction set and the number of threads (which sets the pieces whose gradients are summed, in their order).
pub fn gradient(
    cpu: &Cpu,
    encoder: &Encoder<Cpu>,
    adapter: &Adapter,
    batch: &StepBatch,
    objective: Objective,
    step: u64,
) -> StepGradient {
    let pack = || encoder.operands(cpu, &[(adapter, &adapter.values)]);
    let operands = cpu.operation("pack adapters", |_| Work::default(), pack);
    if objective.correlation_weight > 0.0 {
        return gradient_of_piece(cpu, encoder, &operands, adapter, batch, objective, step);
    }
    let pieces = chunks(&batch.tokens_of_utterances(), PIECE_TOKENS * rayon::current_num_threads(), 1);
    let of_piece = |utterances| {
        let piece = batch.piece(utterances);
        gradient_of_piece(cpu, encoder, &operands, adapter, &piece, objective, step)
    };
    pieces.into_iter().map(of_piece).fold(StepGradient::zero(adapter), StepGradient::plus)
}

fn gradient_of_piece(
    cpu: &Cpu,
    encoder: &Encoder<Cpu>,
    operands: &Operands<Cpu>,
    adapter: &Adapter,
    batch: &StepBatch,
    objective: Objective,
    step: u64,
) -> StepGradient {
    let lengths: Vec<usize> = batch.sequences.iter().map(Vec::len).collect();
    let ranges = chunks(&lengths, CHUNK_TOKENS, rayon::current_num_threads());
    let packed: Vec<_> =
        ranges.par_iter().map(|r| PackedBatch::new(cpu, &batch.sequences[r.clone()])).collect();
    let forward: Vec<_> = packed
        .par_iter()
        .zip(&ranges)
        .map(|(packed, range)| {
            let dropout = (adapter.config.dropout > 0.0).then(|| DropoutStep {
                p: adapter.config.dropout,
                seed: objective.seed,
                step: step as u32,
                first_token: (batch.first_token + lengths[..range.start].iter().sum::<usize>()) as u32,
                first_sequence: (batch.first_sequence + range.start) as u32,
            });
            let mut tape = Tape::recording();
            let scored = encoder.forward(cpu, operands, packed, dropout, &mut tape);
            (tape, scored)
        })
        .collect();

    let hidden = encoder.config().hidden;
    let scores: Vec<f32> = forward.iter().flat_map(|(_, s)| s.scores.value.values()).collect();
    let mut gradient = vec![0.0f32; adapter.layout.len()];
    let theta = adapter.layout.theta();
    let inputs = MwerInputs {
        offsets: &batch.offsets,
        scores: &scores,
        errors: &batch.errors,
        beta: theta.map_or(objective.beta, |at| f64::from(adapter.values[at]).exp()),
    };
    let mwer = || part_of_mean_mwer(inputs, &batch.utterances, batch.step_utterances);
    let losses = cpu.operation("MWER", |_| Work::default(), mwer);
    if let Some(at) = theta {
        gradient[at] = losses.d_theta as f32;
    }
    let mut correlation_loss = 0.0;
    let mut d_features = None;
    if objective.correlation_weight > 0.0 {
        let z: Vec<f32> = forward.iter().flat_map(|(_, s)| s.features.value.values()).collect();
        let loss = || correlation(cpu, &z, scores.len(), hidden);
        let mut c = cpu.operation("correlation", |_| Work::default(), loss);
        c.d_features.iter_mut().for_each(|d| *d *= objective.correlation_weight as f32);
        correlation_loss = c.loss;
        d_features = Some(c.d_features);
    }

    let of_chunks: Vec<Vec<f32>> = forward
        .into_par_iter()
        .zip(&ranges)
        .map(|((tape, scored), range)| {
            let mut gradient = vec![0.0f32; adapter.layout.len()];
            let d_scores = cpu.upload(&losses.d_scores[range.clone()], range.len(), 1);
            let mut seeds = vec![(scored.scores, d_scores)];
            if let Some(d) = &d_features {
                let rows = &d[range.start * hidden..range.end * hidden];
                seeds.push((scored.features, cpu.upload(rows, range.len(), hidden)));
            }
            tape.backward(cpu, seeds, &mut gradient);
            gradient
        })
        .collect();
    let bytes = size_of_val(&gradient[..]) * (of_chunks.len() + 1);
    cpu.operation(
        "sum gradients",
        |()| Work::bytes(bytes as f64),
        || {
            for of_chunk in of_chunks {
                gradient.iter_mut().zip(of_chunk).for_each(|(g, c)| *g += c);
            }
        },
    );
    StepGradient {
        mwer: losses.loss,
        mwer_without: losses.loss_without,
        correlation: correlation_loss,
        gradient,
    }
}
