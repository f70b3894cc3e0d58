//! The options of the subcommands that score with a model.

use std::path::PathBuf;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::rescore::head::Head;

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

impl Scoring {
    /// Opens the files; the options in `lists` come before what they say.
    pub fn open(&self, lists: &Lists) -> Result<Head> {
        Head::open(open_model(&self.model)?, self.adapter.as_deref(), &lists.options())
    }
}
