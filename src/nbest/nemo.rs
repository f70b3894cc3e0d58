//! What NeMo's beam search writes: a `.tsv` with a text, a tab and a score on each line, as many lines for each
//! utterance of the manifest; and that manifest, JSON lines with `audio_filepath` and `text`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields::{AM, HYPS, ID, REF, SCORE, TEXT};
use super::file::{ListFile, uncompressed};
use super::jsonl::parse::object;
use super::keyed::{NOT_FINITE, check_text, json, number};
use super::lines::{Lines, Origin, Source};
use super::reader::Records;
use super::record::{Defect, Record, text};
use super::references::{SAID, manifest_id};
use super::writer::{Dropped, Sink};
use crate::{Error, Result};

/// Whether a file that begins with this line is one.
pub(super) fn recognise(line: &str) -> bool {
    line.rsplit_once('\t').is_some_and(|(_, score)| number(score).is_ok())
}

/// The manifest beside a list: of `beams.tsv.gz` that is `beams.manifest.json`.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = uncompressed(&name);
    path.with_file_name(format!("{}.manifest.json", name.strip_suffix(".tsv").unwrap_or(name)))
}

/// Reads the list and its manifest in step.
pub(super) struct Reader {
    list: Lines,
    manifest: Lines,
    /// Hypotheses of an utterance.
    beam: u64,
    line: u64,
}

impl Reader {
    /// Opens `path`; `manifest` is the file beside it unless given.
    pub fn open(path: &Path, manifest: Option<&Path>) -> Result<Self> {
        let manifest = manifest.map_or_else(|| beside(path), PathBuf::from);
        if !manifest.exists() {
            let problem = format!("there is no {} that tells its utterances", manifest.display());
            return Err(Error::file(path, problem, "give the manifest that was decoded with --manifest"));
        }
        let (lines, utterances) = (count(path)?, count(&manifest)?);
        if utterances == 0 || lines % utterances != 0 {
            let problem =
                format!("{lines} lines are not as many for each of {utterances} utterances of the manifest");
            let hint = "give the manifest that was decoded; NeMo writes fewer lines where a beam is not full, and \
                        then nothing tells whose they are";
            return Err(Error::file(path, problem, hint));
        }
        let open = |path: &Path| Ok::<_, Error>(Lines::new(Source::open(Some(path))?));
        Ok(Reader { list: open(path)?, manifest: open(&manifest)?, beam: lines / utterances, line: 0 })
    }

    fn record(&mut self) -> Result<Option<Record>> {
        if !self.manifest.advance()? {
            return Ok(None);
        }
        let mut record = self.utterance().map_err(|defect| self.manifest.defect(defect))?;
        for i in 0..self.beam {
            if !self.list.advance()? {
                return Err(self
                    .list
                    .defect(Defect::new("the file ended early", "it changed while it was read")));
            }
            if i == 0 {
                self.line = self.list.number();
            }
            let hypothesis = hypothesis(self.list.text()?).map_err(|defect| self.list.defect(defect))?;
            record.hypotheses.push(hypothesis);
        }
        Ok(Some(record))
    }

    /// What the manifest tells, still without hypotheses.
    fn utterance(&self) -> Result<Record, Defect> {
        let mut entry = object(self.manifest.bytes())?;
        let Some(id) = manifest_id(&entry).map(str::to_owned) else {
            let hint = "write each line as {\"audio_filepath\": …, \"text\": …}";
            return Err(Defect::new("there is neither \"id\" nor \"audio_filepath\"", hint));
        };
        let said = entry.get(SAID).and_then(Value::as_str).map(str::to_owned);
        [ID, SAID, REF, HYPS].iter().for_each(|name| drop(entry.shift_remove(*name)));
        let mut record = Record::of(id, Vec::new());
        record.fields.extend(entry);
        if let Some(said) = said {
            record.set_reference(&said);
        }
        Ok(record)
    }
}

fn count(path: &Path) -> Result<u64> {
    let mut lines = Lines::new(Source::open(Some(path))?);
    let mut count = 0;
    while lines.advance()? {
        count += 1;
    }
    Ok(count)
}

fn hypothesis(line: &str) -> Result<Map<String, Value>, Defect> {
    let (text, score) = line
        .rsplit_once('\t')
        .ok_or_else(|| Defect::new("there is no tab", "write each line as a text, a tab and a score"))?;
    let score = number(score).map_err(|problem| Defect::new(problem, NOT_FINITE))?;
    Ok(Map::from_iter([(TEXT.into(), text.into()), (AM.into(), json(score))]))
}

impl Records for Reader {
    fn next(&mut self) -> Option<Result<Record>> {
        self.record().transpose()
    }

    fn origin(&self) -> &Origin {
        self.list.origin()
    }

    fn line(&self) -> u64 {
        self.line
    }
}

/// Writes a list, and a manifest beside it.
pub(super) struct Writer {
    list: ListFile,
    manifest: ListFile,
    /// Hypotheses of an utterance; the first one decides.
    beam: Option<usize>,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        let (list, manifest) = (ListFile::create(Some(path))?, ListFile::create(Some(&beside(path)))?);
        Ok(Writer { list, manifest, beam: None })
    }
}

impl Sink for Writer {
    fn write(&mut self, record: &Record, dropped: &mut Dropped) -> Result<()> {
        let (id, count) = (&record.id, record.hypotheses.len());
        let beam = *self.beam.get_or_insert(count);
        if count != beam {
            return Err(Error::Usage(format!(
                "utterance {id} has {count} hypotheses, those before {beam}: NeMo tells utterances by their number"
            )));
        }
        let mut lines = String::new();
        for (i, hypothesis) in record.hypotheses.iter().enumerate() {
            check_text(id, i, hypothesis)?;
            let text = text(hypothesis);
            if text.contains('\t') || text.starts_with('\u{feff}') {
                return Err(Error::Usage(format!(
                    "utterance {id}: hyps[{i}].text has a tab or a byte order mark, which NeMo's lists cannot hold"
                )));
            }
            let used =
                [SCORE, AM].into_iter().find(|name| hypothesis.get(*name).is_some_and(Value::is_number));
            let used = used.ok_or_else(|| {
                Error::Usage(format!("utterance {id}: hyps[{i}] has neither \"score\" nor \"am\""))
            })?;
            lines += &format!("{text}\t{}\n", hypothesis[used]);
            dropped.of_hypothesis(hypothesis, |name, _| name == used);
        }
        dropped.of_utterance(record, |name, _| name != SAID);
        let mut entry = record.fields.clone();
        [ID, SAID, REF, HYPS].iter().for_each(|name| drop(entry.shift_remove(*name)));
        if let Some(reference) = &record.reference {
            entry.insert(SAID.into(), reference.as_str().into());
        }
        if manifest_id(&entry) != Some(id) {
            entry.insert(ID.into(), id.as_str().into());
        }
        self.list.write(lines.as_bytes())?;
        self.manifest.write(format!("{}\n", Value::Object(entry)).as_bytes())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.manifest.finish()?;
        self.list.finish()
    }
}
