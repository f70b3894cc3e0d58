//! The encoder out of a checkpoint.

use std::sync::Arc;

use rayon::prelude::*;

use super::Encoder;
use super::layer::{Layer, Linear, QKV};
use crate::Result;
use crate::bert::{Checkpoint, Config};
use crate::device::Device;
use crate::lora::Target;
use crate::ops::embedding::EmbeddingTables;
use crate::ops::layer_norm::NormWeights;
use crate::ops::lora_linear::LinearWeights;

impl<D: Device> Encoder<D> {
    /// Reads the encoder and packs it for the device; `training` also packs what gradients pass through.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] where a tensor is missing or has another shape.
    pub fn load(device: &D, config: &Config, checkpoint: &Checkpoint, training: bool) -> Result<Self> {
        let h = config.hidden;
        let tables = EmbeddingTables {
            hidden: h,
            words: checkpoint.f32("embeddings.word_embeddings.weight", &[config.vocab, h])?,
            positions: checkpoint.f32("embeddings.position_embeddings.weight", &[config.max_positions, h])?,
            segments: checkpoint.f32("embeddings.token_type_embeddings.weight", &[config.type_vocab, h])?,
            gamma: checkpoint.f32("embeddings.LayerNorm.weight", &[h])?,
            beta: checkpoint.f32("embeddings.LayerNorm.bias", &[h])?,
            eps: config.layer_norm_eps,
        };
        let layer = |l| Layer::load(device, config, checkpoint, l, training);
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
}

impl<D: Device> Layer<D> {
    /// Layer `l`, from 0.
    fn load(device: &D, config: &Config, checkpoint: &Checkpoint, l: usize, training: bool) -> Result<Self> {
        let linear = |targets: &[Target], backward: bool| -> Result<Linear<D>> {
            let first = targets[0];
            let input = first.sizes(config).0;
            let weights = |t: &Target| -> Result<LinearWeights> {
                let (name, output) = (format!("encoder.layer.{l}.{}", t.module()), t.sizes(config).1);
                let weight = checkpoint.f32(&format!("{name}.weight"), &[output, input])?;
                Ok(LinearWeights { weight, bias: checkpoint.f32(&format!("{name}.bias"), &[output])? })
            };
            let weights = targets.iter().map(weights).collect::<Result<Vec<_>>>()?;
            Ok(Linear { packed: device.linear(input, &weights, backward), layer: l, first })
        };
        let norm = |module: &str| -> Result<Arc<D::Norm>> {
            let name = format!("encoder.layer.{l}.{module}.LayerNorm");
            let gamma = checkpoint.f32(&format!("{name}.weight"), &[config.hidden])?;
            let beta = checkpoint.f32(&format!("{name}.bias"), &[config.hidden])?;
            Ok(Arc::new(device.norm(NormWeights { gamma, beta, eps: config.layer_norm_eps })))
        };
        let layer = Layer {
            // No gradient passes below layer 0.
            qkv: linear(&QKV, training && l > 0)?,
            attention_output: linear(&[Target::AttentionOutput], training)?,
            attention_norm: norm("attention.output")?,
            intermediate: linear(&[Target::Intermediate], training)?,
            output: linear(&[Target::Output], training)?,
            output_norm: norm("output")?,
            last: l + 1 == config.layers,
        };
        // What is packed is not read again.
        checkpoint.release();
        Ok(layer)
    }
}
