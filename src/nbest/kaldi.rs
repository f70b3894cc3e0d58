//! N-best folders of Kaldi: `text`, `ac_cost`, `lm_cost`, each with `id-n` and a value on a line; gzip or not.
//!
//! Costs are negated log-scores: `ac_cost` is -am, and any other `NAME_cost` is that of the score NAME.

mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::{AM, TEXT};
use super::keyed::{Entry, Keyed, json};
use super::lines::Origin;
use super::reader::Records;
use super::record::Record;
use crate::{Error, Result};

pub(super) use writer::Writer;

/// What such a folder looks like.
pub(super) const LAYOUT: &str = "text, ac_cost, lm_cost of Kaldi";

/// How the names of files with costs end.
const COST: &str = "_cost";

/// Whether `folder` is one.
pub(super) fn recognise(folder: &Path) -> bool {
    file(folder, "text").is_some() && file(folder, "ac_cost").is_some()
}

/// The file of this name, or with `.gz`.
fn file(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(name), folder.join(format!("{name}.gz"))].into_iter().find(|path| path.is_file())
}

/// The score whose costs a file of this name has.
fn score_of(file: &str) -> Option<&str> {
    match file.strip_suffix(".gz").unwrap_or(file).strip_suffix(COST)? {
        "ac" => Some(AM),
        "" | AM | TEXT => None,
        name => Some(name),
    }
}

/// The name of the file with the costs of a score; `None` where the name is none for a file.
fn file_of(score: &str) -> Option<String> {
    let plain = !score.is_empty() && score.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match score {
        AM => Some(format!("ac{COST}")),
        "ac" => None,
        score => plain.then(|| format!("{score}{COST}")),
    }
}

/// Reads all files of a folder in step, in the order of `text`.
pub(super) struct Reader {
    text: Keyed,
    /// By the name of their scores.
    costs: Vec<(String, Keyed)>,
    line: u64,
}

impl Reader {
    pub fn open(folder: &Path) -> Result<Self> {
        let Some(text) = file(folder, "text") else {
            return Err(Error::file(folder, "there is no file text in it", format!("expected {LAYOUT}")));
        };
        let failed = |e| Error::io(folder, "read the folder", e);
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        // The scores of the first pass come first, as in other formats.
        names.sort_by_key(|name| (!name.starts_with("ac_"), !name.starts_with("lm_"), name.clone()));
        let mut costs: Vec<(String, Keyed)> = Vec::new();
        for (name, score) in names.iter().filter_map(|name| Some((name, score_of(name)?))) {
            if costs.iter().any(|(before, _)| before == score) {
                let hint = "keep the file with .gz or the one without";
                return Err(Error::file(folder.join(name), "there are two of it", hint));
            }
            costs.push((score.into(), Keyed::open(&folder.join(name))?));
        }
        Ok(Reader { text: Keyed::open(&text)?, costs, line: 0 })
    }

    fn record(&mut self) -> Result<Option<Record>> {
        let Some(first) = self.text.take()? else { return self.ended() };
        self.line = first.line;
        let (id, n) = self.split(&first)?;
        let mut hypotheses = vec![(n, self.hypothesis(first)?)];
        loop {
            let n = match self.text.peek()?.and_then(|entry| split(&entry.key)) {
                Some((next, n)) if next == id => n,
                _ => break,
            };
            let Some(entry) = self.text.take()? else { break };
            if hypotheses.iter().any(|(before, _)| *before == n) {
                return Err(self
                    .text
                    .defect(format!("{} comes twice", entry.key), "number hypotheses from 1"));
            }
            hypotheses.push((n, self.hypothesis(entry)?));
        }
        // Files that were sorted as text have u-10 before u-2.
        hypotheses.sort_by_key(|(n, _)| *n);
        if hypotheses[0].0 != 1 {
            let problem = format!("{id} has no hypothesis {id}-1 here, but {id}-{}", hypotheses[0].0);
            return Err(self
                .text
                .defect(problem, "keep the lines of an utterance together, numbered from 1"));
        }
        Ok(Some(Record::of(id, hypotheses.into_iter().map(|(_, fields)| fields).collect())))
    }

    fn split(&self, entry: &Entry) -> Result<(String, u32)> {
        split(&entry.key).ok_or_else(|| {
            let problem = format!("expected an id, a hyphen and a number from 1, found {}", entry.key);
            self.text.defect(problem, "write the n-th hypothesis of an utterance as id-n")
        })
    }

    fn hypothesis(&mut self, text: Entry) -> Result<Map<String, Value>> {
        let mut fields = Map::from_iter([(TEXT.to_owned(), Value::from(text.value))]);
        for (name, costs) in &mut self.costs {
            fields.insert(name.clone(), json(-costs.expect_number(&text.key)?));
        }
        Ok(fields)
    }

    /// All files must end where `text` does.
    fn ended(&mut self) -> Result<Option<Record>> {
        for (_, costs) in &mut self.costs {
            if let Some(entry) = costs.take()? {
                let problem = format!("{} is not in text, or not in its order", entry.key);
                return Err(costs.defect(problem, "the files must have the same ids in the same order"));
            }
        }
        Ok(None)
    }
}

/// The id and the number of a hypothesis, from 1.
fn split(key: &str) -> Option<(String, u32)> {
    let (id, n) = key.rsplit_once('-')?;
    let n = n.parse().ok().filter(|n| *n > 0)?;
    (!id.is_empty()).then(|| (id.into(), n))
}

impl Records for Reader {
    fn next(&mut self) -> Option<Result<Record>> {
        self.record().transpose()
    }

    fn origin(&self) -> &Origin {
        self.text.origin()
    }

    fn line(&self) -> u64 {
        self.line
    }
}
