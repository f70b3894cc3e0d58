//! What scores, and how: a base, an adapter, and the settings that belong to them.

use std::path::{Path, PathBuf};

use super::settings::{ListOptions, Settings};
use crate::Result;
use crate::card::{open_adapter, own_head};
use crate::lora::Adapter;
use crate::model::BaseModel;

/// A base and what scores with it.
pub struct Head {
    pub model: BaseModel,
    pub adapter: Adapter,
    /// Where its settings are kept.
    pub dir: Option<PathBuf>,
    pub settings: Settings,
}

impl Head {
    /// Opens the adapter's folder, or takes the base's own head; `lists` come before what the files say.
    ///
    /// # Errors
    /// Where the base has no head of its own, and whatever is wrong with a file.
    pub fn open(model: BaseModel, adapter: Option<&Path>, lists: &ListOptions) -> Result<Head> {
        let head = match adapter {
            Some(dir) => open_adapter(dir, &model)?.0,
            None => own_head(&model)?,
        };
        let dir = adapter.map(PathBuf::from).or_else(|| model.dir.clone());
        let mut settings = Settings::of(dir.as_deref())?;
        lists.override_in(&mut settings.rescoring);
        Ok(Head { model, adapter: head, dir, settings })
    }
}
