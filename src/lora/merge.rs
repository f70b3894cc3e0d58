//! A base and an adapter as one plain Hugging Face model.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Adapter, LoraSlot, Target};
use crate::bert::tensors::{self, Output};
use crate::bert::{Checkpoint, Config, Weights};
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

/// All tensors of the merged model; the sums are made when they are written.
fn outputs<'a>(
    checkpoint: &Checkpoint,
    config: &Config,
    adapter: Option<&'a Adapter>,
) -> Result<Vec<Output<'a>>> {
    let mut outputs = Vec::new();
    for (name, shape) in config.encoder_tensors() {
        let base = checkpoint.f32(&name, &shape)?;
        let update = adapter.and_then(|adapter| Some((adapter, slot_of(&name, config, adapter)?)));
        let values: Box<dyn FnOnce() -> Cow<'a, [f32]> + 'a> = match update {
            Some((adapter, slot)) => Box::new(move || sum(&base, adapter, slot).into()),
            None => Box::new(move || base.to_vec().into()),
        };
        outputs.push(Output { name: format!("bert.{name}"), shape, values });
    }
    let h = config.hidden;
    let mut push = |name: &str, shape: Vec<usize>, trained: Option<&'a [f32]>| -> Result<()> {
        let canonical = name.trim_start_matches("bert.");
        let values: Cow<'a, [f32]> = match trained {
            Some(values) => values.into(),
            None => checkpoint.f32(canonical, &shape)?.to_vec().into(),
        };
        outputs.push(Output { name: name.into(), shape, values: Box::new(|| values) });
        Ok(())
    };
    let pooler = adapter.and_then(|a| Some((a, a.layout.pooler()?)));
    let (weight, bias) = pooler.map(|(a, (w, b))| (&a.values[w], &a.values[b])).unzip();
    push("bert.pooler.dense.weight", vec![h, h], weight)?;
    push("bert.pooler.dense.bias", vec![h], bias)?;
    push("classifier.weight", vec![1, h], adapter.map(|a| &a.values[a.layout.classifier()]))?;
    push("classifier.bias", vec![1], adapter.map(|a| std::slice::from_ref(&a.classifier_bias)))?;
    Ok(outputs)
}

/// The low-rank pair that adapts the tensor `name`, if any.
fn slot_of<'a>(name: &str, config: &Config, adapter: &'a Adapter) -> Option<&'a LoraSlot> {
    let mut all = (0..config.layers).flat_map(|layer| Target::ALL.map(|target| (layer, target)));
    let (layer, target) =
        all.find(|(layer, target)| name == format!("encoder.layer.{layer}.{}.weight", target.module()))?;
    adapter.layout.lora(layer, target)
}

/// W + scale * B A, `[output, input]`.
fn sum(base: &Weights, adapter: &Adapter, slot: &LoraSlot) -> Vec<f32> {
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
