use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lorb_engine::bert::tensors::Tensors;
use lorb_engine::card::Card;
use lorb_engine::{Error, Result};
use serde_json::{Map, Value, json};

/// The folder of an adapter, as far as it can be told without its base.
pub fn describe(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join("adapter_config.json");
    let bytes = fs::read(&path).map_err(|e| Error::io(&path, "read it", e))?;
    let config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| {
        Error::file(&path, format!("not an adapter's configuration: {e}"), "give a PEFT folder")
    })?;
    let tensors = Tensors::open(dir.join("adapter_model.safetensors"))?;
    let parameters = |group: &str| -> usize {
        let shapes = tensors.names().filter(|name| name.contains(group)).filter_map(|n| tensors.shape(n));
        shapes.map(|shape| shape.iter().product::<usize>()).sum()
    };
    let card = Card::load(dir)?;
    let base = card.as_ref().map(|card| json!(card.base));
    let get = |key: &str| config.get(key).cloned().unwrap_or_default();
    Ok(super::object(json!({
        "kind": "adapter",
        "path": dir,
        "base": base.unwrap_or_else(|| get("base_model_name_or_path")),
        "base_fingerprint": card.as_ref().map(|card| card.fingerprint),
        "rank": get("r"),
        "alpha": get("lora_alpha"),
        "dropout": get("lora_dropout"),
        "rslora": get("use_rslora"),
        "targets": targets(&tensors),
        "parameters": {
            "lora": parameters(".lora_"),
            "pooler": parameters(".pooler."),
            "head": parameters(".classifier."),
        },
        "trained_with": card.map(|card| json!({
            "weights": card.training_weights,
            "first_pass_field": card.fields.first_pass,
            "lm_field": card.fields.lm,
            "normalise": card.normalise,
            "unit": card.unit,
        })),
        "rescoring": super::rescoring(dir)?,
    })))
}

/// The modules of a layer that have a low-rank pair.
fn targets(tensors: &Tensors) -> BTreeSet<&str> {
    let module = |name: &'_ str| -> Option<(usize, usize)> {
        let layer = name.find(".layer.")? + ".layer.".len();
        let start = layer + name[layer..].find('.')? + 1;
        let end = name.find(".lora_A")?;
        (start < end).then_some((start, end))
    };
    tensors.names().filter_map(|name| module(name).map(|(start, end)| &name[start..end])).collect()
}
