//! Training, which tells the calling thread of every step.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use lorb_engine::hub::Found;
use lorb_engine::nbest::wer::percent;
use lorb_engine::rescore::settings::ListOptions;
use lorb_engine::train::base::Base;
use lorb_engine::train::domain::Domain;
use lorb_engine::train::job::Job;
use lorb_engine::train::prepared::Prepared;
use lorb_engine::train::summary::{SetErrors, SetSummary};
use lorb_engine::train::team::{Exchange, Team};
use lorb_engine::train::{Asked, Observer, StepReport, ValidationLists};
use lorb_engine::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::compute::{Compute, Files, Finder, Lists, log, receive};
use crate::convert::{dict, options};
use crate::errors::{exception, panicked, usage};

/// The options of the command line, by their names; those that are `None` are the engine's to choose.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    model: Option<PathBuf>,
    train: Vec<PathBuf>,
    /// Names, and the lists of each.
    domain: Vec<(String, Vec<PathBuf>)>,
    valid: String,
    test: Vec<PathBuf>,
    out: PathBuf,
    resume: bool,
    init_adapter: Option<PathBuf>,
    options: Asked,
    checkpoint_every: u64,
    /// The rank of this process, and of how many.
    share: Option<(usize, usize)>,
    reading: Files,
    lists: Lists,
    compute: Compute,
}

/// What is to be done, and where.
struct Plan {
    /// `None` for the embedded one.
    model: Option<Found>,
    /// With the domain of each, or one alone without.
    jobs: Vec<(Option<String>, Job)>,
    compute: Compute,
    /// For the log.
    notes: Vec<String>,
}

impl Request {
    fn plan(self) -> Result<Plan> {
        let domains = self.domain.iter().map(|(name, files)| Domain::new(name, files.clone()));
        let domains = domains.collect::<Result<Vec<_>, _>>();
        let domains = domains.map_err(|problem| Error::Usage(format!("domain: {problem}")))?;
        let valid = self.valid.parse::<ValidationLists>();
        let valid = valid.map_err(|expected| Error::Usage(format!("--valid {}: {expected}", self.valid)))?;
        self.options.check(self.init_adapter.is_some())?;
        let finder = Finder::default();
        let model = finder.model(self.model)?;
        let job = Job {
            train: self.train,
            valid,
            test: self.test,
            out: self.out,
            resume: self.resume,
            init_adapter: finder.adapter(self.init_adapter)?,
            asked: self.options,
            checkpoint_every: Duration::from_secs(self.checkpoint_every),
            lists: ListOptions { reading: self.reading.try_into()?, ..self.lists.into() },
            command: None,
            team: Team::default(),
        };
        let jobs = match domains.is_empty() {
            true => vec![(None, job)],
            false => {
                let names = domains.iter().map(|domain| Some(domain.name.clone()));
                names.zip(job.of_domains(&domains)?).collect()
            }
        };
        Ok(Plan { model, jobs, compute: self.compute, notes: finder.into_notes() })
    }
}

/// What comes from the thread that trains.
enum Event {
    /// It goes on when the sender answers.
    Step(Box<Map<String, Value>>, SyncSender<()>),
    /// Values for the others of a team, and where theirs go.
    Gather(Vec<f32>, SyncSender<Result<Vec<Vec<f32>>>>),
    /// `None` where the result was there already.
    End(Box<Result<Option<Map<String, Value>>>>),
}

/// Trains an adapter; the result is a dict, or `None` where `out` holds it already. With domains it is a dict of such by
/// their names.
#[pyfunction]
pub fn train<'py>(
    py: Python<'py>,
    request: &Bound<'py, PyDict>,
    callback: Option<Bound<'py, PyAny>>,
    all_gather: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let request: Request = options(request)?;
    let share = request.share;
    if share.is_some() != all_gather.is_some() {
        return Err(usage(py, "share and all_gather are for each other: give both or neither"));
    }
    let workers = request.compute.workers(py)?;
    let Plan { model, mut jobs, compute, notes } = workers.run(py, move || request.plan())?;
    log(py, &notes)?;
    let device = compute.device(py)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (events, mut receiver) = sync_channel(0);
    if let Some((rank, size)) = share {
        let team = Team::new(rank, size, Arc::new(Others(events.clone())));
        let team = team.map_err(|e| exception(py, e))?;
        jobs.iter_mut().for_each(|(_, job)| job.team = team.clone());
    }
    let work = {
        let stop = stop.clone();
        move || {
            let ended =
                Base::open(model.as_ref(), device).and_then(|base| run_all(jobs, &base, &stop, &events));
            // Whoever waited may have gone.
            let _ = events.send(Event::End(Box::new(ended)));
            Ok(())
        }
    };
    workers.begin(py, work)?;

    // What ends the training before it is done: it stops after the step under way and saves, and is waited for.
    let mut reason: Option<PyErr> = None;
    loop {
        let received;
        (receiver, received) = receive(py, receiver);
        let told = match received {
            Ok(Event::End(ended)) => {
                let ended = match (*ended, reason) {
                    (Ok(ended), _) => ended,
                    (Err(Error::Interrupted(_)), Some(reason)) => return Err(reason),
                    (Err(error), _) => return Err(exception(py, error)),
                };
                return ended.map(|report| dict(py, &report)).transpose();
            }
            Ok(Event::Step(report, go_on)) => {
                let told = match &callback {
                    Some(callback) if reason.is_none() => callback.call1((dict(py, &report)?,)).map(drop),
                    _ => Ok(()),
                };
                if told.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                let _ = go_on.send(());
                told.and_then(|()| py.check_signals())
            }
            Ok(Event::Gather(mine, theirs)) => {
                let (gathered, told) = match all_gather.as_ref().map(|all_gather| gather(all_gather, &mine)) {
                    Some(Ok(gathered)) => (Ok(gathered), Ok(())),
                    Some(Err(error)) => (Err(unreachable()), Err(error)),
                    None => (Err(unreachable()), Ok(())),
                };
                let _ = theirs.send(gathered);
                told
            }
            Err(RecvTimeoutError::Timeout) => py.check_signals(),
            Err(RecvTimeoutError::Disconnected) => return Err(panicked(py)),
        };
        if let Err(error) = told {
            stop.store(true, Ordering::Relaxed);
            match reason {
                // Whoever presses Ctrl-C again does not want to wait.
                Some(_) => return Err(error),
                None => reason = Some(error),
            }
        }
    }
}

