//! Decode folders of ESPnet: `{n}best_recog/{text,score,scores}`, each with an id and a value on a line.
//!
//! `text` has the words of the n-th hypotheses, `score` the score that ranked them, `scores` its parts. An utterance
//! with fewer hypotheses is absent from the later folders.

mod parts;
mod writer;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::{AM, SCORE, TEXT};
use super::keyed::{Entry, Keyed, json};
use super::lines::Origin;
use super::reader::Records;
use super::record::Record;
use crate::{Error, Result};

pub(super) use writer::Writer;

/// What such a folder looks like.
pub(super) const LAYOUT: &str =
    "1best_recog/text, 2best_recog/text … of ESPnet, or its output.1, output.2 … with those";

const DECODER: &str = "decoder";
const CTC: &str = "ctc";

/// Whether `folder` is one.
pub(super) fn recognise(folder: &Path) -> Result<bool> {
    Ok(!folders(folder)?.is_empty())
}

/// The folder of the n-th hypotheses, from 1.
fn of_rank(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("{n}best_recog"))
}

/// `folder` itself, or what the jobs of a decoding left in it, in their order.
fn folders(folder: &Path) -> Result<VecDeque<PathBuf>> {
    if of_rank(folder, 1).is_dir() {
        return Ok(VecDeque::from([folder.into()]));
    }
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "read the folder", e))?;
    let mut jobs = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, "read the folder", e))?.path();
        let number =
            path.file_name().and_then(|name| name.to_str()?.strip_prefix("output.")?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| of_rank(&path, 1).is_dir()) {
            jobs.push((number, path));
        }
    }
    jobs.sort();
    Ok(jobs.into_iter().map(|(_, path)| path).collect())
}

/// Reads all files of a folder in step, in the order of the best hypotheses.
pub(super) struct Reader {
    folders: VecDeque<PathBuf>,
    ranks: Vec<Rank>,
    /// The file in which the utterances of `ranks` begin.
    origin: Origin,
    line: u64,
    weight: Option<f64>,
}

/// The n-th hypotheses.
struct Rank {
    text: Keyed,
    score: Option<Keyed>,
    parts: Option<Keyed>,
}

impl Rank {
    fn open(folder: &Path) -> Result<Self> {
        let optional = |name: &str| {
            let path = folder.join(name);
            path.exists().then(|| Keyed::open(&path)).transpose()
        };
        Ok(Rank {
            text: Keyed::open(&folder.join("text"))?,
            score: optional("score")?,
            parts: optional("scores")?,
        })
    }

    /// The rest of the hypothesis that `text` begins.
    fn hypothesis(&mut self, text: Entry, weight: Option<f64>) -> Result<Map<String, Value>> {
        let mut fields = Map::from_iter([(TEXT.into(), Value::from(text.value))]);
        if let Some(parts) = &mut self.parts {
            let value = parts.expect(&text.key)?;
            let found = parts::parse(&value).map_err(|problem| {
                parts.defect(problem, "write the parts as {\"decoder\": -1.5, \"ctc\": -0.5, \"lm\": -9.5}")
            })?;
            fields.extend(am(&found, weight).map(|am| (AM.into(), json(am))));
            let others = found.into_iter().filter(|(name, _)| ![AM, TEXT].contains(&&name[..]));
            fields.extend(others.map(|(name, value)| (name, json(value))));
        }
        if let Some(score) = &mut self.score {
            fields.insert(SCORE.into(), json(score.expect_number(&text.key)?));
        }
        Ok(fields)
    }
}

/// The score of the first pass without its language model. With both parts it takes a weight, which folders lack.
fn am(parts: &[(String, f64)], weight: Option<f64>) -> Option<f64> {
    let part = |name: &str| parts.iter().find(|(part, _)| part == name).map(|(_, value)| *value);
    match (part(DECODER), part(CTC), part(AM), weight) {
        (Some(decoder), Some(ctc), _, Some(w)) => Some((1.0 - w) * decoder + w * ctc),
        (_, _, Some(am), _) => Some(am),
        (Some(_), Some(_), None, None) => None,
        (decoder, ctc, None, _) => decoder.or(ctc),
    }
}

impl Reader {
    /// Opens `folder`; `weight` is that of the CTC score in am.
    pub fn open(folder: &Path, weight: Option<f64>) -> Result<Self> {
        let mut folders = folders(folder)?;
        let Some(first) = folders.pop_front() else {
            return Err(Error::file(
                folder,
                "there are no lists of ESPnet in it",
                format!("expected {LAYOUT}"),
            ));
        };
        let ranks = ranks(&first)?;
        let origin = ranks[0].text.origin().clone();
        Ok(Reader { folders, ranks, origin, line: 0, weight })
    }

    fn record(&mut self) -> Result<Option<Record>> {
        let first = loop {
            if let Some(entry) = self.ranks[0].text.take()? {
                break entry;
            }
            self.check_ended()?;
            let Some(folder) = self.folders.pop_front() else { return Ok(None) };
            self.ranks = ranks(&folder)?;
            self.origin = self.ranks[0].text.origin().clone();
        };
        self.line = first.line;
        let id = first.key.clone();
        let mut hypotheses = vec![self.ranks[0].hypothesis(first, self.weight)?];
        let mut ranks = self.ranks[1..].iter_mut();
        for rank in ranks.by_ref() {
            match rank.text.peek()? {
                Some(entry) if entry.key == id => {}
                _ => break,
            }
            if let Some(entry) = rank.text.take()? {
                hypotheses.push(rank.hypothesis(entry, self.weight)?);
            }
        }
        // Who has no n-th hypothesis has none after it.
        for rank in ranks {
            if rank.text.peek()?.is_some_and(|entry| entry.key == id) {
                let n = hypotheses.len() + 1;
                let problem =
                    format!("{id} has a hypothesis here, but none in {n}best_recog, or in another order");
                return Err(rank
                    .text
                    .defect(problem, "the files must have the ids in the order of 1best_recog/text"));
            }
        }
        Ok(Some(Record::of(id, hypotheses)))
    }

    /// All files must end where the first one does.
    fn check_ended(&mut self) -> Result<()> {
        for rank in &mut self.ranks {
            for file in [Some(&mut rank.text), rank.score.as_mut(), rank.parts.as_mut()].into_iter().flatten()
            {
                if let Some(entry) = file.take()? {
                    let problem = format!("{} is not in 1best_recog/text, or not in its order", entry.key);
                    return Err(
                        file.defect(problem, "the files must have the ids in the order of 1best_recog/text")
                    );
                }
            }
        }
        Ok(())
    }
}

/// Opens the folders of the first, second … hypotheses, as many as there are.
fn ranks(folder: &Path) -> Result<Vec<Rank>> {
    let first = Rank::open(&of_rank(folder, 1))?;
    let (score, parts) = (first.score.is_some(), first.parts.is_some());
    let mut ranks = vec![first];
    loop {
        let of_rank = of_rank(folder, ranks.len() + 1);
        if !of_rank.is_dir() {
            return Ok(ranks);
        }
        let rank = Rank::open(&of_rank)?;
        if (rank.score.is_some(), rank.parts.is_some()) != (score, parts) {
            let problem = "it has not the files of 1best_recog";
            return Err(Error::file(of_rank, problem, "give all of them score and scores, or none"));
        }
        ranks.push(rank);
    }
}

impl Records for Reader {
    fn next(&mut self) -> Option<Result<Record>> {
        self.record().transpose()
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn line(&self) -> u64 {
        self.line
    }
}
