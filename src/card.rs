//! `lorb.json`, the file beside an adapter that says what PEFT's files cannot: the base it belongs to, how
//! text was prepared, and the weights of the scores that it was trained with.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bert::Fingerprint;
use crate::lora::adapter::has_classifier;
use crate::lora::{Adapter, LoraConfig, Targets};
use crate::model::BaseModel;
use crate::nbest::Fields;
use crate::nbest::normalise::{NormaliseOptions, Unit};
use crate::nbest::sample::Sample;
use crate::rescore::weights::Weights;
use crate::{Error, Result, atomic};

/// What an adapter was trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The base, as it was named in training.
    pub base: String,
    pub fingerprint: Fingerprint,
    pub fields: Fields,
    pub normalise: NormaliseOptions,
    pub unit: Unit,
    /// The combined score of training: w_a, w_l and beta, which is the one reached where it was learned.
    pub training_weights: Weights,
    /// Of the utterances that it was trained on; empty in files from before this was kept.
    #[serde(default, skip_serializing_if = "Sample::is_empty")]
    pub trained_on: Sample,
}

impl Card {
    /// The file's name in the adapter's folder.
    pub const NAME: &str = "lorb.json";

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).expect("a card is plain data");
        text.push('\n');
        atomic::write(dir.join(Card::NAME), text.as_bytes())
    }

    /// Reads the file; `None` where there is none, as beside an adapter that PEFT trained.
    ///
    /// # Errors
    /// [`Error::File`] where it is no card, [`Error::Io`] where it cannot be read.
    pub fn load(dir: &Path) -> Result<Option<Card>> {
        let path = dir.join(Card::NAME);
        let Some(text) = atomic::read(&path)? else { return Ok(None) };
        match serde_json::from_slice(&text) {
            Ok(card) => Ok(Some(card)),
            Err(e) => {
                Err(Error::file(&path, format!("not an adapter's card: {e}"), "train the adapter again"))
            }
        }
    }
}

/// Loads an adapter's folder for a base, with its card where it has one.
///
/// # Errors
/// [`Error::File`] where the card says that the adapter belongs to another base, and whatever is wrong with
/// the files.
pub fn open_adapter(dir: &Path, model: &BaseModel) -> Result<(Adapter, Option<Card>)> {
    let card = Card::load(dir)?;
    let adapter = Adapter::load(dir, &model.config, &model.checkpoint)?;
    if let Some(card) = &card
        && !card.fingerprint.matches(&model.checkpoint.fingerprint(&model.config)?)
    {
        return Err(Error::file(
            dir,
            format!("the adapter was trained on another base ({}) than {}", card.base, model.name),
            "give the base that it was trained on",
        ));
    }
    Ok((adapter, card))
}

/// The head that a model brings along, as one that was merged does: pooler and classifier, nothing adapted. `None`
/// where it has none that gives one score.
///
/// # Errors
/// [`Error::Tensor`] where it has one that cannot be read.
pub fn own_head(model: &BaseModel) -> Result<Option<Adapter>> {
    let BaseModel { config, checkpoint, .. } = model;
    if !(has_classifier(config, checkpoint) && checkpoint.contains("pooler.dense.weight")) {
        return Ok(None);
    }
    let nothing = LoraConfig { targets: Targets::default(), ..LoraConfig::default() };
    Adapter::initialise(config, checkpoint, nothing, None, 0).map(Some)
}

/// What is wrong with a model that has no [`own_head`] where one is needed; `option` gives another.
pub fn no_head(model: &BaseModel, option: &str) -> Error {
    let hint = format!("give {option}, or a merged model");
    Error::file(&model.name, "the model has no head of one score", hint)
}
