//! The BERT encoder with its scoring head, written once for every device, for training and inference.

mod join;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::{Checkpoint, Config, PackedBatch};
use crate::Result;
use crate::device::Device;
use crate::lora::{Adapter, Target};
use crate::ops::attention::{self, attention};
use crate::ops::embedding::EmbeddingTables;
use crate::ops::gather_rows::gather_rows;
use crate::ops::layer_norm::{NormWeights, layer_norm};
use crate::ops::lora_linear::{Call, Dropout, Epilogue, LinearWeights, lora_linear};
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

struct Layer<D: Device> {
    /// Query, key and value side by side.
    qkv: D::Linear,
    attention_output: D::Linear,
    attention_norm: Arc<D::Norm>,
    intermediate: D::Linear,
    output: D::Linear,
    output_norm: Arc<D::Norm>,
}

/// Adapters on a device: made again whenever their values change.
pub struct Operands<D: Device> {
    /// By layer; `None` where nothing is adapted.
    layers: Option<Vec<LayerOperands<D>>>,
    /// Where the adapters have one of their own.
    pooler: Option<D::Pooler>,
    classifier: D::Classifier,
}

struct LayerOperands<D: Device> {
    qkv: D::Lora,
    attention_output: D::Lora,
    intermediate: D::Lora,
    output: D::Lora,
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
    /// Reads the encoder and packs it for the device; `training` also packs what gradients pass through.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] where a tensor is missing or has another shape.
    pub fn load(device: &D, config: &Config, checkpoint: &Checkpoint, training: bool) -> Result<Self> {
        let h = config.hidden;
        let eps = config.layer_norm_eps;
        let tables = EmbeddingTables {
            hidden: h,
            words: checkpoint.f32("embeddings.word_embeddings.weight", &[config.vocab, h])?,
            positions: checkpoint.f32("embeddings.position_embeddings.weight", &[config.max_positions, h])?,
            segments: checkpoint.f32("embeddings.token_type_embeddings.weight", &[config.type_vocab, h])?,
            gamma: checkpoint.f32("embeddings.LayerNorm.weight", &[h])?,
            beta: checkpoint.f32("embeddings.LayerNorm.bias", &[h])?,
            eps,
        };
        let layer = |l: usize| -> Result<Layer<D>> {
            let linear = |targets: &[Target], backward: bool| -> Result<D::Linear> {
                let input = targets[0].sizes(config).0;
                let weights = |t: &Target| -> Result<LinearWeights> {
                    let (name, output) = (format!("encoder.layer.{l}.{}", t.module()), t.sizes(config).1);
                    let weight = checkpoint.f32(&format!("{name}.weight"), &[output, input])?;
                    Ok(LinearWeights { weight, bias: checkpoint.f32(&format!("{name}.bias"), &[output])? })
                };
                let weights = targets.iter().map(weights).collect::<Result<Vec<_>>>()?;
                Ok(device.linear(input, &weights, backward))
            };
            let norm = |module: &str| -> Result<Arc<D::Norm>> {
                let name = format!("encoder.layer.{l}.{module}.LayerNorm");
                let gamma = checkpoint.f32(&format!("{name}.weight"), &[h])?;
                let beta = checkpoint.f32(&format!("{name}.bias"), &[h])?;
                Ok(Arc::new(device.norm(NormWeights { gamma, beta, eps })))
            };
            let layer = Layer {
                // No gradient passes below layer 0.
                qkv: linear(&[Target::Query, Target::Key, Target::Value], training && l > 0)?,
                attention_output: linear(&[Target::AttentionOutput], training)?,
                attention_norm: norm("attention.output")?,
                intermediate: linear(&[Target::Intermediate], training)?,
                output: linear(&[Target::Output], training)?,
                output_norm: norm("output")?,
            };
            // What is packed is not read again.
            checkpoint.release();
            Ok(layer)
        };
        let layers = (0..config.layers).into_par_iter().map(layer).collect::<Result<Vec<_>>>()?;
        let pooler = if checkpoint.contains("pooler.dense.weight") {
            let weight = checkpoint.f32("pooler.dense.weight", &[h, h])?;
            Some(device.frozen_pooler(&weight, &checkpoint.f32("pooler.dense.bias", &[h])?, training))
        } else {
            None
        };
        let tables = device.embedding_tables(tables);
        // Lists need few rows of the tables, which were read as a whole to see that they are finite.
        checkpoint.release();
        Ok(Encoder { config: config.clone(), tables, layers, pooler, training })
    }

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
                qkv: of(l, &[Target::Query, Target::Key, Target::Value]),
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
        let (mut x, distinct) = match &batch.shared {
            Some(shared) => {
                let x = gather_rows(device, tape, &embedded, &shared.expand, shared.pairs);
                (x, Some((embedded, shared)))
            }
            None => (embedded, None),
        };
        for (l, layer) in self.layers.iter().enumerate() {
            let lora = operands.layers.as_ref().map(|all| &all[l]);
            let (last, first) = (l + 1 == self.layers.len(), l == 0);
            // Only [CLS] is read in the end: the last layer computes keys and values for all tokens, and
            // everything else for the [CLS] rows.
            let rows = if last { Rows::Cls } else { Rows::Tokens };
            let call = |linear: &'a D::Linear,
                        lora: Option<&'a D::Lora>,
                        first: Target,
                        modules: Range<usize>,
                        rows: Rows| {
                let first_target = first as u32 + modules.start as u32;
                let dropout = dropout.map(|d| d.at(l, first_target, rows));
                let segments = match rows {
                    Rows::Distinct => batch.shared.as_ref().and_then(|s| s.segments.as_ref()),
                    Rows::Tokens => segments.map(|s| &s.tokens),
                    Rows::Cls => segments.map(|s| &s.cls),
                };
                Call { linear, lora, segments, modules, dropout }
            };
            // Layer 0 sees each shared pair once; dropout gives every row a mask of its own.
            let project = |tape: &mut Tape<'a, D>, modules: Range<usize>| {
                let call = |rows| call(&layer.qkv, lora.map(|l| &l.qkv), Target::Query, modules, rows);
                match &distinct {
                    Some((distinct, shared)) if first && dropout.is_none() => {
                        let y = lora_linear(device, tape, call(Rows::Distinct), distinct, Epilogue::Nothing);
                        gather_rows(device, tape, &y, &shared.expand, shared.pairs)
                    }
                    _ => lora_linear(device, tape, call(Rows::Tokens), &x, Epilogue::Nothing),
                }
            };
            let query_offsets = if last { &batch.cls_offsets } else { &batch.offsets };
            let shape = attention::Shape {
                heads: self.config.heads,
                head_size: self.config.head_size(),
                query_offsets,
                key_offsets: &batch.offsets,
                single_query: last,
            };
            let inputs = if last {
                let kv = project(tape, 1..3);
                x = gather_rows(device, tape, &x, &batch.cls, batch.tokens);
                let call = call(&layer.qkv, lora.map(|l| &l.qkv), Target::Query, 0..1, rows);
                let q = lora_linear(device, tape, call, &x, Epilogue::Nothing);
                attention::Inputs::Split(q, kv)
            } else {
                attention::Inputs::Fused(project(tape, 0..3))
            };
            let context = attention(device, tape, shape, inputs);

