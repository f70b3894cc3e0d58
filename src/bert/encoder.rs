//! The BERT encoder with its scoring head, written once for every device, for training and inference.

mod join;
mod layer;
mod load;

use self::layer::{Layer, LayerOperands, Pass, QKV};
use super::{Config, PackedBatch};
use crate::device::Device;
use crate::lora::{Adapter, Target};
use crate::ops::gather_rows::gather_rows;
use crate::ops::score_head::{classifier, pooler};
use crate::profile::Work;
use crate::tape::{Tape, Var};

/// The frozen base on a device.
pub struct Encoder<D: Device> {
    config: Config,
    tables: D::Tables,
    layers: Vec<Layer<D>>,
    /// Where the checkpoint has one.
    pooler: Option<D::Pooler>,
    /// Whether what gradients pass through is packed, too.
    training: bool,
}

/// Adapters on a device: made again whenever their values change.
pub struct Operands<D: Device> {
    /// By layer; `None` where nothing is adapted.
    layers: Option<Vec<LayerOperands<D>>>,
    /// Where the adapters have one of their own.
    pooler: Option<D::Pooler>,
    classifier: D::Classifier,
}

/// What a forward pass gives, for each sequence of the batch.
pub struct Scores<D: Device> {
    /// [sequences, H]: the features that enter the classifier.
    pub features: Var<D>,
    /// [sequences, 1]: g.
    pub scores: Var<D>,
}

/// LoRA's dropout in one step of training, for the chunk that starts at these numbers of the step's batch.
#[derive(Clone, Copy)]
pub struct DropoutStep {
    pub p: f32,
    pub seed: u64,
    pub step: u32,
    pub first_token: u32,
    pub first_sequence: u32,
}

impl<D: Device> Encoder<D> {
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The matrices of adapters, packed for the device; with each, its parameters as they are there.
    ///
    /// # Panics
    /// Where there is none, or their layouts do not [match](crate::lora::Layout::matches): then the kernels'
    /// forms would differ with the ranks, and an adapter's scores with its company.
    pub fn operands(&self, device: &D, adapters: &[(&Adapter, &D::Parameters)]) -> Operands<D> {
        let (first, _) = adapters[0];
        let layout = &first.layout;
        assert!(adapters.iter().all(|(a, _)| a.layout.matches(layout)), "adapters of one shape");
        let scaled: Vec<_> = adapters.iter().map(|(a, values)| (*values, a.config.scale())).collect();
        let layers = (!first.config.targets.is_empty()).then(|| {
            let of = |l: usize, targets: &[Target]| {
                let slots: Vec<_> = targets.iter().map(|&t| layout.lora(l, t).cloned()).collect();
                device.lora(&scaled, &slots, self.training)
            };
            let layer = |l: usize| LayerOperands {
                qkv: of(l, &QKV),
                attention_output: of(l, &[Target::AttentionOutput]),
                intermediate: of(l, &[Target::Intermediate]),
                output: of(l, &[Target::Output]),
            };
            (0..self.config.layers).map(layer).collect()
        });
        let values: Vec<_> = adapters.iter().map(|(_, values)| *values).collect();
        let pooler =
            layout.pooler().map(|(weight, bias)| device.trained_pooler(&values, weight, bias, self.training));
        let heads: Vec<_> = adapters.iter().map(|(a, values)| (*values, a.classifier_bias)).collect();
        let classifier = device.classifier_weights(&heads, layout.classifier());
        Operands { layers, pooler, classifier }
    }

    /// Scores a batch, recording on `tape` what the adapter's gradients need.
    ///
    /// # Panics
    /// Where it records a batch of several adapters: they are for inference.
    pub fn forward<'a>(
        &'a self,
        device: &D,
        operands: &'a Operands<D>,
        batch: &'a PackedBatch<D>,
        dropout: Option<DropoutStep>,
        tape: &mut Tape<'a, D>,
    ) -> Scores<D>
    where
        D: 'a,
    {
        let segments = batch.segments.as_ref();
        assert!(segments.is_none() || !(tape.is_recording() || dropout.is_some()), "several adapters");
        let embed = || device.embedding(&self.tables, &batch.token_ids, &batch.positions);
        // A row of each table, and what comes of them.
        let embedded = device.operation("embedding", |y| Work::bytes(3.0 * D::bytes(y)), embed);
        let embedded = Var::constant(embedded);
        let (mut x, mut distinct) = match &batch.shared {
            Some(shared) => {
                let x = gather_rows(device, tape, &embedded, &shared.expand, shared.pairs);
                // Layer 0 sees each shared pair once; dropout gives every row a mask of its own.
                (x, dropout.is_none().then_some((embedded, shared)))
            }
            None => (embedded, None),
        };
        let pass = Pass { device, config: &self.config, batch, dropout };
        for (l, layer) in self.layers.iter().enumerate() {
            let lora = operands.layers.as_ref().map(|all| &all[l]);
            x = layer.forward(&pass, lora, tape, x, distinct.take());
        }
        let weights = operands.pooler.as_ref().or(self.pooler.as_ref());
        let weights = weights.expect("an adapter has a pooler where its base has none");
        let of_cls = segments.map(|s| &s.cls);
        let features = pooler(device, tape, weights, of_cls, &x);
        let scores = classifier(device, tape, &operands.classifier, of_cls, &features);
        Scores { features, scores }
    }
}
