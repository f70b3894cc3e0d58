use std::path::{Path, PathBuf};

use clap::Args;
use lorb_engine::Result;
use lorb_engine::card::open_adapter;
use lorb_engine::lora::merge;
use lorb_engine::rescore::settings::Settings;
use lorb_engine::rescore::weights::RescoringFile;

use super::open_model;
use super::output::print;

/// Write a base with its adapter folded in, as a Hugging Face folder
#[derive(Args)]
pub struct Merge {
    /// The folder of a Hugging Face BERT
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The folder of the adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        let model = open_model(&Some(self.model.clone()))?;
        let (adapter, _) = open_adapter(&self.adapter, &model)?;
        let settings = Settings::of(Some(&self.adapter))?.rescoring;
        // What the adapter's folder says about text and weights holds for the merged model as well.
        let beside = |dir: &Path| settings.save(dir);
        merge(&model.checkpoint, &model.config, &self.model, Some(&adapter), &self.output, beside)?;
        let output = self.output.display();
        print(&format!(
            "{output}: BertForSequenceClassification of {} layers, F32, with the tokenizer and {}\n",
            model.config.layers,
            RescoringFile::NAME
        ))
    }
}