            let c = call(
                &layer.attention_output,
                lora.map(|l| &l.attention_output),
                Target::AttentionOutput,
                0..1,
                rows,
            );
            x = lora_linear(device, tape, c, &context, Epilogue::Residual(&x));
            x = layer_norm(device, tape, &layer.attention_norm, &x);
            let c =
                call(&layer.intermediate, lora.map(|l| &l.intermediate), Target::Intermediate, 0..1, rows);
            let wide = lora_linear(device, tape, c, &x, Epilogue::Gelu);
            let c = call(&layer.output, lora.map(|l| &l.output), Target::Output, 0..1, rows);
            x = lora_linear(device, tape, c, &wide, Epilogue::Residual(&x));
            x = layer_norm(device, tape, &layer.output_norm, &x);
        }
        let weights = operands.pooler.as_ref().or(self.pooler.as_ref());
        let weights = weights.expect("an adapter has a pooler where its base has none");
        let of_cls = segments.map(|s| &s.cls);
        let features = pooler(device, tape, weights, of_cls, &x);
        let scores = classifier(device, tape, &operands.classifier, of_cls, &features);
        Scores { features, scores }
    }
}

/// Which rows a layer computes.
#[derive(Clone, Copy)]
enum Rows {
    /// One for each distinct pair of token and position, where the batch shares them.
    Distinct,
    Tokens,
    Cls,
}

impl DropoutStep {
    fn at(self, layer: usize, first_target: u32, rows: Rows) -> Dropout {
        let first_row = match rows {
            Rows::Distinct | Rows::Tokens => self.first_token,
            Rows::Cls => self.first_sequence,
        };
        Dropout { p: self.p, seed: self.seed, step: self.step, layer: layer as u32, first_row, first_target }
    }
}
