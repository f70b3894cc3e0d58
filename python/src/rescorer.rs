//! Scoring of texts and of N-best lists.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use lorb_engine::nbest::jsonl::utterance;
use lorb_engine::nbest::{Dropped, Fields, Format, ListWriter, Reading, Utterance};
use lorb_engine::rescore::head::Head;
use lorb_engine::rescore::prune::Margin;
use lorb_engine::rescore::read_ahead::{Failure, MAX_TEXT_BYTES, MAX_UTTERANCES, ReadAhead};
use lorb_engine::rescore::rescorer as engine;
use lorb_engine::rescore::rewrite::{line, rewrite};
use lorb_engine::rescore::settings::ListOptions;
use lorb_engine::rescore::weights::RescoringFile;
use lorb_engine::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyIterator};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::compute::{Compute, Files, Finder, Lists, Pending, Workers, log};
use crate::convert::{Unfit, dict, options, to_json};
use crate::errors::{exception, usage, warn};

/// Texts of a block, whose scoring Ctrl-C leaves to end by itself.
const BLOCK: usize = 1024;

/// What Ctrl-C waits for the batch under way, and for the file that is dropped after it.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    model: Option<PathBuf>,
    adapter: Option<PathBuf>,
    beta: Option<f64>,
    lists: Lists,
    compute: Compute,
}

/// A model with its head, and what it does to lists.
#[pyclass(frozen)]
pub struct Rescorer {
    workers: Workers,
    shared: Arc<Shared>,
    /// What decides the last bits of a score.
    #[pyo3(get)]
    device: String,
    /// Of what decides them apart from the device.
    #[pyo3(get)]
    digest: String,
}

/// Rescored utterances, as the command writes them.
type Lines = Vec<Map<String, Value>>;

struct Shared {
    rescorer: engine::Rescorer,
    settings: RescoringFile,
}

#[pymethods]
impl Rescorer {
    #[new]
    fn new(py: Python<'_>, request: &Bound<'_, PyDict>) -> PyResult<Rescorer> {
        let Request { model, adapter, beta, lists, compute: wanted } = options(request)?;
        if beta.is_some_and(|beta| beta < 0.0) {
            return Err(usage(py, "beta: expected a number from 0"));
        }
        let workers = wanted.workers(py)?;
        let device = wanted.device(py)?;
        let description = device.description();
        let lists = ListOptions::from(lists);
        let open = move || {
            let finder = Finder::default();
            let mut head = Head::open(finder.model(model)?, finder.adapter(adapter)?, &lists)?;
            let weights = &mut head.settings.rescoring.weights;
            weights.lorb = beta.unwrap_or(weights.lorb);
            let digest = head.digest()?;
            let settings = head.settings.rescoring.clone();
            settings.required_fields().check_kept_by_rescoring()?;
            let rescorer = engine::Rescorer::of_head(device, head)?;
            Ok((Shared { rescorer, settings }, digest, finder.into_notes()))
        };
        let (shared, digest, notes) = workers.run(py, open)?;
        log(py, &notes)?;
        Ok(Rescorer { workers, shared: Arc::new(shared), device: description, digest })
    }

    /// g of each text, as the bytes of float32 numbers.
    fn score<'py>(&self, py: Python<'py>, texts: Vec<String>) -> PyResult<Bound<'py, PyByteArray>> {
        let mut scores: Vec<f32> = Vec::with_capacity(texts.len());
        let mut texts = texts.into_iter();
        loop {
            let block: Vec<String> = texts.by_ref().take(BLOCK).collect();
            if block.is_empty() {
                let bytes: Vec<u8> = scores.iter().flat_map(|score| score.to_ne_bytes()).collect();
                return Ok(PyByteArray::new(py, &bytes));
            }
            let shared = self.shared.clone();
            scores.extend(self.workers.run(py, move || shared.rescorer.score_texts(&block))?);
        }
    }

    /// The rescored utterances of an iterator, as an iterator.
    fn rescore(
        &self,
        py: Python<'_>,
        lists: Bound<'_, PyIterator>,
        prune: Option<f64>,
    ) -> PyResult<Rescored> {
        Ok(Rescored {
            workers: self.workers.clone(),
            shared: self.shared.clone(),
            fields: self.shared.settings.required_fields(),
            margin: margin(py, prune)?,
            input: Some(lists.unbind()),
            read: 0,
            pending: None,
            done: VecDeque::new(),
            failure: None,
        })
    }

    /// A file into another, as the command does; the counts of what was done.
    fn rescore_file<'py>(
        &self,
        py: Python<'py>,
        input: PathBuf,
        output: PathBuf,
        prune: Option<f64>,
        reading: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let shared = self.shared.clone();
        let margin = prune.map(|_| margin(py, prune)).transpose()?;
        let reading = Reading::try_from(options::<Files>(reading)?).map_err(|e| exception(py, e))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (running, ended) = channel::<()>();
        let work = move || {
            let _running = running;
            shared.rescore_file(&input, &output, margin, reading, &stopped)
        };
        let done = self.workers.run(py, work).inspect_err(|_| {
            stop.store(true, Ordering::Relaxed);
            // The interpreter may end with Ctrl-C: first the half-written file goes.
            let _ = py.detach(move || ended.recv_timeout(STOPS_WITHIN));
        });
        let (counts, dropped) = done?;
        if !dropped.is_empty() {
            warn(py, &format!("dropped, as the format cannot hold it: {dropped}"))?;
        }
        dict(py, &counts)
    }
}

