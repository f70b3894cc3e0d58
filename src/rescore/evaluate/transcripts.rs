//! The transcripts of an evaluation, for sclite.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::nbest::Utterance;
use crate::nbest::normalise::{Normaliser, Unit, units};
use crate::nbest::trn::line;
use crate::rescore::judge::{Refusal, System};
use crate::{Result, atomic};

/// A file of what was said, and one of what each system chose, all in one folder.
pub struct Transcripts {
    dir: PathBuf,
    /// By what a file is named after.
    files: BTreeMap<&'static str, String>,
    ids: HashSet<String>,
}

impl Transcripts {
    /// Creates the folder where it is missing.
    pub fn create(dir: &Path) -> Result<Transcripts> {
        atomic::ensure_directory(dir)?;
        Ok(Transcripts { dir: dir.into(), files: BTreeMap::new(), ids: HashSet::new() })
    }

    /// Adds an utterance, as its words were compared.
    pub fn add(
        &mut self,
        utterance: &Utterance,
        chosen: &[(System, usize)],
        normaliser: &Normaliser,
        unit: Unit,
    ) -> Result<(), Refusal> {
        if !self.ids.insert(utterance.id.clone()) {
            let hint = "sclite needs an id for each: evaluate the files one by one";
            return Err(("another utterance has the same id".into(), hint));
        }
        let reference = ("reference", utterance.reference.as_deref().unwrap_or_default());
        let hypotheses =
            chosen.iter().map(|&(system, i)| (system.name(), utterance.hypotheses[i].text.as_str()));
        for (name, text) in std::iter::once(reference).chain(hypotheses) {
            let text = normaliser.normalise(text);
            let line = line(&units(&text, unit), &utterance.id);
            let line = line.map_err(|problem| (problem, "take it out, or evaluate without --trn"))?;
            self.files.entry(name).or_default().push_str(&line);
        }
        Ok(())
    }

    /// Writes the files.
    pub fn finish(self) -> Result<()> {
        let write = |(name, text): (&&str, &String)| {
            atomic::write(self.dir.join(format!("{name}.trn")), text.as_bytes())
        };
        self.files.iter().try_for_each(write)
    }
}
