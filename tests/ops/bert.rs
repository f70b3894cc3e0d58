//! The whole network in its naive form: every token of every sequence on its own, no sharing of equal
//! positions, no shortcut in the last layer.

use std::collections::BTreeMap;

use lorb_engine::bert::{Checkpoint, Config};
use lorb_engine::lora::{Adapter, Target};
use lorb_engine::ops::correlation::EPSILON;
use lorb_engine::ops::lora_linear::Dropout;
use lorb_engine::train::batch::StepBatch;
use lorb_engine::train::step::Objective;

use crate::autodiff::{Operation, Real};
use crate::oracle::{
    Rows, add, attention, constants, correlation, dot, gelu, layer_norm, linear, low_rank, mwer, sum,
};

/// A step of training: its loss is a function of the adapter's values.
pub struct Step<'a> {
    pub config: &'a Config,
    pub base: BTreeMap<String, Vec<f32>>,
    pub adapter: &'a Adapter,
    pub batch: &'a StepBatch,
    pub objective: Objective,
    pub step: u32,
}

/// What the loss is made of.
pub struct Losses<R> {
    pub mwer: R,
    pub correlation: R,
}

/// The tensors of a checkpoint by name.
pub fn tensors(config: &Config, checkpoint: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let h = config.hidden;
    let mut shapes = config.encoder_tensors();
    if checkpoint.contains("pooler.dense.weight") {
        shapes.push(("pooler.dense.weight".into(), vec![h, h]));
        shapes.push(("pooler.dense.bias".into(), vec![h]));
    }
    let read = |(name, shape): (String, Vec<usize>)| {
        let values = checkpoint.f32(&name, &shape).unwrap().to_vec();
        (name, values)
    };
    shapes.into_iter().map(read).collect()
}

/// The first token of a sequence.
#[derive(Clone, Copy)]
struct Token {
    /// Its number in the batch, and its sequence's.
    number: usize,
    sequence: usize,
}

