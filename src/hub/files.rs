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
    /// Groups of which one file each is needed, the weights last, and what is wanted where it is there.
    fn groups(self) -> (&'static [&'static [&'static str]], &'static [&'static str]) {
        match self {
            Kind::Model => (
                &[&["config.json"], &["tokenizer.json", "vocab.txt"], &["model.safetensors", INDEX]],
                &["tokenizer.json", "vocab.txt", "tokenizer_config.json", RescoringFile::NAME, Ngram::FILE],
            ),
            Kind::Adapter => (
                &[&["adapter_config.json"], &["adapter_model.safetensors"]],
                &[Card::NAME, RescoringFile::NAME, Ngram::FILE],
            ),
        }
    }

    /// The files to have, of those that are there, in the order to fetch them; the shards are what [`INDEX`] says.
    /// What could do without comes first, and the weights come last: a fetch that broke off lacks what is needed.
    ///
    /// # Errors
    /// [`Problem::Incomplete`] where one is missing without which nothing can be computed.
    pub fn files(self, is_there: impl Fn(&str) -> bool) -> Result<Vec<&'static str>, Problem> {
        let (needed, wanted) = self.groups();
        let mut files: Vec<&'static str> = wanted.iter().copied().filter(|file| is_there(file)).collect();
        for group in needed {
            match group.iter().find(|file| is_there(file)) {
                Some(file) if files.contains(file) => {}
                Some(file) => files.push(file),
                None => {
                    let what = format!("it has no {}", group.join(" or "));
                    return Err(Problem::Incomplete { what, hint: self.hint(&is_there) });
                }
            }
        }
        Ok(files)
    }

    /// The wanted files that are not there.
    pub fn absent(self, is_there: impl Fn(&str) -> bool) -> impl Iterator<Item = &'static str> {
        self.groups().1.iter().copied().filter(move |file| !is_there(file))
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
    fn what_is_needed_depends_on_what_is_there_and_comes_last() {
        let files = |kind: Kind, names: &[&str]| kind.files(|file| names.contains(&file));
        let model = ["README.md", "config.json", "vocab.txt", "tokenizer.json", "model.safetensors", INDEX];
        let expected = ["tokenizer.json", "vocab.txt", "config.json", "model.safetensors"];
        assert_eq!(files(Kind::Model, &model).unwrap(), expected);
        let sharded = ["config.json", "vocab.txt", "tokenizer_config.json", "rescoring.json", INDEX];
        let expected = ["vocab.txt", "tokenizer_config.json", "rescoring.json", "config.json", INDEX];
        assert_eq!(files(Kind::Model, &sharded).unwrap(), expected);
        let absent: Vec<&str> = Kind::Model.absent(|file| sharded.contains(&file)).collect();
        assert_eq!(absent, ["tokenizer.json", "ngram.arpa"]);
        let adapter = ["adapter_config.json", "adapter_model.safetensors", "lorb.json", "optimizer.pt"];
        let expected = ["lorb.json", "adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(files(Kind::Adapter, &adapter).unwrap(), expected);

        let problem = |kind, names: &[&str]| files(kind, names).unwrap_err().to_string();
        let unsafe_only = ["config.json", "vocab.txt", "pytorch_model.bin"];
        assert!(problem(Kind::Model, &unsafe_only).contains("it has no model.safetensors or"));
        assert!(problem(Kind::Model, &unsafe_only).contains("it has pytorch_model.bin"));
        assert!(problem(Kind::Adapter, &model).starts_with("it has no adapter_config.json"));
    }
}
