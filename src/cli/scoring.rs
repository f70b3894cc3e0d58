//! The options of the subcommands that score with a model.

use std::path::PathBuf;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::card::{open_adapter, own_head};
use lorb_engine::lora::Adapter;
use lorb_engine::model::BaseModel;
use lorb_engine::rescore::settings::Settings;

use super::{Lists, find_adapter, find_model, open_found};

/// Which model scores.
#[derive(Args)]
pub struct Scoring {
    /// A Hugging Face BERT: its folder, or its id on the Hub, ORG/NAME or ORG/NAME@REVISION
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<PathBuf>,
    /// An adapter: its folder, or its id on the Hub; without one the model's own head scores, as a merged model has it
    #[arg(long, value_name = "DIR|ID")]
    pub adapter: Option<PathBuf>,
}

/// A base and what scores with it.
pub struct Head {
    pub model: BaseModel,
    pub adapter: Adapter,
    /// Where its settings are kept, and may be changed: not in the cache of the Hub.
    pub dir: Option<PathBuf>,
    pub settings: Settings,
}

impl Scoring {
    /// Opens the files; the options in `lists` come before what they say.
    pub fn open(&self, lists: &Lists) -> Result<Head> {
        let base = find_model(&self.model)?;
        let model = open_found(base.clone())?;
        let (adapter, home) = match &self.adapter {
            Some(adapter) => {
                let found = find_adapter(adapter)?;
                (open_adapter(&found.dir, &model)?.0, found)
            }
            None => (own_head(&model)?, base),
        };
        let mut settings = Settings::of(Some(&home.dir))?;
        lists.override_in(&mut settings.rescoring);
        let dir = home.id.is_none().then_some(home.dir);
        Ok(Head { model, adapter, dir, settings })
    }
}
