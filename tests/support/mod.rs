//! A small random BERT as a Hugging Face folder.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod cli;

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

/// Words of the vocabulary, besides the special tokens and the letters.
pub const WORDS: [&str; 45] = [
    "the", "a", "of", "and", "to", "in", "he", "she", "it", "was", "that", "his", "her", "with", "as", "had",
    "for", "you", "not", "be", "is", "at", "on", "by", "which", "have", "or", "from", "this", "him", "but",
    "all", "they", "were", "are", "my", "me", "one", "their", "so", "an", "said", "them", "we", "who",
];

/// What kind of BERT [`tiny_bert`] writes.
#[derive(Clone)]
pub struct TinyBert {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate: usize,
    pub max_positions: usize,
    pub dtype: Dtype,
    pub pooler: bool,
    /// Labels of the classifier, 0 for none.
    pub labels: usize,
    /// Names as in `BertForSequenceClassification` rather than `BertModel`.
    pub prefix: bool,
    /// LayerNorm.gamma and beta, as in the first checkpoints.
    pub old_names: bool,
}

impl Default for TinyBert {
    fn default() -> Self {
        TinyBert {
            hidden: 32,
            layers: 2,
            heads: 4,
            intermediate: 64,
            max_positions: 64,
            dtype: Dtype::F32,
            pooler: true,
            labels: 0,
            prefix: false,
            old_names: false,
        }
    }
}

/// The 101 tokens of vocab.txt.
pub fn vocabulary() -> Vec<String> {
    let letters = || ('a'..='z').map(String::from);
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from);
    // "a" is a letter and a word, and has one line.
    let words = WORDS.iter().filter(|w| w.len() > 1).map(|w| w.to_string());
    special.into_iter().chain(letters()).chain(letters().map(|l| format!("##{l}"))).chain(words).collect()
}

/// Writes config.json, model.safetensors and vocab.txt into `dir`; equal seeds give equal weights, whatever
/// type and names they are stored with.
pub fn tiny_bert(dir: &Path, seed: u64, options: &TinyBert) {
    let TinyBert { hidden: h, layers, heads, intermediate, max_positions, .. } = *options;
    fs::create_dir_all(dir).unwrap();
    let vocab = vocabulary();
    fs::write(dir.join("vocab.txt"), vocab.join("\n") + "\n").unwrap();
    let config = json!({
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": h,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab.len(),
        "max_position_embeddings": max_positions,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();

    let config = lorb_engine::bert::Config::open(dir).unwrap();
    let mut shapes = config.encoder_tensors();
    shapes.push(("pooler.dense.weight".into(), vec![h, h]));
    shapes.push(("pooler.dense.bias".into(), vec![h]));
    shapes.push(("classifier.weight".into(), vec![options.labels, h]));
    shapes.push(("classifier.bias".into(), vec![options.labels]));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let center = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let mut draw = || center + (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 * 0.4 - 0.2;
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw()).collect();
        let left_out = name.starts_with("pooler") && !options.pooler
            || name.starts_with("classifier") && options.labels == 0;
        if !left_out {
            tensors.push((spelled(&name, options), shape, bytes(&values, options.dtype)));
        }
    }
    write_safetensors(&dir.join("model.safetensors"), options.dtype, &tensors);
}

/// A BERT with a head of one score that lacks its bias.
pub fn bert_with_half_a_head(dir: &Path) {
    tiny_bert(dir, 3, &TinyBert { labels: 1, ..TinyBert::default() });
    let path = dir.join("model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let name = b"classifier.bias";
    let at = file.windows(name.len()).position(|bytes| bytes == name).unwrap();
    file[at..at + name.len()].copy_from_slice(b"classifier.lost");
    fs::write(path, file).unwrap();
}

/// A safetensors file of tensors of one type, given as bytes.
pub fn write_safetensors(path: &Path, dtype: Dtype, tensors: &[(String, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// `values` as the bytes of `dtype`.
pub fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn spelled(name: &str, options: &TinyBert) -> String {
    let mut name = name.to_string();
    if options.old_names {
        name =
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    }
    if options.prefix && !name.starts_with("classifier") { format!("bert.{name}") } else { name }
}
