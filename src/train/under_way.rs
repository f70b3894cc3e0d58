//! A run under way: what [`Run::train`] does, part by part.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::batch::StepBatch;
use super::checkpoint::{self, State};
use super::examples::with_scores;
use super::head_fit::{FitList, HeadFit};
use super::learner::Learner;
use super::progress::{Observer, StepReport, Validation};
use super::run::{Outcome, Run};
use super::schedule::{WARMUP, lr_factor};
use crate::lora::Adapter;
use crate::rescore::tune::{chosen, total_errors, total_expected_errors, tune_weights};
use crate::{Error, Result};

/// Lists that the classifier is fitted to before the first step, at most: enough for the width of a BERT.
const FIT_LISTS: usize = 2000;
/// Hypotheses scored in validation between two looks at the clock.
const VALIDATION_BLOCK: usize = 512;

pub(super) struct UnderWay<'a> {
    run: &'a Run<'a>,
    learner: &'a mut dyn Learner,
    observer: &'a mut dyn Observer,
    state: State,
    clock: Clock,
    /// Of all epochs.
    steps: u64,
    /// Tokens of the steps whose losses are not known yet.
    untold: VecDeque<usize>,
    /// The least expected errors of the validation lists without g.
    expected_without: f64,
}

impl<'a> UnderWay<'a> {
    /// From where `resumed` is, or from the start.
    pub fn new(
        run: &'a Run<'a>,
        adapter: &Adapter,
        learner: &'a mut dyn Learner,
        resumed: Option<State>,
        observer: &'a mut dyn Observer,
    ) -> UnderWay<'a> {
        let steps = (0..run.options.epochs).map(|epoch| run.plan(epoch).len() as u64).sum();
        if let Some(state) = &resumed {
            learner.restore(&state.values, &state.adamw);
        }
        let state = resumed.unwrap_or_else(|| State::start(adapter, run.fit_head));
        observer.start(state.position.step, steps);
        let without_scores = with_scores(run.valid, &[]);
        let expected_without = total_expected_errors(&without_scores, &tune_weights(&without_scores, false));
        let clock = Clock { began: Instant::now(), before: state.position.seconds, saved: Instant::now() };
        UnderWay { run, learner, observer, state, clock, steps, untold: VecDeque::new(), expected_without }
    }

    /// Fits the classifier, which these values are, to the lists of the first steps, as far as that is left to do.
    pub fn fit(&mut self, classifier: Range<usize>) -> Result<()> {
        if self.state.position.fitted.is_none() {
            return Ok(());
        }
        let hidden = classifier.len();
        let plan = self.run.plan(0);
        let lists: usize = plan.iter().map(Vec::len).sum::<usize>().min(FIT_LISTS);
        let mut done = 0;
        for (step, samples) in plan.iter().enumerate() {
            if done >= lists {
                break;
            }
            done += samples.len();
            if self.state.position.fitted.is_some_and(|fitted| (step as u64) < fitted) {
                continue;
            }
            let batch = StepBatch::new(self.run.train, samples, 0..samples.len(), &self.run.fixed_weights);
            let features = self.learner.features(&batch.sequences)?;
            let of_list = |range: &Range<usize>| FitList {
                features: &features[range.start * hidden..range.end * hidden],
                offsets: &batch.offsets[range.clone()],
                errors: &batch.errors[range.clone()],
            };
            self.state.head_fit.add(hidden, &batch.utterances.iter().map(of_list).collect::<Vec<_>>());
            self.state.position.fitted = Some(step as u64 + 1);
            self.observer.fitting(done.min(lists), lists);
            self.pause()?;
        }
        let state = &mut self.state;
        if let Some(weight) = state.head_fit.weight(hidden) {
            let beta = self.run.options.beta.initial() as f32;
            state.values[classifier].iter_mut().zip(weight).for_each(|(value, w)| *value = w / beta);
            state.best.clone_from(&state.values);
            self.learner.restore(&state.values, &state.adamw);
        }
        state.head_fit = HeadFit::default();
        state.position.fitted = None;
        Ok(())
    }

    /// Whether there is an epoch to train, or its validation: not where as many validations in a row as are waited for
    /// were not the best.
    pub fn has_more(&self) -> bool {
        let (position, options) = (&self.state.position, self.run.options);
        let since = position.best.map_or(0, |(_, best)| position.epoch - best);
        position.epoch < options.epochs && options.patience.is_none_or(|patience| since < patience)
    }

    /// Takes the steps of an epoch that are left.
    pub fn epoch(&mut self) -> Result<()> {
        let Run { train, team, fixed_weights, .. } = self.run;
        if self.state.position.validating {
            return Ok(());
        }
        let plan = self.run.plan(self.state.position.epoch);
        while let Some(samples) = plan.get(self.state.position.step_in_epoch as usize) {
            let tokens: Vec<usize> = samples.iter().map(|sample| sample.tokens(train)).collect();
            let batch = StepBatch::new(train, samples, team.share(&tokens), fixed_weights);
            let at = self.state.position.step;
            self.learner.step(&batch, at, self.lr_factor(at))?;
            self.untold.push_back(tokens.iter().sum());
            self.state.position.step += 1;
            self.state.position.step_in_epoch += 1;
            self.tell(false)?;
            self.pause()?;
        }
        self.tell(true)?;
        self.state.position.validating = true;
        Ok(())
    }

    /// Of a step, from 0.
    fn lr_factor(&self, step: u64) -> f32 {
        lr_factor(step, self.steps, WARMUP)
    }

    /// Tells of the steps whose losses are known now; waits for those of all.
    fn tell(&mut self, wait: bool) -> Result<()> {
        let known = self.learner.losses(wait)?;
        let (epoch, seconds) = (self.state.position.epoch + 1, self.clock.seconds());
        for losses in known {
            let step = self.state.position.step - self.untold.len() as u64 + 1;
            if !losses.gradient_norm.is_finite() {
                return Err(diverged(&format!("step {step}: the gradient is not finite")));
            }
            let tokens = self.untold.pop_front().expect("each step has its losses once");
            let lr = f64::from(self.run.options.lr * self.lr_factor(step - 1));
            self.observer.step(StepReport { epoch, step, steps: self.steps, losses, tokens, lr, seconds });
        }
        Ok(())
    }

    /// Scores the validation lists with the parameters as they are, and closes the epoch.
    pub fn validate(&mut self) -> Result<()> {
        let valid = self.run.valid;
        let all: Vec<&[u32]> = valid.iter().flat_map(|e| e.tokens.iter().map(Vec::as_slice)).collect();
        while self.state.validated.len() < all.len() {
            let block = &all[self.state.validated.len()..];
            let scores = self.learner.scores(&block[..block.len().min(VALIDATION_BLOCK)])?;
            if scores.iter().any(|score| !score.is_finite()) {
                let epoch = self.state.position.epoch + 1;
                return Err(diverged(&format!("validation after epoch {epoch}: a score is not finite")));
            }
            self.state.validated.extend(scores);
            self.pause()?;
        }
        let state = &mut self.state;
        (state.values, state.adamw) = self.learner.snapshot()?;
        let lists = with_scores(valid, &state.validated);
        let weights = tune_weights(&lists, true);
        let expected = total_expected_errors(&lists, &weights);
        let position = &mut state.position;
        position.epoch += 1;
        position.step_in_epoch = 0;
        position.validating = false;
        let best = position.best.is_none_or(|(fewest, _)| expected < fewest);
        if best {
            position.best = Some((expected, position.epoch));
            state.best.clone_from(&state.values);
            state.best_scores = std::mem::take(&mut state.validated);
        }
        state.validated.clear();
        self.observer.validation(Validation {
            epoch: state.position.epoch,
            step: state.position.step,
            errors: total_errors(&lists, &chosen(&lists, &weights)),
            expected,
            expected_without: self.expected_without,
            reference_units: lists.iter().map(|l| l.reference_units).sum(),
            best,
        });
        Ok(())
    }

    /// Saves where it is time to, and stops where that was asked for.
    fn pause(&mut self) -> Result<()> {
        let Run { stop, team, out, .. } = self.run;
        if !stop.load(Ordering::Relaxed) && self.clock.saved.elapsed() < self.run.checkpoint_every {
            return Ok(());
        }
        self.tell(true)?;
        (self.state.values, self.state.adamw) = self.learner.snapshot()?;
        self.state.position.seconds = self.clock.seconds();
        if team.leads() {
            checkpoint::save(out, &self.run.identity, &self.state)?;
        }
        self.clock.saved = Instant::now();
        if stop.load(Ordering::Relaxed) {
            // Of a team another process may not have been stopped.
            let saved = if team.leads() { ", saved in" } else { "; rank 0 saves in" };
            return Err(Error::Interrupted(format!(
                "stopped after step {}{saved} {}; the same command with --resume goes on from there",
                self.state.position.step,
                out.display()
            )));
        }
        Ok(())
    }

    /// What came of it, in `adapter`.
    pub fn end(self, adapter: Adapter) -> Outcome {
        let State { best, best_scores, position, .. } = self.state;
        Outcome {
            adapter: Adapter { values: best, ..adapter },
            epoch: position.best.map_or(0, |(_, epoch)| epoch),
            epochs: position.epoch,
            validation: with_scores(self.run.valid, &best_scores),
            seconds: self.clock.seconds(),
        }
    }
}

fn diverged(problem: &str) -> Error {
    Error::NotFinite(format!("{problem}: training diverged; lower --lr or --head-lr"))
}

struct Clock {
    began: Instant,
    /// Seconds of earlier processes of the run.
    before: f64,
    saved: Instant,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.before + self.began.elapsed().as_secs_f64()
    }
}
