//! N-best lists as token ids.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use tokenizers::{Tokenizer, TruncationParams};

pub type Tokens = Vec<u32>;

/// The model's tokenizer, cut at its longest sequence.
pub fn tokenizer(model: &Path) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_file(model.join("tokenizer.json")).map_err(anyhow::Error::msg)?;
    let config: Value = serde_json::from_reader(File::open(model.join("config.json"))?)?;
    let limit = config["max_position_embeddings"].as_u64().context("max_position_embeddings")?;
    let truncation = TruncationParams { max_length: limit as usize, ..TruncationParams::default() };
    tokenizer.with_padding(None).with_truncation(Some(truncation)).map_err(anyhow::Error::msg)?;
    Ok(tokenizer)
}

/// Every hypothesis of every list of a file, plain or gzip.
pub fn read_lists(path: &Path, model: &Path) -> Result<Vec<Vec<Tokens>>> {
    let tokenizer = tokenizer(model)?;
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let reader: Box<dyn Read> = match path.extension().is_some_and(|e| e == "gz") {
        true => Box::new(MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    let list = |line: std::io::Result<String>| {
        let row: Value = serde_json::from_str(&line?)?;
        let texts = row["hyps"].as_array().context("hyps")?.iter().map(|h| h["text"].as_str().unwrap_or(""));
        let encoded = tokenizer.encode_batch(texts.collect(), true).map_err(anyhow::Error::msg)?;
        Ok(encoded.iter().map(|e| e.get_ids().to_vec()).collect())
    };
    BufReader::new(reader).lines().map(list).collect()
}
