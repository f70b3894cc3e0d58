//! A base model as a user names it: a Hugging Face folder, or the small one that is embedded.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::bert::{Checkpoint, Config, Tokenizer};

/// Configuration, weights and tokenizer of a BERT.
pub struct BaseModel {
    /// As in messages: the folder's path, or what the embedded model is.
    pub name: String,
    pub config: Config,
    pub checkpoint: Checkpoint,
    pub tokenizer: Tokenizer,
    /// `None` for the embedded model.
    pub dir: Option<PathBuf>,
}

impl BaseModel {
    /// Opens a Hugging Face folder; the weights stay mapped.
    ///
    /// # Errors
    /// Whatever is wrong with one of its files.
    pub fn open(dir: &Path) -> Result<BaseModel> {
        let config = Config::open(dir)?;
        let tokenizer = Tokenizer::open(dir, &config)?;
        let checkpoint = Checkpoint::open(dir)?;
        let name = dir.display().to_string();
        Ok(BaseModel { name, config, checkpoint, tokenizer, dir: Some(dir.to_path_buf()) })
    }

    /// The parameters of the base: encoder and pooler, counted whether the checkpoint has a pooler or not, so
    /// that shares of different cuts compare.
    pub fn parameters(&self) -> usize {
        let encoder =
            self.config.encoder_tensors().into_iter().map(|(_, shape)| shape.iter().product::<usize>());
        let h = self.config.hidden;
        encoder.sum::<usize>() + h * h + h
    }
}
