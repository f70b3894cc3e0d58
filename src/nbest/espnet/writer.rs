//! Writing a decode folder.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::of_rank;
use crate::atomic::AtomicDirectory;
use crate::nbest::fields::{ID, SCORE};
use crate::nbest::keyed::{Checked, KeyedWriter};
use crate::nbest::record::{Record, text};
use crate::nbest::writer::{Dropped, Sink};
use crate::{Error, Result};

/// Writes a folder that appears whole; it must not exist yet.
pub(in crate::nbest) struct Writer {
    directory: AtomicDirectory,
    ranks: Vec<Rank>,
    checked: Checked,
    /// Whether hypotheses have a score; the first utterance decides.
    scored: Option<bool>,
}

struct Rank {
    text: KeyedWriter,
    score: Option<KeyedWriter>,
    parts: KeyedWriter,
}

impl Rank {
    fn create(folder: &Path, scored: bool) -> Result<Self> {
        fs::create_dir(folder).map_err(|e| Error::io(folder, "create it", e))?;
        let file = |name: &str| KeyedWriter::create(folder.join(name));
        Ok(Rank {
            text: file("text")?,
            score: scored.then(|| file("score")).transpose()?,
            parts: file("scores")?,
        })
    }
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        let directory = AtomicDirectory::create_new(path)?;
        Ok(Writer { directory, ranks: Vec::new(), checked: Checked::default(), scored: None })
    }
}

impl Sink for Writer {
    fn write(&mut self, record: &Record, dropped: &mut Dropped) -> Result<()> {
        self.checked.check(record)?;
        dropped.of_utterance(record, |name, _| name == ID);
        let id = &record.id;
        let has_score = |h: &Map<String, Value>| h.get(SCORE).is_some_and(Value::is_number);
        let scored = *self.scored.get_or_insert_with(|| record.hypotheses.iter().all(has_score));
        for (i, hypothesis) in record.hypotheses.iter().enumerate() {
            if self.ranks.len() == i {
                self.ranks.push(Rank::create(&of_rank(self.directory.staging(), i + 1), scored)?);
            }
            let rank = &mut self.ranks[i];
            rank.text.write(id, text(hypothesis))?;
            if let Some(file) = &mut rank.score {
                let score = hypothesis.get(SCORE).filter(|score| score.is_number()).ok_or_else(|| {
                    Error::Usage(format!("utterance {id}: hyps[{i}] has no \"score\", as those before have"))
                })?;
                file.write(id, &score.to_string())?;
            }
            let parts = hypothesis.iter().filter(|(name, value)| *name != SCORE && value.is_number());
            let parts: Map<String, Value> =
                parts.map(|(name, value)| (name.clone(), value.clone())).collect();
            rank.parts.write(id, &Value::Object(parts).to_string())?;
            dropped.of_hypothesis(hypothesis, |name, value| value.is_number() && (scored || name != SCORE));
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        for (i, rank) in self.ranks.into_iter().enumerate() {
            rank.text.finish()?;
            rank.score.map_or(Ok(()), KeyedWriter::finish)?;
            rank.parts.finish()?;
            crate::atomic::sync_directory(&of_rank(self.directory.staging(), i + 1))?;
        }
        self.directory.commit()
    }
}
