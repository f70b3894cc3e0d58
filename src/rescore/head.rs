//! What scores, and how: a base, an adapter, and the settings that belong to them.

use std::path::PathBuf;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::settings::{ListOptions, Settings};
use super::weights::RescoringFile;
use crate::card::{no_head, open_adapter, own_head};
use crate::hub::Found;
use crate::lora::Adapter;
use crate::model::BaseModel;
use crate::nbest::sample::Sample;
use crate::text::hex;
use crate::{Result, builtin};

/// A base and what scores with it.
pub struct Head {
    pub model: BaseModel,
    pub adapter: Adapter,
    /// Where its settings are kept, and may be changed: not in the cache of the Hub.
    pub dir: Option<PathBuf>,
    pub settings: Settings,
    /// Empty where no card says it.
    pub trained_on: Sample,
}

impl Head {
    /// Opens the base, or the embedded one, and the adapter, or takes the base's own head; `lists` come before what
    /// the files say.
    ///
    /// # Errors
    /// Where the base has no head of its own, and whatever is wrong with a file.
    pub fn open(base: Option<Found>, adapter: Option<Found>, lists: &ListOptions) -> Result<Head> {
        let model = base.as_ref().map_or_else(builtin::model, Found::base)?;
        let (head, card) = match &adapter {
            Some(found) => open_adapter(&found.dir, &model)?,
            None => (own_head(&model)?.ok_or_else(|| no_head(&model, "--adapter DIR"))?, None),
        };
        let home = adapter.or(base);
        let mut settings = Settings::of(home.as_ref().map(|home| home.dir.as_path()))?;
        lists.override_in(&mut settings.rescoring);
        let dir = home.and_then(|home| home.id.is_none().then_some(home.dir));
        let trained_on = card.map(|card| card.trained_on).unwrap_or_default();
        Ok(Head { model, adapter: head, dir, settings, trained_on })
    }

    /// A digest of what decides a rescored list, apart from the device: the base, the adapter, and the settings. Of
    /// the base's weights it covers the fingerprint alone, since to read all would cost each start seconds; the
    /// configuration tells what weights do not, such as the number of heads.
    ///
    /// # Errors
    /// Where a tensor of the base is missing or has another shape.
    pub fn digest(&self) -> Result<String> {
        let Head { model, adapter, settings, .. } = self;
        let config = &adapter.config;
        let described = json!({
            "base": model.checkpoint.fingerprint(&model.config)?,
            "config": model.config,
            "lora": [json!(config.targets.to_string()), json!(config.rank), json!(config.scale())],
            "classifier_bias": adapter.classifier_bias,
            // The lists that it was tuned on decide nothing more.
            "rescoring": RescoringFile { tuned_on: Vec::new(), ..settings.rescoring.clone() },
        });
        let mut hash = Sha256::new();
        hash.update(described.to_string());
        hash.update(model.tokenizer.json()?);
        hash.update(bytemuck::cast_slice::<f32, u8>(&adapter.values));
        if let Some(domain) = &settings.ngram {
            hash.update(domain.ngram.arpa());
        }
        Ok(hex(&hash.finalize()))
    }
}
