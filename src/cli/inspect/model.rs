use std::collections::BTreeSet;
use std::path::Path;

use lorb_engine::Result;
use lorb_engine::model::BaseModel;
use serde_json::{Map, Value, json};

/// The folder of a BERT, whose every tensor must be there in its shape.
pub fn describe(dir: &Path) -> Result<Map<String, Value>> {
    let BaseModel { config, checkpoint, tokenizer, .. } = BaseModel::open(dir)?;
    let (mut parameters, mut dtypes) = (0, BTreeSet::new());
    for (name, shape) in config.encoder_tensors() {
        checkpoint.check(&name, &shape)?;
        dtypes.extend(checkpoint.dtype(&name).map(|dtype| format!("{dtype:?}")));
        parameters += shape.iter().product::<usize>();
    }
    let head = checkpoint.shape("classifier.weight").and_then(|shape| shape.first().copied());
    Ok(super::object(json!({
        "kind": "BERT",
        "path": dir,
        "layers": config.layers,
        "hidden": config.hidden,
        "heads": config.heads,
        "intermediate": config.intermediate,
        "positions": config.max_positions,
        "vocabulary": config.vocab,
        "tokenizer_vocabulary": tokenizer.vocabulary(),
        "encoder_parameters": parameters,
        "stored_as": dtypes,
        "pooler": checkpoint.contains("pooler.dense.weight"),
        "classifier_labels": head,
        "fingerprint": checkpoint.fingerprint(&config)?,
        "rescoring": super::rescoring(dir)?,
    })))
}
