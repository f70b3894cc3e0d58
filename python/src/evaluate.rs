//! Word errors of lists.

use std::path::PathBuf;

use lorb_engine::Result;
use lorb_engine::hub::Kind;
use lorb_engine::nbest::word_errors::Alignment;
use lorb_engine::rescore::domains::Heads;
use lorb_engine::rescore::evaluate::{Evaluate, Prune};
use lorb_engine::rescore::head::Head;
use lorb_engine::rescore::settings::ListOptions;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Deserialize;

use crate::compute::{Compute, Files, Finder, Lists, log};
use crate::convert::{options, to_python};
use crate::errors::{exception, usage, warn};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    files: Vec<PathBuf>,
    model: Option<PathBuf>,
    adapter: Option<PathBuf>,
    /// Domains, and the adapter of each.
    adapter_for: Vec<(String, PathBuf)>,
    tune: Vec<PathBuf>,
    prune: Option<String>,
    align: String,
    transcripts: Option<PathBuf>,
    reading: Files,
    lists: Lists,
    compute: Compute,
}

/// What `lorb-engine evaluate --json` prints, as a dict.
#[pyfunction]
pub fn evaluate<'py>(py: Python<'py>, request: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    let request: Request = options(request)?;
    let Request {
        files,
        model,
        adapter,
        adapter_for,
        tune,
        prune,
        align,
        transcripts,
        reading,
        lists,
        compute,
    } = request;
    if files.is_empty() {
        return Err(usage(py, "give lists to evaluate"));
    }
    let prune = prune.map(|prune| prune.parse::<Prune>()).transpose();
    let prune = prune.map_err(|expected| usage(py, format!("prune: {expected}")))?;
    let alignment: Alignment = align.parse().map_err(|expected| usage(py, format!("align: {expected}")))?;
    let reading = reading.try_into().map_err(|e| exception(py, e))?;
    let lists = ListOptions { reading, ..lists.into() };
    let evaluate = Evaluate { files, tune, prune, alignment, transcripts, lists };
    let scores_anew = model.is_some() || adapter.is_some() || !adapter_for.is_empty();
    let workers = compute.workers(py)?;
    let device = if scores_anew { compute.device(py)? } else { compute.cpu(py)? };
    let work = move || {
        evaluate.check(scores_anew)?;
        let finder = Finder::default();
        let open = || {
            let (base, adapter) = (finder.model(model)?, finder.adapter(adapter)?);
            if adapter_for.is_empty() {
                return Head::open(base, adapter, &evaluate.lists).map(Heads::from);
            }
            let found = |(domain, named): (_, PathBuf)| Ok((domain, finder.find(&named, Kind::Adapter)?));
            let by_domain = adapter_for.into_iter().map(found).collect::<Result<_>>()?;
            Heads::open(base.as_ref(), by_domain, adapter, &evaluate.lists)
        };
        let heads = scores_anew.then(open).transpose()?;
        Ok((evaluate.run(device, heads)?, finder.into_notes()))
    };
    let (report, notes) = workers.run(py, work)?;
    log(py, &notes)?;
    report.warnings.iter().try_for_each(|text| warn(py, text))?;
    to_python(py, &serde_json::to_value(report).expect("a report is plain data"))
}
