//! README.md beside an adapter: a model card as the Hugging Face Hub shows it. The same run gives the same text.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::summary::{SetErrors, SetSummary};
use crate::hub::Id;
use crate::nbest::wer::percent;
use crate::rescore::weights::Weights;
use crate::text::shell_quoted;
use crate::{Result, atomic};

/// What an adapter was made of, and what it is worth.
pub struct ModelCard<'a> {
    /// The base as it was named, and where on the Hub it is, if there.
    pub base: &'a str,
    pub id: Option<&'a Id>,
    /// Whether the base is the one that is embedded.
    pub embedded: bool,
    pub parameters: String,
    pub train: &'a [PathBuf],
    pub test: &'a [PathBuf],
    /// How the validation lists were chosen.
    pub validation: String,
    pub utterances: [usize; 3],
    pub weights: &'a Weights,
    /// What it is worth on the validation lists, and on those held out.
    pub sets: &'a [SetSummary],
    /// The options with their values, also those that were not given.
    pub options: &'a serde_json::Value,
    /// The epoch that was kept, of how many.
    pub epochs: [u32; 2],
    /// What was typed, where anything was.
    pub command: Option<&'a str>,
}

impl ModelCard<'_> {
    /// Writes the file into the adapter's folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut text = String::new();
        self.write(dir, &mut text).expect("a string takes everything");
        atomic::write(dir.join("README.md"), text.as_bytes())
    }

    fn write(&self, dir: &Path, text: &mut String) -> std::fmt::Result {
        let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
        self.front_matter(&name, text)?;
        let [train, valid, test] = self.utterances;
        writeln!(text, "\n# {name}\n")?;
        writeln!(
            text,
            "A LoRB adapter ([arXiv 2309.15223](https://arxiv.org/abs/2309.15223)) for the second pass of speech \
             recognition: low-rank matrices in a BERT that scores the hypotheses of N-best lists, trained on word \
             errors with lorb-engine.\n"
        )?;
        writeln!(text, "- Base: {}", code(self.base))?;
        writeln!(text, "- Trained: {}", self.parameters)?;
        writeln!(text, "- Lists to train on: {} ({train} utterances)", self.names(self.train))?;
        writeln!(text, "- Lists to choose epoch and weights on: {} ({valid} utterances)", self.validation)?;
        if test > 0 {
            writeln!(text, "- Held out: {} ({test} utterances)", self.names(self.test))?;
        }
        let [kept, planned] = self.epochs;
        writeln!(text, "- Kept: epoch {kept} of {planned}")?;
        writeln!(text, "- Weights of the scores: {}", self.weights)?;

        writeln!(text, "\n## Word error rates\n")?;
        writeln!(text, "| | first pass | its weights tuned | with this adapter | oracle |")?;
        writeln!(text, "|---|---:|---:|---:|---:|")?;
        for set in self.sets {
            let SetErrors { first_pass, tuned, rescored, oracle } = set.errors;
            let cell =
                |errors| percent(errors, set.reference_units).map_or("-".into(), |wer| format!("{wer:.2} %"));
            let cells = [first_pass, tuned, rescored, oracle].map(cell);
            writeln!(text, "| {} | {} |", set.name, cells.join(" | "))?;
        }
        writeln!(text, "\nThe validation lists chose epoch and weights; held-out lists chose nothing.")?;

        writeln!(text, "\n## Use\n")?;
        if self.embedded {
            writeln!(text, "The base is the small model that is embedded in lorb-engine, for a first try.")?;
        } else {
            self.write_use(&name, text)?;
        }

        writeln!(text, "\n## How it was made\n")?;
        if let Some(command) = self.command {
            writeln!(text, "```\n{command}\n```\n")?;
        }
        writeln!(text, "| option | value |\n|---|---|")?;
        for (option, value) in self.options.as_object().into_iter().flatten() {
            writeln!(text, "| {option} | {} |", code(&value.to_string()))?;
        }
        Ok(())
    }

    fn front_matter(&self, name: &str, text: &mut String) -> std::fmt::Result {
        writeln!(text, "---\nlibrary_name: peft")?;
        match self.id {
            Some(id) => writeln!(text, "base_model: {}", id.repository)?,
            None => writeln!(text, "# base_model: give the id that the base has on the Hub")?,
        }
        if self.embedded {
            writeln!(text, "license: apache-2.0")?;
        }
        writeln!(
            text,
            "tags:\n- lora\n- lorb\n- rescoring\n- automatic-speech-recognition\nmetrics:\n- wer"
        )?;
        // JSON is YAML as well, and quotes what has to be.
        writeln!(text, "model-index:\n- name: {}\n  results:", serde_json::json!(name))?;
        for set in self.sets {
            let Some(wer) = percent(set.errors.rescored, set.reference_units) else { continue };
            writeln!(text, "  - task:\n      type: automatic-speech-recognition\n      name: rescoring")?;
            writeln!(text, "    dataset:\n      type: n-best-lists\n      name: {}", set.name)?;
            writeln!(text, "    metrics:\n    - type: wer\n      value: {wer:.2}")?;
        }
        writeln!(text, "---")
    }

    fn write_use(&self, name: &str, text: &mut String) -> std::fmt::Result {
        let base = self.id.map_or(self.base, |id| &id.repository);
        writeln!(
            text,
            "```\nlorb-engine rescore --model {} --adapter {} --input lists.jsonl.gz --output \
             rescored.jsonl.gz\n```\n",
            shell_quoted(self.base),
            shell_quoted(name),
        )?;
        writeln!(text, "In Python its scores are those of PEFT:\n")?;
        let [base, name] = [base, name].map(|text| serde_json::json!(text).to_string());
        writeln!(
            text,
            "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForSequenceClassification\n\n\
             base = AutoModelForSequenceClassification.from_pretrained({base}, num_labels=1)\n\
             model = PeftModel.from_pretrained(base, {name})\n```\n"
        )?;
        writeln!(text, "The weights above, and how text is prepared, are in rescoring.json and lorb.json.")?;
        if self.weights.ngram > 0.0 {
            writeln!(
                text,
                "The log-probability of a hypothesis by the n-gram model of the training references (ngram.arpa) counts as \
                 well."
            )?;
        }
        Ok(())
    }

    fn names(&self, files: &[PathBuf]) -> String {
        if files.is_empty() {
            return "those that are embedded in lorb-engine".into();
        }
        let name = |path: &PathBuf| code(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy());
        files.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// Markdown that shows `text` as it is, also in a table.
fn code(text: &str) -> String {
    let text = text.replace('|', "\\|").replace(['\n', '\r'], " ");
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}