impl Step<'_> {
    fn tensor<R: Real>(&self, name: &str) -> Vec<R> {
        constants(&self.base[name])
    }

    fn norm<R: Real>(&self, name: &str, x: &Rows<R>) -> Rows<R> {
        let (gamma, beta) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        x.iter().map(|x| layer_norm(x, &gamma, &beta, self.config.layer_norm_eps)).collect()
    }

    fn embed<R: Real>(&self, id: u32, position: usize) -> Vec<R> {
        let h = self.config.hidden;
        let row = |table: &str, i: usize| -> Vec<R> {
            constants(&self.base[&format!("embeddings.{table}_embeddings.weight")][i * h..(i + 1) * h])
        };
        let words = add(&row("word", id as usize), &row("token_type", 0));
        add(&words, &row("position", position))
    }

    /// The adapted linear layer of a sequence's tokens.
    fn linear<R: Real>(
        &self,
        values: &[R],
        layer: usize,
        target: Target,
        first: Token,
        x: &Rows<R>,
    ) -> Rows<R> {
        let name = format!("encoder.layer.{layer}.{}", target.module());
        let (w, b) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        let token = |(i, x): (usize, &Vec<R>)| {
            let y = linear(x, &w, &b);
            let Some(slot) = self.adapter.layout.lora(layer, target) else { return y };
            let factors = self.dropout_factors(layer, target, first, i, x.len());
            let masked: Vec<R> = x.iter().zip(factors).map(|(&x, f)| x * R::of(f.into())).collect();
            let (a, b) = (&values[slot.a.clone()], &values[slot.b.clone()]);
            add(&y, &low_rank(&masked, a, b, self.adapter.config.scale()))
        };
        x.iter().enumerate().map(token).collect()
    }

    /// The mask of token i of the sequence that starts at `first`.
    fn dropout_factors(&self, layer: usize, target: Target, first: Token, i: usize, n: usize) -> Vec<f32> {
        let mut factors = vec![1.0; n];
        let p = self.adapter.config.dropout;
        if p > 0.0 {
            let (seed, step, first_target) = (self.objective.seed, self.step, target as u32);
            let dropout = Dropout { p, seed, step, layer: layer as u32, first_row: 0, first_target };
            // Beside the keys and values, the last layer's rows are those of the sequences.
            let of_tokens = layer + 1 < self.config.layers || matches!(target, Target::Key | Target::Value);
            dropout.factors(0, if of_tokens { first.number + i } else { first.sequence }, &mut factors);
        }
        factors
    }

    /// The encoder's output for a sequence's [CLS], through the pooler.
    fn features<R: Real>(&self, values: &[R], ids: &[u32], first: Token) -> Vec<R> {
        let embedded = ids.iter().enumerate().map(|(i, &id)| self.embed(id, i)).collect();
        let mut x: Rows<R> = self.norm("embeddings.LayerNorm", &embedded);
        for l in 0..self.config.layers {
            let layer = |target: Target, x: &Rows<R>| self.linear(values, l, target, first, x);
            let add_and_norm = |y: Rows<R>, x: &Rows<R>, module: &str| -> Rows<R> {
                let name = format!("encoder.layer.{l}.{module}.LayerNorm");
                self.norm(&name, &y.iter().zip(x).map(|(y, x)| add(y, x)).collect())
            };
            let (q, k, v) = (layer(Target::Query, &x), layer(Target::Key, &x), layer(Target::Value, &x));
            let context = attention(&q, &k, &v, self.config.heads);
            x = add_and_norm(layer(Target::AttentionOutput, &context), &x, "attention.output");
            let mut wide = layer(Target::Intermediate, &x);
            wide.iter_mut().flatten().for_each(|x| *x = gelu(*x));
            x = add_and_norm(layer(Target::Output, &wide), &x, "output");
        }
        let (weight, bias) = match self.adapter.layout.pooler() {
            Some((weight, bias)) => (values[weight].to_vec(), values[bias].to_vec()),
            None => (self.tensor("pooler.dense.weight"), self.tensor("pooler.dense.bias")),
        };
        linear(&x[0], &weight, &bias).into_iter().map(R::tanh).collect()
    }

    /// The features and the score of every sequence.
    pub fn scores<R: Real>(&self, values: &[R]) -> (Rows<R>, Vec<R>) {
        let mut number = 0;
        let features = |(sequence, ids): (usize, &Vec<u32>)| {
            let first = Token { number, sequence };
            number += ids.len();
            self.features(values, ids, first)
        };
        let features: Rows<R> = self.batch.sequences.iter().enumerate().map(features).collect();
        let (weight, bias) =
            (&values[self.adapter.layout.classifier()], R::of(self.adapter.classifier_bias.into()));
        let scores = features.iter().map(|z| dot(z, weight) + bias).collect();
        (features, scores)
    }

    pub fn losses<R: Real>(&self, values: &[R]) -> Losses<R> {
        let (features, scores) = self.scores(values);
        let beta = match self.adapter.layout.theta() {
            Some(theta) => values[theta].exp(),
            None => R::of(self.objective.beta),
        };
        let utterance = |range: &std::ops::Range<usize>| {
            let (offsets, errors) = (&self.batch.offsets[range.clone()], &self.batch.errors[range.clone()]);
            mwer(offsets, &scores[range.clone()], errors, beta)
        };
        let count = R::of(self.batch.utterances.len() as f64);
        Losses {
            mwer: sum(self.batch.utterances.iter().map(utterance)) / count,
            correlation: correlation(&features, EPSILON),
        }
    }
}

/// The weighted sum of the losses, of the adapter's values.
impl Operation for Step<'_> {
    fn naive<R: Real>(&self, values: &[R]) -> Vec<R> {
        let losses = self.losses(values);
        vec![losses.mwer + R::of(self.objective.correlation_weight) * losses.correlation]
    }
}