/// Trains what was asked for, the domains one after the other.
fn run_all(
    jobs: Vec<(Option<String>, Job)>,
    base: &Base,
    stop: &AtomicBool,
    events: &SyncSender<Event>,
) -> Result<Option<Map<String, Value>>> {
    // All are read before any is trained: what is wrong with the last one's lists need not be waited for.
    let read = |(domain, job): (Option<String>, Job)| Ok((domain, job.prepare(base)?));
    let runs = jobs.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut results = Map::new();
    for (domain, run) in runs {
        let mut teller = Teller { domain: domain.clone(), events: events.clone() };
        let trained = train_one(&run, stop, &mut teller)?;
        match domain {
            Some(domain) => results.insert(domain, trained.into()),
            None => return Ok(trained),
        };
    }
    Ok(Some(results))
}

fn train_one(run: &Prepared, stop: &AtomicBool, teller: &mut Teller) -> Result<Option<Map<String, Value>>> {
    let Some(trained) = run.train(stop, teller)? else { return Ok(None) };
    let result = trained.result;
    let rates = |name: &str| {
        let set = result.sets.iter().find(|set| set.name == name)?;
        let SetErrors { first_pass, tuned, rescored, oracle } = set.errors;
        let wer = |errors| percent(errors, set.reference_units);
        Some(json!({
            "first_pass": wer(first_pass),
            "tuned_without_lorb": wer(tuned),
            "rescored": wer(rescored),
            "oracle": wer(oracle),
        }))
    };
    Ok(Some(object(json!({
        "adapter": run.out(),
        "epoch": result.epoch,
        "epochs": run.options.epochs,
        "seconds": result.seconds,
        "weights": result.weights,
        "validation": rates(SetSummary::VALIDATION),
        "held_out": rates(SetSummary::HELD_OUT),
    }))))
}

/// What `all_gather` makes of the bytes of `mine`.
fn gather(all_gather: &Bound<'_, PyAny>, mine: &[f32]) -> PyResult<Vec<Vec<f32>>> {
    let py = all_gather.py();
    let mine: Vec<u8> = mine.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let of_ranks = all_gather.call1((PyBytes::new(py, &mine),))?;
    let values = |of_rank: PyResult<Bound<'_, PyAny>>| {
        let of_rank = of_rank?.extract::<Vec<u8>>()?;
        let (values, rest) = of_rank.as_chunks::<4>();
        match rest {
            [] => Ok(values.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()),
            _ => Err(usage(py, "all_gather: expected the bytes that the other ranks gave")),
        }
    };
    of_ranks.try_iter()?.map(values).collect()
}

/// The others of a team, whom the thread that called reaches.
struct Others(SyncSender<Event>);

impl Exchange for Others {
    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (theirs, gathered) = sync_channel(1);
        self.0.send(Event::Gather(mine.to_vec(), theirs)).map_err(|_| unreachable())?;
        gathered.recv().map_err(|_| unreachable())?
    }
}

fn unreachable() -> Error {
    Error::Interrupted("the rest of the team cannot be reached".into())
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { unreachable!("it is made as an object") };
    map
}

fn described(domain: Option<&str>, report: StepReport) -> Map<String, Value> {
    let StepReport { epoch, step, steps, losses, tokens, lr, seconds } = report;
    object(json!({
        "domain": domain,
        "epoch": epoch,
        "step": step,
        "steps": steps,
        "mwer": losses.mwer,
        "mwer_without": losses.mwer_without,
        "correlation": losses.correlation,
        "gradient_norm": losses.gradient_norm,
        "tokens": tokens,
        "lr": lr,
        "seconds": seconds,
    }))
}

/// Tells the thread that called of each step, and waits until it has heard.
struct Teller {
    domain: Option<String>,
    events: SyncSender<Event>,
}

impl Observer for Teller {
    fn step(&mut self, report: StepReport) {
        let (go_on, heard) = sync_channel(1);
        // Nobody listens where the caller would not wait for the end.
        let report = Box::new(described(self.domain.as_deref(), report));
        if self.events.send(Event::Step(report, go_on)).is_ok() {
            let _ = heard.recv();
        }
    }
}
