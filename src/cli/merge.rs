use std::path::{Path, PathBuf};

use clap::Args;
use lorb_engine::Result;
use lorb_engine::card::open_adapter;
use lorb_engine::lora::merge;
use lorb_engine::rescore::settings::Settings;
use lorb_engine::rescore::weights::RescoringFile;

use super::output::print;
use super::{find_adapter, find_model};

/// Write a base with its adapter folded in, as a Hugging Face folder
#[derive(Args)]
pub struct Merge {
    /// A Hugging Face BERT: its folder, or its id on the Hub, ORG/NAME or ORG/NAME@REVISION
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// The adapter: its folder, or its id on the Hub
    #[arg(long, value_name = "DIR|ID")]
    adapter: PathBuf,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        let base = find_model(&Some(self.model))?;
        let model = base.base()?;
        let found = find_adapter(&self.adapter)?;
        let (adapter, _) = open_adapter(&found.dir, &model)?;
        let settings = Settings::of(Some(&found.dir))?;
        // What the adapter's folder says about text and weights holds for the merged model as well.
        let beside = |dir: &Path| {
            settings.rescoring.save(dir)?;
            settings.ngram.as_ref().map_or(Ok(()), |domain| domain.ngram.save(dir))
        };
        merge(&model.checkpoint, &model.config, &base.dir, Some(&adapter), &self.output, beside)?;
        let output = self.output.display();
        print(&format!(
            "{output}: BertForSequenceClassification of {} layers, F32, with the tokenizer and {}\n",
            model.config.layers,
            RescoringFile::NAME
        ))
    }
}
