//! A base and an adapter as one plain Hugging Face model.

use std::collections::HashMap;
use std::path::Path;
use std::{fs, slice};

use serde_json::{Map, Value, json};

use super::{Adapter, LoraSlot, Target};
use crate::bert::checkpoint::in_classifier;
use crate::bert::tensors::{self, Output};
use crate::bert::{Checkpoint, Config};
use crate::{Error, Result, atomic};

const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json"];

/// Writes `BertForSequenceClassification(num_labels=1)` in F32 to the new folder `out`: W + scale * B A for
/// the adapted layers, the adapter's classifier and pooler, everything else as in the base.
///
/// `model_dir` gives config.json and the tokenizer's files; `more` may put other files into the folder before
/// it gets its name. Without an adapter, pooler and classifier must be the checkpoint's.
///
/// # Errors
/// [`Error::Usage`] where `out` holds something already, [`Error::Tensor`] where the base lacks a tensor,
/// [`Error::Io`] where a file cannot be read or written.
pub fn merge(
    checkpoint: &Checkpoint,
    config: &Config,
    model_dir: impl AsRef<Path>,
    adapter: Option<&Adapter>,
    out: impl AsRef<Path>,
    more: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let (model_dir, out) = (model_dir.as_ref(), out.as_ref());
    let in_use = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if in_use {
        return Err(Error::Usage(format!("{} exists already: give a new folder", out.display())));
    }
    let outputs = outputs(checkpoint, config, adapter)?;
    let description = classifier_config(&model_dir.join("config.json"))?;
    atomic::create_directory(out, |dir| {
        tensors::write(dir.join("model.safetensors"), outputs)?;
        atomic::write(dir.join("config.json"), description.as_bytes())?;
        for file in TOKENIZER_FILES {
            let from = model_dir.join(file);
            if from.exists() {
                let bytes = fs::read(&from).map_err(|e| Error::io(&from, "read it", e))?;
                atomic::write(dir.join(file), &bytes)?;
            }
        }
        more(dir)
    })
}

/// What an adapter makes of a tensor of the base.
enum Trained<'a> {
    /// Values in place of the base's.
    Instead(&'a [f32]),
    /// A low-rank pair on top of them.
    Update(&'a Adapter, &'a LoraSlot),
}

/// By the tensor's name.
fn trained<'a>(adapter: &'a Adapter, config: &Config) -> HashMap<String, Trained<'a>> {
    let layout = &adapter.layout;
    let mut trained = HashMap::new();
    for (layer, target) in (0..config.layers).flat_map(|l| Target::ALL.map(|target| (l, target))) {
        if let Some(slot) = layout.lora(layer, target) {
            let name = format!("encoder.layer.{layer}.{}.weight", target.module());
            trained.insert(name, Trained::Update(adapter, slot));
        }
    }
    let mut instead = |name: &str, values| trained.insert(name.into(), Trained::Instead(values));
    if let Some((weight, bias)) = layout.pooler() {
        instead("pooler.dense.weight", &adapter.values[weight]);
        instead("pooler.dense.bias", &adapter.values[bias]);
    }
    instead("classifier.weight", &adapter.values[layout.classifier()]);
    instead("classifier.bias", slice::from_ref(&adapter.classifier_bias));
    trained
}

/// All tensors of the merged model. That the base has what they need is seen here; each is read when it is written.
fn outputs<'a>(
    checkpoint: &'a Checkpoint,
    config: &Config,
    adapter: Option<&'a Adapter>,
) -> Result<Vec<Output<'a>>> {
    let h = config.hidden;
    let head = [
        ("pooler.dense.weight", vec![h, h]),
        ("pooler.dense.bias", vec![h]),
        ("classifier.weight", vec![1, h]),
        ("classifier.bias", vec![1]),
    ];
    let head = head.map(|(name, shape)| (name.to_owned(), shape));
    let mut trained = adapter.map(|adapter| trained(adapter, config)).unwrap_or_default();
    let output = |(name, shape): (String, Vec<usize>)| {
        let (stored, trained) = (in_classifier(&name), trained.remove(&name));
        if !matches!(trained, Some(Trained::Instead(_))) {
            checkpoint.check(&name, &shape)?;
        }
        let size = shape.clone();
        let values = move || match trained {
            Some(Trained::Instead(values)) => Ok(values.into()),
            Some(Trained::Update(adapter, slot)) => {
                Ok(sum(&checkpoint.f32(&name, &size)?, adapter, slot).into())
            }
            None => Ok(checkpoint.f32(&name, &size)?.to_vec().into()),
        };
        Ok(Output { name: stored, shape, values: Box::new(values) })
    };
    config.encoder_tensors().into_iter().chain(head).map(output).collect()
}

/// W + scale * B A, `[output, input]`.
fn sum(base: &[f32], adapter: &Adapter, slot: &LoraSlot) -> Vec<f32> {
    let (a, b) = (&adapter.values[slot.a.clone()], &adapter.values[slot.b.clone()]);
    let scale = adapter.config.scale();
    let mut merged = base.to_vec();
    for (out, row) in merged.chunks_exact_mut(slot.input).enumerate() {
        for (rank, a) in a.chunks_exact(slot.input).enumerate() {
            let factor = scale * b[rank * slot.output + out];
            row.iter_mut().zip(a).for_each(|(w, a)| *w += factor * a);
        }
    }
    merged
}

/// The base's config.json, with what makes it a classifier of one label in F32.
fn classifier_config(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, "read it", e))?;
    let mut config: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|e| Error::file(path, format!("not JSON: {e}"), "give a BERT's config.json"))?;
    config.insert("architectures".into(), json!(["BertForSequenceClassification"]));
    config.insert("id2label".into(), json!({"0": "LABEL_0"}));
    config.insert("label2id".into(), json!({"LABEL_0": 0}));
    // It follows from id2label, and would contradict it in the config of another task.
    config.shift_remove("num_labels");
    // transformers loads in the type that the config names: "torch_dtype" before its fifth version.
    for key in ["dtype", "torch_dtype"] {
        config.shift_remove(key);
    }
    config.insert("dtype".into(), json!("float32"));
    Ok(format!("{:#}\n", Value::Object(config)))
}
