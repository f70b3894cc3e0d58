//! `config.json` of a Hugging Face BERT: the sizes, and a refusal of what this engine does not compute.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The sizes of a BERT encoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Width of a token's vector, H.
    pub hidden: usize,
    pub layers: usize,
    /// Attention heads of a layer; divides `hidden`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the word embedding table.
    pub vocab: usize,
    /// Rows of the position table: the longest sequence in tokens, [CLS] and [SEP] included.
    pub max_positions: usize,
    /// Rows of the segment table; only the first is ever used.
    pub type_vocab: usize,
    pub layer_norm_eps: f32,
    pub pad_token_id: u32,
}

/// The keys that are read; a missing one has the default of `transformers`, where that is safe.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    layer_norm_eps: Option<f32>,
    pad_token_id: Option<u32>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

fn two() -> usize {
    2
}

impl Config {
    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is not the configuration of a BERT
    /// encoder that this engine computes.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join("config.json");
        let bytes = fs::read(&path).map_err(|e| Error::io(&path, "read it", e))?;
        Self::from_bytes(&bytes, &path)
    }

    /// Reads the content of a `config.json`; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::File`], as in [`open`](Self::open).
    pub fn from_bytes(bytes: &[u8], path: impl AsRef<Path>) -> Result<Self> {
        let refuse = |problem: String, hint: &str| Err(Error::file(&path, problem, hint));
        let raw: Raw = match serde_json::from_slice(bytes) {
            Ok(raw) => raw,
            Err(e) => return refuse(format!("not a BERT configuration: {e}"), "give a BERT's config.json"),
        };
        if raw.model_type.as_deref() != Some("bert") {
            let found = raw.model_type.as_deref().unwrap_or("missing");
            return refuse(format!("model_type is {found}"), "only \"bert\" is supported");
        }
        let act = raw.hidden_act.as_deref().unwrap_or("gelu");
        if act != "gelu" {
            return refuse(format!("hidden_act is {act}"), "only \"gelu\" (exact, by erf) is supported");
        }
        let positions = raw.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            let hint = "only \"absolute\" positions are supported";
            return refuse(format!("position_embedding_type is {positions}"), hint);
        }
        if raw.is_decoder || raw.add_cross_attention {
            let hint = "is_decoder and add_cross_attention must be false";
            return refuse("the model is a decoder, not an encoder".into(), hint);
        }
        // Far above any BERT, and low enough that no product of sizes overflows.
        for (key, size, limit) in [
            ("hidden_size", raw.hidden_size, 1 << 16),
            ("num_hidden_layers", raw.num_hidden_layers, 1 << 10),
            ("num_attention_heads", raw.num_attention_heads, 1 << 16),
            ("intermediate_size", raw.intermediate_size, 1 << 18),
            ("vocab_size", raw.vocab_size, 1 << 24),
            ("max_position_embeddings", raw.max_position_embeddings, 1 << 20),
            ("type_vocab_size", raw.type_vocab_size, 1 << 16),
        ] {
            if size == 0 || size > limit {
                return refuse(format!("{key} is {size}"), &format!("it must be from 1 to {limit}"));
            }
        }
        if !raw.hidden_size.is_multiple_of(raw.num_attention_heads) {
            let problem = format!("{} heads do not divide {}", raw.num_attention_heads, raw.hidden_size);
            return refuse(problem, "hidden_size must be a multiple of num_attention_heads");
        }
        let layer_norm_eps = raw.layer_norm_eps.unwrap_or(1e-12);
        if !(layer_norm_eps > 0.0 && layer_norm_eps < 1.0) {
            return refuse(format!("layer_norm_eps is {layer_norm_eps}"), "it must be small and positive");
        }
        Ok(Config {
            hidden: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            intermediate: raw.intermediate_size,
            vocab: raw.vocab_size,
            max_positions: raw.max_position_embeddings,
            type_vocab: raw.type_vocab_size,
            layer_norm_eps,
            pad_token_id: raw.pad_token_id.unwrap_or(0),
        })
    }

    /// Width of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden / self.heads
    }

    /// Name and shape of every tensor of the encoder, without pooler and classifier, in Hugging Face's order.
    pub fn encoder_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, wide) = (self.hidden, self.intermediate);
        let mut all = vec![
            ("embeddings.word_embeddings.weight".to_string(), vec![self.vocab, h]),
            ("embeddings.position_embeddings.weight".to_string(), vec![self.max_positions, h]),
            ("embeddings.token_type_embeddings.weight".to_string(), vec![self.type_vocab, h]),
            ("embeddings.LayerNorm.weight".to_string(), vec![h]),
            ("embeddings.LayerNorm.bias".to_string(), vec![h]),
        ];
        for layer in 0..self.layers {
            let linears = [
                ("attention.self.query", h, h),
                ("attention.self.key", h, h),
                ("attention.self.value", h, h),
                ("attention.output.dense", h, h),
                ("intermediate.dense", wide, h),
                ("output.dense", h, wide),
            ];
            for (module, out, input) in linears {
                all.push((format!("encoder.layer.{layer}.{module}.weight"), vec![out, input]));
                all.push((format!("encoder.layer.{layer}.{module}.bias"), vec![out]));
            }
            for module in ["attention.output.LayerNorm", "output.LayerNorm"] {
                all.push((format!("encoder.layer.{layer}.{module}.weight"), vec![h]));
                all.push((format!("encoder.layer.{layer}.{module}.bias"), vec![h]));
            }
        }
        all
    }
}

#[cfg(test)]
impl Config {
    /// Of a small network.
    pub(crate) fn tiny() -> Config {
        Config {
            hidden: 6,
            layers: 3,
            heads: 2,
            intermediate: 10,
            vocab: 9,
            max_positions: 8,
            type_vocab: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
        }
    }
}
