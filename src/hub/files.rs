//! Which files of a repository are needed.

use super::Problem;
use crate::card::Card;
use crate::rescore::ngram::Ngram;
use crate::rescore::weights::RescoringFile;

/// What a repository is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A BERT.
    Model,
    /// A PEFT adapter.
    Adapter,
}

/// The list of shards, where the weights are in several files.
pub const INDEX: &str = "model.safetensors.index.json";

impl Kind {
    /// The files to have, of those that are there; the shards are what [`INDEX`] says.
    ///
    /// # Errors
    /// [`Problem::Incomplete`] where one is missing without which nothing can be computed.
    pub fn files(self, is_there: impl Fn(&str) -> bool) -> Result<Vec<&'static str>, Problem> {
        // Of each group one is enough, and of the last only those that are there are wanted.
        let (needed, wanted): (&[&[&str]], &[&str]) = match self {
            Kind::Model => (
                &[&["config.json"], &["tokenizer.json", "vocab.txt"], &["model.safetensors", INDEX]],
                &["vocab.txt", "tokenizer_config.json", RescoringFile::NAME, Ngram::FILE],
            ),
            Kind::Adapter => (
                &[&["adapter_config.json"], &["adapter_model.safetensors"]],
                &[Card::NAME, RescoringFile::NAME, Ngram::FILE],
            ),
        };
        let mut files: Vec<&'static str> = Vec::new();
        for group in needed {
            match group.iter().find(|file| is_there(file)) {
                Some(file) => files.push(file),
                None => {
                    let what = format!("it has no {}", group.join(" or "));
                    return Err(Problem::Incomplete { what, hint: self.hint(&is_there) });
                }
            }
        }
        for file in wanted {
            if is_there(file) && !files.contains(file) {
                files.push(file);
            }
        }
        Ok(files)
    }

    fn hint(self, is_there: &impl Fn(&str) -> bool) -> &'static str {
        match self {
            Kind::Model if is_there("pytorch_model.bin") => {
                "it has pytorch_model.bin: take a revision with safetensors, or convert a copy of it"
            }
            Kind::Model => "give a BERT",
            Kind::Adapter => "give a PEFT adapter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_depends_on_what_is_there() {
        let files = |kind: Kind, names: &[&str]| kind.files(|file| names.contains(&file));
        let model = ["README.md", "config.json", "vocab.txt", "tokenizer.json", "model.safetensors", INDEX];
        let expected = ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt"];
        assert_eq!(files(Kind::Model, &model).unwrap(), expected);
        let sharded = ["config.json", "vocab.txt", "tokenizer_config.json", "rescoring.json", INDEX];
        let expected = ["config.json", "vocab.txt", INDEX, "tokenizer_config.json", "rescoring.json"];
        assert_eq!(files(Kind::Model, &sharded).unwrap(), expected);
        let adapter = ["adapter_config.json", "adapter_model.safetensors", "lorb.json", "optimizer.pt"];
        assert_eq!(files(Kind::Adapter, &adapter).unwrap(), adapter[..3]);

        let problem = |kind, names: &[&str]| files(kind, names).unwrap_err().to_string();
        let unsafe_only = ["config.json", "vocab.txt", "pytorch_model.bin"];
        assert!(problem(Kind::Model, &unsafe_only).contains("it has no model.safetensors or"));
        assert!(problem(Kind::Model, &unsafe_only).contains("it has pytorch_model.bin"));
        assert!(problem(Kind::Adapter, &model).starts_with("it has no adapter_config.json"));
    }
}
