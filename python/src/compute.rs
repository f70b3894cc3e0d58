//! Work off the interpreter: on workers of its own, while the caller waits for it and for Ctrl-C.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lorb_engine::device::cpu::Cpu;
use lorb_engine::device::cuda::first_use::{Child, FirstUse};
use lorb_engine::device::{AnyDevice, Choice, Dtype, select};
use lorb_engine::hub::{self, Found, Kind};
use lorb_engine::nbest::normalise::{Case, Unit};
use lorb_engine::nbest::{Format, Reading};
use lorb_engine::rescore::settings::ListOptions;
use lorb_engine::{Error, Result};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Deserialize;

use crate::errors::{exception, panicked, usage};

/// Between two looks for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// Where it is computed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compute {
    threads: Option<u16>,
    device: String,
    dtype: Option<String>,
}

impl Compute {
    /// Starts the workers.
    pub fn workers(&self, py: Python<'_>) -> PyResult<Workers> {
        let threads = match self.threads {
            Some(threads @ 1..=1024) => threads.into(),
            // Rayon's own choice.
            None => 0,
            Some(threads) => return Err(usage(py, format!("threads: expected 1 to 1024, not {threads}"))),
        };
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| usage(py, format!("cannot start the worker threads: {e}")))?;
        Ok(Workers { pool: Arc::new(pool), process: process::id() })
    }

    /// What was asked for.
    fn choice(&self, py: Python<'_>) -> PyResult<(Choice, Option<Dtype>)> {
        let choice: Choice = self.device.parse().map_err(|e| usage(py, format!("device: {e}")))?;
        let dtype = self.dtype.as_deref().map(str::parse::<Dtype>).transpose();
        Ok((choice, dtype.map_err(|e| usage(py, format!("dtype: {e}")))?))
    }

    /// The CPU whatever was asked for: where nothing is scored, no GPU is opened.
    pub fn cpu(&self, py: Python<'_>) -> PyResult<AnyDevice> {
        self.choice(py)?;
        Cpu::of_environment().map(AnyDevice::Cpu).map_err(|e| exception(py, e))
    }

    /// Opens the device; LORB_ISA forces an instruction set.
    pub fn device(&self, py: Python<'_>) -> PyResult<AnyDevice> {
        let (choice, dtype) = self.choice(py)?;
        let (device, notes) = py.detach(|| open(choice, dtype)).map_err(|e| exception(py, e))?;
        log(py, &notes)?;
        Ok(device)
    }
}

/// Tells Python's `logging`.
pub fn log(py: Python<'_>, notes: &[String]) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", ("lorb_engine",))?;
    notes.iter().try_for_each(|note| logger.call_method1("info", (note,)).map(drop))
}

fn open(choice: Choice, dtype: Option<Dtype>) -> Result<(AnyDevice, Vec<String>)> {
    let cpu = Cpu::of_environment()?;
    // Kernels are tried in a process of its own: Python is none that could, the command line is.
    let attempt = |trial| {
        let child = Child { program: "lorb-engine".into(), limit: Child::LIMIT };
        child.run(trial, "production").map(|ran| ran.verdict)
    };
    select(choice, cpu, dtype, &FirstUse { folder: FirstUse::folder(), attempt: &attempt })
}

/// Finds what was named, a folder or an id on the Hub, and keeps what there was to say of it: it is for [`log`], and found
/// off the interpreter.
#[derive(Default)]
pub struct Finder {
    notes: RefCell<Vec<String>>,
}

impl Finder {
    pub fn model(&self, given: Option<PathBuf>) -> Result<Option<Found>> {
        given.map(|given| self.find(&given, Kind::Model)).transpose()
    }

    pub fn adapter(&self, given: Option<PathBuf>) -> Result<Option<Found>> {
        given.map(|given| self.find(&given, Kind::Adapter)).transpose()
    }

    pub fn find(&self, given: &Path, kind: Kind) -> Result<Found> {
        hub::locate(given, kind, &|note| self.notes.borrow_mut().push(note))
    }

    pub fn into_notes(self) -> Vec<String> {
        self.notes.into_inner()
    }
}

/// The format of files, and what they lack.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    format: Option<String>,
    #[serde(rename = "ref")]
    references: Option<PathBuf>,
    ctc_weight: Option<f64>,
    manifest: Option<PathBuf>,
}

impl TryFrom<Files> for Reading {
    type Error = Error;

    fn try_from(files: Files) -> Result<Reading> {
        let Files { format, references, ctc_weight, manifest } = files;
        let format = format.map(|format| format.parse::<Format>()).transpose();
        let format = format.map_err(|expected| Error::Usage(format!("format: {expected}")))?;
        if ctc_weight.is_some_and(|weight| !(0.0..=1.0).contains(&weight)) {
            return Err(Error::Usage("ctc_weight: expected a number from 0 to 1".into()));
        }
        Ok(Reading { format, references, manifest, ctc_weight })
    }
}

/// How lists are read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lists {
    first_pass: Option<String>,
    lm: Option<String>,
    case: Option<Case>,
    noise: Option<String>,
    fillers: Option<Vec<String>>,
    unit: Option<Unit>,
}

impl From<Lists> for ListOptions {
    fn from(lists: Lists) -> ListOptions {
        let Lists { first_pass, lm, case, noise, fillers, unit } = lists;
        ListOptions { reading: Reading::default(), first_pass, lm, case, noise, fillers, unit }
    }
}

/// Threads that compute.
#[derive(Clone)]
pub struct Workers {
    pool: Arc<ThreadPool>,
    process: u32,
}

/// Work that was begun. The lock is for Python, which shares its objects between threads; one alone waits.
pub struct Pending<T>(Mutex<Receiver<Result<T>>>);

impl Workers {
    /// Begins `work`. What it was for may be dropped: it then ends for nobody.
    pub fn begin<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> PyResult<Pending<T>> {
        if self.process != process::id() {
            return Err(usage(
                py,
                "this was made before the process forked, and its threads stayed behind: make another one here",
            ));
        }
        let (done, pending) = channel();
        self.pool.spawn_fifo(move || {
            // Nobody may listen any more; and a panic must not end the interpreter: its sender falls with it.
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                let _ = done.send(result);
            }
        });
        Ok(Pending(Mutex::new(pending)))
    }

    /// Does `work` and waits for it.
    pub fn run<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> PyResult<T> {
        self.begin(py, work)?.wait(py)
    }
}

impl<T: Send> Pending<T> {
    /// Waits without the interpreter's lock; on Ctrl-C the exception comes at once.
    pub fn wait(self, py: Python<'_>) -> PyResult<T> {
        let mut receiver = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        loop {
            let received;
            (receiver, received) = receive(py, receiver);
            match received {
                Ok(result) => return result.map_err(|e| exception(py, e)),
                Err(RecvTimeoutError::Timeout) => py.check_signals()?,
                Err(RecvTimeoutError::Disconnected) => return Err(panicked(py)),
            }
        }
    }
}

/// What comes next, without the interpreter's lock, until it is time to look for signals.
pub fn receive<T: Send>(py: Python<'_>, receiver: Receiver<T>) -> (Receiver<T>, Result<T, RecvTimeoutError>) {
    py.detach(move || {
        let received = receiver.recv_timeout(SIGNALS_EVERY);
        (receiver, received)
    })
}
