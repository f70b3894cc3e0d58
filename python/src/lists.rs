//! N-best lists from a file, one utterance after the other.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use lorb_engine::nbest::{ListReader, Reading, Utterance};
use lorb_engine::rescore::settings::ListOptions;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value};

use crate::compute::Files;
use crate::convert::{dict, options};
use crate::errors::exception;

/// The utterances of a file, as dicts.
#[pyclass(frozen)]
pub struct Lists(Mutex<ListReader>);

#[pymethods]
impl Lists {
    #[new]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        reading: &Bound<'_, PyDict>,
        first_pass: Option<String>,
        lm: Option<String>,
    ) -> PyResult<Lists> {
        let fields = ListOptions { first_pass, lm, ..ListOptions::default() }.over(None).0;
        let reading = Reading::try_from(options::<Files>(reading)?);
        let reader = reading.and_then(|reading| ListReader::open_as(Some(&path), &fields, &reading));
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
