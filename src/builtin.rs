//! The embedded default: a small BERT and lists of a real recogniser, so that `train` runs with no argument.
//!
//! assets/builtin/README.md says where they come from and how they were made.

use std::path::PathBuf;

use crate::Result;
use crate::bert::{Checkpoint, Config, Tokenizer};
use crate::model::BaseModel;
use crate::nbest::{Fields, ListReader};

macro_rules! asset {
    ($file:literal) => {
        include_bytes!(concat!("../assets/builtin/", $file))
    };
}

/// What the embedded model is, in messages and in the adapters that it gets.
pub const MODEL_NAME: &str = "embedded: MiniLM-L6-v2 cut down (Apache-2.0)";

/// The embedded BERT.
///
/// # Errors
/// None, unless the program was built with damaged assets.
pub fn model() -> Result<BaseModel> {
    let name = |file: &str| PathBuf::from("embedded").join(file);
    let config = Config::from_bytes(asset!("model/config.json"), name("config.json"))?;
    Ok(BaseModel {
        name: MODEL_NAME.into(),
        checkpoint: Checkpoint::from_static(asset!("model/model.safetensors"), "embedded/model.safetensors")?,
        tokenizer: Tokenizer::from_vocabulary(
            asset!("model/vocab.txt"),
            asset!("model/tokenizer_config.json"),
            name("vocab.txt"),
            &config,
        )?,
        config,
        dir: None,
    })
}

/// The embedded lists to train on.
///
/// # Errors
/// None, unless the program was built with damaged assets.
pub fn training_lists(fields: &Fields) -> Result<ListReader> {
    ListReader::new("embedded/train.jsonl.gz".into(), &asset!("train.jsonl.gz")[..], fields)
}

/// The embedded lists to measure the result on: other sentences than those to train on.
///
/// # Errors
/// None, unless the program was built with damaged assets.
pub fn held_out_lists(fields: &Fields) -> Result<ListReader> {
    ListReader::new("embedded/valid.jsonl.gz".into(), &asset!("valid.jsonl.gz")[..], fields)
}
