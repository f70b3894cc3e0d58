//! N-best lists from a file, one utterance after the other.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lorb_engine::nbest::Utterance;
use lorb_engine::nbest::jsonl::{Fields, ListReader};
use lorb_engine::rescore::settings::ListOptions;
use lorb_engine::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value};

use crate::convert::dict;
use crate::errors::exception;

/// The one place that knows formats: a name, or `None` to go by the file.
fn open(path: &Path, format: Option<&str>, fields: &Fields) -> Result<ListReader> {
    match format {
        None | Some("jsonl") => ListReader::open(Some(path), fields),
        Some(other) => Err(Error::Usage(format!("format: expected jsonl, not {other}"))),
    }
}

/// The utterances of a file, as dicts.
#[pyclass(frozen)]
pub struct Lists(Mutex<ListReader>);

#[pymethods]
impl Lists {
    #[new]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        format: Option<&str>,
        first_pass: Option<String>,
        lm: Option<String>,
    ) -> PyResult<Lists> {
        let options = ListOptions { first_pass, lm, ..ListOptions::default() };
        let reader = open(&path, format, &options.over(None).0);
        reader.map(|reader| Lists(Mutex::new(reader))).map_err(|e| exception(py, e))
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let next = py.detach(|| {
            let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match reader.next() {
                None if reader.utterances_read() == 0 => Some(Err(reader.no_utterances())),
                next => next,
            }
        });
        let utterance = next.transpose().map_err(|e| exception(py, e))?;
        utterance.map(|utterance| dict(py, &whole(utterance))).transpose()
    }
}

/// What stood in the file.
fn whole(utterance: Utterance) -> Map<String, Value> {
    let mut line = utterance.fields;
    let hypotheses = utterance.hypotheses.into_iter().map(|h| Value::Object(h.fields)).collect();
    line.insert("hyps".into(), Value::Array(hypotheses));
    line
}
