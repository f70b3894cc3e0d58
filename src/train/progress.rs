//! What a run tells whoever watches it.

use serde::{Deserialize, Serialize};

/// What happened in one step, for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// That it belongs to, from 1.
    pub epoch: u32,
    /// From 1.
    pub step: u64,
    /// Of all epochs.
    pub steps: u64,
    #[serde(flatten)]
    pub losses: Losses,
    pub tokens: usize,
    /// The learning rate of the low-rank matrices; that of the head has the same share of its peak.
    pub lr: f64,
    /// Of the run, when its losses were known.
    pub seconds: f64,
}

/// The losses of one step, and the norm of its gradient before clipping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// The mean over the step's utterances.
    pub mwer: f64,
    /// What MWER would be without g: how far `mwer` lies below it is what has been learned.
    pub mwer_without: f64,
    pub correlation: f64,
    pub gradient_norm: f64,
}

/// What a validation found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// After this epoch, from 1.
    pub epoch: u32,
    /// Steps done until then.
    pub step: u64,
    /// Errors on the validation lists with the weights that are tuned on them.
    pub errors: u64,
    /// The expected errors that tuning makes least, and the least that they can be without g: less noisy than
    /// errors.
    pub expected: f64,
    pub expected_without: f64,
    pub reference_units: u64,
    /// Whether it has the fewest expected errors so far.
    pub best: bool,
}

/// Told of a run's progress.
pub trait Observer {
    /// `done` of `steps` were done by earlier processes.
    fn start(&mut self, _done: u64, _steps: u64) {}
    /// `done` of `lists` went into the classifier's fit.
    fn fitting(&mut self, _done: usize, _lists: usize) {}
    fn step(&mut self, _report: StepReport) {}
    fn validation(&mut self, _validation: Validation) {}
}

/// Both are told, one after the other.
impl<A: Observer + ?Sized, B: Observer + ?Sized> Observer for (&mut A, &mut B) {
    fn start(&mut self, done: u64, steps: u64) {
        self.0.start(done, steps);
        self.1.start(done, steps);
    }

    fn fitting(&mut self, done: usize, lists: usize) {
        self.0.fitting(done, lists);
        self.1.fitting(done, lists);
    }

    fn step(&mut self, report: StepReport) {
        self.0.step(report);
        self.1.step(report);
    }

    fn validation(&mut self, validation: Validation) {
        self.0.validation(validation);
        self.1.validation(validation);
    }
}
