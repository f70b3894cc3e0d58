//! Progress of training: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lorb_engine::nbest::wer::percent_text;
use lorb_engine::train::{Observer, StepReport, Validation};

use crate::cli::output::note;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    line: Instant,
    /// The step that this process started from, and the tokens it has done.
    first: u64,
    tokens: usize,
    /// The losses, smoothed over about fifty steps.
    mwer: Option<(f64, f64)>,
    correlation: f64,
}

impl Progress {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {msg}, {eta} left");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Progress { bar, began: now, line: now, first: 0, tokens: 0, mwer: None, correlation: 0.0 }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => note(text),
        }
    }
}

impl Observer for Progress {
    fn start(&mut self, done: u64, steps: u64) {
        self.first = done;
        if done > 0 {
            self.say(&format!("resumed after step {done} of {steps}"));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(steps);
            bar.set_position(done);
            bar.reset_eta();
        }
        self.began = Instant::now();
        self.line = self.began;
    }

    fn fitting(&mut self, done: usize, lists: usize) {
        let message = format!("classifier fitted to {done} of {lists} lists");
        match &self.bar {
            Some(bar) => bar.set_message(message),
            None if self.line.elapsed() >= LINE_EVERY || done == lists => {
                self.line = Instant::now();
                note(message);
            }
            None => {}
        }
        self.began = Instant::now();
    }

    fn step(&mut self, report: StepReport) {
        self.tokens += report.tokens;
        let smooth = |before: f64, now: f64| before + (now - before) * 0.02;
        let now = report.losses;
        let (mwer, without) = self.mwer.unwrap_or((now.mwer, now.mwer_without));
        let (mwer, without) = (smooth(mwer, now.mwer), smooth(without, now.mwer_without));
        self.mwer = Some((mwer, without));
        self.correlation = smooth(self.correlation, now.correlation);
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = self.tokens as f64 / seconds.max(1e-9);
        let message = format!(
            "epoch {}, MWER {mwer:+.4} (first pass alone {without:+.4}), correlation {:.2}, {rate:.0} tokens/s",
            report.epoch, self.correlation,
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(report.step);
                bar.set_message(message);
            }
            None if self.line.elapsed() >= LINE_EVERY || report.step == report.steps => {
                self.line = Instant::now();
                let left = seconds / (report.step - self.first) as f64 * (report.steps - report.step) as f64;
                note(format!("step {}/{}, {message}, {left:.0} s left", report.step, report.steps));
            }
            None => {}
        }
    }

    fn validation(&mut self, v: Validation) {
        let of_units = |errors: f64, digits| percent_text(errors, v.reference_units, digits);
        let best = if v.best { ", the best so far" } else { "" };
        self.say(&format!(
            "epoch {}: validation WER {}, expected {} (first pass alone {}){best}",
            v.epoch,
            of_units(v.errors as f64, 2),
            of_units(v.expected, 3),
            of_units(v.expected_without, 3),
        ));
    }
}
