//! What was said, from a file of its own: Kaldi's `text`, `.trn` of sclite, or a manifest of NeMo.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::ID;
use super::jsonl::parse::object;
use super::lines::{Lines, Source};
use super::record::{Defect, Record};
use crate::{Error, Result};

/// What a manifest calls the reference.
pub(super) const SAID: &str = "text";

/// References by id. They are held in memory: they are a small part of lists, and may have any order.
pub(super) struct References {
    path: PathBuf,
    by_id: HashMap<String, String>,
    /// What ids may be without a speaker before them, to the id; `None` where it may be several.
    without_speaker: HashMap<String, Option<String>>,
}

impl References {
    /// Reads `path`, compressed or not: a name with `.trn` is sclite's, a file that begins with a brace a manifest,
    /// and any other has an id and words on each line.
    ///
    /// # Errors
    /// [`Error::List`] where a line has no id or no words, or an id comes twice.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let trn = name.ends_with(".trn") || name.contains(".trn.");
        let mut lines = Lines::new(Source::open(Some(path))?);
        let (mut by_id, mut without_speaker) = (HashMap::new(), HashMap::new());
        let mut manifest = None;
        while lines.advance()? {
            let manifest =
                *manifest.get_or_insert(!trn && lines.bytes().trim_ascii_start().starts_with(b"{"));
            let entry = match (trn, manifest) {
                (true, _) => of_trn(lines.text()?),
                (_, true) => of_manifest(lines.bytes()),
                _ => Ok(of_text(lines.text()?)),
            };
            let (id, words) = entry.map_err(|defect| lines.defect(defect))?;
            if let Some(rest) = without_speaker_before(&id).filter(|_| trn) {
                let meant = without_speaker.entry(rest.to_owned());
                meant.and_modify(|id| *id = None).or_insert_with(|| Some(id.clone()));
            }
            if by_id.insert(id.clone(), words).is_some() {
                let hint = "give each utterance one reference";
                return Err(lines.defect(Defect::new(format!("{id} comes twice"), hint)));
            }
        }
        if by_id.is_empty() {
            return Err(Error::file(
                path,
                "there is no reference in it",
                "write an id and words on each line",
            ));
        }
        Ok(References { path: path.into(), by_id, without_speaker })
    }

    /// Gives `record` its reference, in place of one that it has; that stays where there is none.
    ///
    /// # Errors
    /// Where neither is there.
    pub fn give(&self, record: &mut Record) -> Result<(), Defect> {
        match (self.find(&record.id), &record.reference) {
            (Some(words), _) => record.set_reference(words),
            (None, Some(_)) => {}
            (None, None) => {
                let problem = format!("utterance {} has no reference in {}", record.id, self.path.display());
                return Err(Defect::new(problem, "give a file with the references of all utterances"));
            }
        }
        Ok(())
    }

    fn find(&self, id: &str) -> Option<&String> {
        self.by_id.get(id).or_else(|| self.by_id.get(self.without_speaker.get(id)?.as_ref()?))
    }
}

fn of_text(line: &str) -> (String, String) {
    let (id, words) = line.trim_start().split_once([' ', '\t']).unwrap_or((line.trim(), ""));
    (id.into(), words.trim().into())
}

/// `words (id)`.
fn of_trn(line: &str) -> Result<(String, String), Defect> {
    let parts = line.trim_end().strip_suffix(')').and_then(|line| line.rsplit_once('('));
    let (words, id) = parts.filter(|(_, id)| !id.trim().is_empty()).ok_or_else(|| {
        Defect::new("there is no id in parentheses at its end", "write each line as: words (id)")
    })?;
    Ok((id.trim().into(), words.trim().into()))
}

/// ESPnet and Kaldi write the speaker before the id, with a hyphen, and ids begin with the speaker.
fn without_speaker_before(id: &str) -> Option<&str> {
    id.match_indices('-').find_map(|(at, _)| {
        let (speaker, rest) = (&id[..at], &id[at + 1..]);
        rest.starts_with(speaker).then_some(rest)
    })
}

fn of_manifest(line: &[u8]) -> Result<(String, String), Defect> {
    let entry = object(line)?;
    let hint = "write each line as {\"audio_filepath\": …, \"text\": …}";
    let id = manifest_id(&entry)
        .ok_or_else(|| Defect::new("there is neither \"id\" nor \"audio_filepath\"", hint))?;
    match entry.get(SAID).and_then(Value::as_str) {
        Some(text) => Ok((id.into(), text.into())),
        None => Err(Defect::new("there is no \"text\"", hint)),
    }
}

/// The id of an utterance in a manifest: "id", else the name of its audio file without folder and ending.
pub(super) fn manifest_id(entry: &Map<String, Value>) -> Option<&str> {
    entry.get(ID).and_then(Value::as_str).or_else(|| {
        let audio = entry.get("audio_filepath").and_then(Value::as_str)?;
        Path::new(audio).file_stem()?.to_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<References> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        References::read(&dir.path().join(name))
    }

    #[test]
    fn every_kind_gives_the_same() {
        let manifest = "{\"audio_filepath\": \"/a/s-1.wav\", \"duration\": 1, \"text\": \"A B\"}\n\
                        {\"audio_filepath\": \"s-2.flac\", \"text\": \"\"}\n";
        let named = "{\"id\": \"s-1\", \"audio_filepath\": \"1.wav\", \"text\": \"A B\"}\n\
                     {\"id\": \"s-2\", \"text\": \"\"}\n";
        for (name, text) in [
            ("text", "s-1 A B\ns-2\n"),
            ("text", "s-1\tA B\r\n\ns-2 \n"),
            ("ref.trn", "A B (s-s-1)\n(s-s-2)\n"),
            ("hyp.trn", "A B\t(s-1)\n (s-2)\n"),
            ("manifest.json", manifest),
            ("named.json", named),
        ] {
            let references = read(name, text).unwrap();
            let mut found = [("s-1", ""), ("s-2", "")].map(|(id, _)| {
                let mut record = Record::of(id.into(), vec![]);
                references.give(&mut record).unwrap();
                record.reference.unwrap()
            });
            found.sort();
            assert_eq!(found, ["", "A B"], "{text}");
        }
    }

    #[test]
    fn an_id_without_its_speaker_is_a_guess_that_ids_go_before() {
        let references = read("a.trn", "A (1-12)\nB (12)\nC (s-sp)\nD (sp-sp)\n").unwrap();
        let of = |id: &str| references.find(id).map(String::as_str);
        assert_eq!(
            [of("1-12"), of("12"), of("s-sp"), of("sp-sp")],
            [Some("A"), Some("B"), Some("C"), Some("D")]
        );
        assert_eq!(of("sp"), None, "it may be C or D");
        let error = read("a.trn", "A (1-12)\nB (1-12)\n").err().unwrap().to_string();
        assert!(error.contains("a.trn:2: 1-12 comes twice"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_located() {
        for (name, text, expected) in [
            ("text", "u A\nu B\n", "text:2: u comes twice"),
            ("a.trn", "A (u)\nB\n", "a.trn:2: there is no id"),
            ("m.json", "{\"text\": \"A\"}\n", "m.json:1: there is neither"),
            ("m.json", "{\"id\": \"u\"}\n", "m.json:1: there is no \"text\""),
            ("text", "\n", "there is no reference"),
        ] {
            let error = read(name, text).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let missing = read("text", "u A\n").unwrap().give(&mut Record::of("v".into(), vec![])).unwrap_err();
        assert!(missing.problem.contains("utterance v has no reference"), "{}", missing.problem);
    }
}
