//! The weights of a Hugging Face BERT folder, under one set of names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;

use super::tensors::{Tensors, Weights};
use crate::text::shell_quoted;
use crate::{Error, Result};

/// What to think of a tensor of another shape.
const OF_ANOTHER_MODEL: &str = "config.json belongs to another model than the weights";

/// The tensors of a BERT, by their names in `BertModel` ("encoder.layer.0.output.dense.weight") and
/// "classifier.weight" and "classifier.bias" for the head, whichever way the files spell them.
pub struct Checkpoint {
    path: PathBuf,
    tensors: Tensors,
}

#[derive(Deserialize)]
struct ShardIndex {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Maps `dir/model.safetensors`, or the shards that `dir/model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read, [`Error::File`] where one is damaged or there is none.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        fs::read_dir(dir).map_err(|e| Error::io(dir, "open the model folder", e))?;
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let tensors = if single.exists() {
            Tensors::open(&single)?
        } else if index.exists() {
            open_shards(dir, &index)?
        } else if dir.join("pytorch_model.bin").exists() {
            return Err(Error::file(
                dir,
                "it has pytorch_model.bin but no model.safetensors",
                convert_hint(dir),
            ));
        } else {
            let hint = "give the folder of a Hugging Face BERT";
            return Err(Error::file(dir, "it has no model.safetensors", hint));
        };
        Ok(Checkpoint { path: dir.to_path_buf(), tensors })
    }

    /// Reads a model.safetensors that is part of the program; `name` stands for its path in errors.
    ///
    /// # Errors
    /// [`Error::File`] where it is damaged.
    pub fn from_static(bytes: &'static [u8], name: &str) -> Result<Self> {
        Ok(Checkpoint { path: name.into(), tensors: Tensors::from_static(bytes, name)? })
    }

    /// The folder that was opened, or the name of the embedded model.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.shape(&self.resolve(name))
    }

    /// The type that tensor `name` is stored in, if there is one.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.dtype(&self.resolve(name))
    }

    /// The values of tensor `name`, row-major, which must have exactly this `shape`.
    ///
    /// F32 tensors stay in the mapped file; F16 and BF16 ones are converted on each call.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing, has another shape or type, or is not finite.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Weights> {
        self.tensors.f32(&self.resolve(name), shape, OF_ANOTHER_MODEL)
    }

    /// Whether tensor `name` is there and has this `shape`, without reading its values.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing or has another shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.tensors.check(&self.resolve(name), shape, OF_ANOTHER_MODEL)
    }

    /// Gives the memory back that was needed to read mapped files. Whoever reads a tensor again, also one that
    /// [`f32`](Self::f32) gave, waits for the file again.
    pub fn release(&self) {
        self.tensors.release();
    }

    /// How the files spell `name`: as it is, with the prefix of `BertFor…`, or as the first BERTs did.
    fn resolve(&self, name: &str) -> String {
        let old =
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        let spellings = [name.to_string(), format!("bert.{name}"), format!("bert.{old}"), old];
        let found = spellings.into_iter().find(|s| self.tensors.shape(s).is_some());
        found.unwrap_or_else(|| name.to_string())
    }
}

/// What `BertForSequenceClassification` calls the tensor `name`: its head alone is not part of "bert".
pub(crate) fn in_classifier(name: &str) -> String {
    let prefix = if name.starts_with("classifier.") { "" } else { "bert." };
    format!("{prefix}{name}")
}

fn open_shards(dir: &Path, index: &Path) -> Result<Tensors> {
    let ShardIndex { weight_map } = ShardIndex::open(index)?;
    let files: BTreeSet<&String> = weight_map.values().collect();
    let shards = files.into_iter().map(|file| Tensors::open(dir.join(file))).collect::<Result<Vec<_>>>()?;
    let tensors = Tensors::join(shards, dir);
    match weight_map.keys().find(|name| tensors.shape(name).is_none()) {
        Some(name) => Err(damaged(index, format!("no shard holds {name}"))),
        None => Ok(tensors),
    }
}

/// The files that a model.safetensors.index.json lists; they lie beside it.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::File`] where it is damaged.
pub fn shard_files(index: &Path) -> Result<BTreeSet<String>> {
    Ok(ShardIndex::open(index)?.weight_map.into_values().collect())
}

impl ShardIndex {
    fn open(index: &Path) -> Result<ShardIndex> {
        let bytes = fs::read(index).map_err(|e| Error::io(index, "read it", e))?;
        let found: ShardIndex = serde_json::from_slice(&bytes)
            .map_err(|e| damaged(index, format!("not an index of shards: {e}")))?;
        // Only a plain name: an index must not reach outside its folder.
        match found.weight_map.values().find(|file| Path::new(file).file_name() != Some(file.as_ref())) {
            Some(file) => Err(damaged(index, format!("{file} is not the name of a file beside it"))),
            None => Ok(found),
        }
    }
}

fn damaged(index: &Path, problem: String) -> Error {
    Error::file(index, problem, "copy or download the model again")
}

fn convert_hint(dir: &Path) -> String {
    format!(
        "convert it: cd {} && python -c \"import torch, safetensors.torch as s; \
         s.save_file({{k: v.clone() for k, v in torch.load('pytorch_model.bin', weights_only=True).items()}}, \
         'model.safetensors', {{'format': 'pt'}})\"",
        shell_quoted(&dir.display().to_string())
    )
}
