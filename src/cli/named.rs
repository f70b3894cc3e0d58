//! Models and adapters as the options name them.

use std::path::{Path, PathBuf};

use lorb_engine::hub::{self, Found, Kind};
use lorb_engine::model::BaseModel;
use lorb_engine::{Error, Result};

use super::note;

/// Where the base is that `--model` names.
pub fn find_model(model: &Option<PathBuf>) -> Result<Found> {
    let model = model.as_deref();
    let model = model.ok_or_else(|| Error::Usage("give a BERT with --model DIR|ID".into()))?;
    hub::locate(model, Kind::Model, &note)
}

/// The base that `--model` names.
pub fn open_model(model: &Option<PathBuf>) -> Result<BaseModel> {
    find_model(model)?.base()
}

/// Where the adapter is that an option names.
pub fn find_adapter(adapter: &Path) -> Result<Found> {
    hub::locate(adapter, Kind::Adapter, &note)
}
