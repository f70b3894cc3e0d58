//! The options of the subcommands that score with a model.

use std::path::PathBuf;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::card::{open_adapter, own_head};
use lorb_engine::lora::Adapter;
use lorb_engine::model::BaseModel;
use lorb_engine::rescore::settings::Settings;

use super::{Lists, open_model};

/// Which model scores.
#[derive(Args)]
pub struct Scoring {
    /// The folder of a Hugging Face BERT
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// The folder of an adapter; without one the model's own head scores, as a merged model has it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

/// A base and what scores with it.
pub struct Head {
    pub model: BaseModel,
    pub adapter: Adapter,
    /// Where its settings are kept.
    pub dir: Option<PathBuf>,
    pub settings: Settings,
}

impl Scoring {
    /// Opens the files; the options in `lists` come before what they say.
    pub fn open(&self, lists: &Lists) -> Result<Head> {
        let model = open_model(&self.model)?;
        let adapter = match &self.adapter {
            Some(dir) => open_adapter(dir, &model)?.0,
            None => own_head(&model)?,
        };
        let dir = self.adapter.clone().or_else(|| model.dir.clone());
        let mut settings = Settings::of(dir.as_deref())?;
        lists.options().override_in(&mut settings.rescoring);
        Ok(Head { model, adapter, dir, settings })
    }
}