fn margin(py: Python<'_>, prune: Option<f64>) -> PyResult<Margin> {
    let refused = || usage(py, "prune: expected a number from 0");
    prune.map_or(Ok(Margin::NONE), |margin| Margin::new(margin).ok_or_else(refused))
}

/// Lists that are rescored as they are asked for: one batch is read while another is scored.
#[pyclass]
pub struct Rescored {
    workers: Workers,
    shared: Arc<Shared>,
    fields: Fields,
    margin: Margin,
    /// `None` where it has ended.
    input: Option<Py<PyIterator>>,
    read: u64,
    pending: Option<Pending<Lines>>,
    done: VecDeque<Map<String, Value>>,
    /// What ended the input, to be told after all that came before.
    failure: Option<PyErr>,
}

#[pymethods]
impl Rescored {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        while self.done.is_empty() {
            let next = self.begin(py)?;
            let ended = next.is_none();
            match std::mem::replace(&mut self.pending, next) {
                Some(pending) => match pending.wait(py) {
                    Ok(lines) => self.done = lines.into(),
                    Err(error) => {
                        // As a generator: what raised has ended.
                        (self.input, self.pending, self.failure) = (None, None, None);
                        return Err(error);
                    }
                },
                None if ended => return self.failure.take().map_or(Ok(None), Err),
                None => {}
            }
        }
        self.done.pop_front().map(|line| dict(py, &line)).transpose()
    }
}

impl Rescored {
    /// Reads a batch and begins to score it; `None` at the end of the input.
    fn begin(&mut self, py: Python<'_>) -> PyResult<Option<Pending<Lines>>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(input) = &self.input
            && batch.len() < MAX_UTTERANCES
            && bytes < MAX_TEXT_BYTES
        {
            let mut input = input.bind(py).clone();
            match input.next().map(|next| next.and_then(|next| self.utterance(py, &next))) {
                Some(Ok(utterance)) => {
                    bytes += utterance.hypotheses.iter().map(|h| h.text.len()).sum::<usize>();
                    batch.push(utterance);
                }
                ended => {
                    self.input = None;
                    self.failure = ended.and_then(PyResult::err);
                }
            }
        }
        if batch.is_empty() {
            return Ok(None);
        }
        let (shared, margin) = (self.shared.clone(), self.margin);
        self.workers.begin(py, move || shared.rescore(&batch, margin)).map(Some)
    }

    fn utterance(&mut self, py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<Utterance> {
        self.read += 1;
        let list = Path::new("lists");
        let value = to_json(given).map_err(|Unfit(problem, hint)| Error::List {
            path: list.into(),
            line: self.read,
            problem,
            hint: hint.into(),
        });
        let utterance = value.and_then(|value| utterance(value, &self.fields, list, self.read));
        utterance.map_err(|e| exception(py, e))
    }
}

impl Shared {
    fn rescore(&self, batch: &[Utterance], margin: Margin) -> Result<Lines> {
        let scored = self.rescorer.score(batch, margin)?;
        let line = |(utterance, f): (&Utterance, &Vec<_>)| line(&self.rescorer, &self.settings, utterance, f);
        batch.iter().zip(&scored.features).map(line).collect()
    }

    fn rescore_file(
        &self,
        input: &Path,
        output: &Path,
        margin: Option<Margin>,
        reading: Reading,
        stop: &AtomicBool,
    ) -> Result<(Map<String, Value>, Dropped)> {
        let format = reading.format_of(Some(input))?;
        if margin.is_some() && format != Format::Jsonl {
            return Err(Error::Usage(format!(
                "{}: prune leaves hypotheses without a score, which {format} needs: leave it out, or convert to jsonl",
                input.display()
            )));
        }
        let margin = margin.unwrap_or(Margin::NONE);
        let mut writer = ListWriter::create(Some(output), format)?;
        let reading = Reading { format: Some(format), ..reading };
        let input = ReadAhead::start(Some(input), &self.settings.required_fields(), &reading);
        let goes_on = |failure: Option<Failure>| match stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted("nobody waits for it any more".into())),
            false => failure.map_or(Ok(()), |failure| Err(failure.error)),
        };
        let done = rewrite(&self.rescorer, &self.settings, margin, input, &mut writer, goes_on)?;
        let dropped = writer.finish()?;
        let counts = [
            ("utterances", done.utterances),
            ("hypotheses", done.hypotheses),
            ("tokens", done.tokens),
            ("cut", done.cut),
        ];
        Ok((counts.into_iter().map(|(name, count)| (name.into(), count.into())).collect(), dropped))
    }
}
