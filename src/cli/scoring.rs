//! The options of the subcommands that score with a model.

use std::path::PathBuf;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::rescore::head::Head;

use super::{Lists, find_adapter, find_model};

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

impl Scoring {
    /// Opens the files; the options in `lists` come before what they say.
    pub fn open(&self, lists: &Lists) -> Result<Head> {
        let base = find_model(&self.model)?;
        let adapter = self.adapter.as_deref().map(find_adapter).transpose()?;
        Head::open(Some(base), adapter, &lists.options())
    }
}
