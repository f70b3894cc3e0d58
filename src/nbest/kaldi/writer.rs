//! Writing an N-best folder.

use std::path::Path;

use serde_json::{Map, Value};

use super::file_of;
use crate::atomic::AtomicDirectory;
use crate::nbest::fields::ID;
use crate::nbest::keyed::{Checked, KeyedWriter, json};
use crate::nbest::record::{Record, text};
use crate::nbest::writer::{Dropped, Sink};
use crate::{Error, Result};

/// Writes a folder that appears whole; it must not exist yet.
pub(in crate::nbest) struct Writer {
    directory: AtomicDirectory,
    text: KeyedWriter,
    /// The scores that all hypotheses of the first utterance have; those after it must have them too.
    costs: Option<Vec<(String, KeyedWriter)>>,
    checked: Checked,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        let directory = AtomicDirectory::create_new(path)?;
        let text = KeyedWriter::create(directory.staging().join("text"))?;
        Ok(Writer { directory, text, costs: None, checked: Checked::default() })
    }

    fn costs_of(&self, record: &Record) -> Result<Vec<(String, KeyedWriter)>> {
        let of_all = |name: &&String| record.hypotheses.iter().all(|h| score(h, name).is_some());
        let names = record.hypotheses[0].keys().filter(of_all);
        let files = names.filter_map(|name| Some((name, file_of(name)?)));
        let open = |(name, file): (&String, String)| {
            Ok((name.clone(), KeyedWriter::create(self.directory.staging().join(file))?))
        };
        files.map(open).collect()
    }
}

fn score(hypothesis: &Map<String, Value>, name: &str) -> Option<f64> {
    hypothesis.get(name).and_then(Value::as_f64)
}

impl Sink for Writer {
    fn write(&mut self, record: &Record, dropped: &mut Dropped) -> Result<()> {
        self.checked.check(record)?;
        dropped.of_utterance(record, |name, _| name == ID);
        if self.costs.is_none() {
            self.costs = Some(self.costs_of(record)?);
        }
        let costs = self.costs.as_mut().into_iter().flatten();
        let mut costs: Vec<&mut (String, KeyedWriter)> = costs.collect();
        let id = &record.id;
        for (i, hypothesis) in record.hypotheses.iter().enumerate() {
            let key = format!("{id}-{}", i + 1);
            self.text.write(&key, text(hypothesis))?;
            for (name, file) in &mut costs {
                let score = score(hypothesis, name).ok_or_else(|| {
                    let problem = format!("hyps[{i}] has no {name:?}, as those before have");
                    Error::Usage(format!("utterance {id}: {problem}"))
                })?;
                file.write(&key, &json(-score).to_string())?;
            }
            let kept =
                |name: &str, value: &Value| value.is_number() && costs.iter().any(|(kept, _)| kept == name);
            dropped.of_hypothesis(hypothesis, kept);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.text.finish()?;
        self.costs.into_iter().flatten().try_for_each(|(_, file)| file.finish())?;
        self.directory.commit()
    }
}
