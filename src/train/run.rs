//! The loop of a run.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::checkpoint::{self, Identity, Position, State};
use super::examples::{Example, with_scores};
use super::head_fit::{FitList, HeadFit};
use super::learner::Learner;
use super::options::TrainOptions;
use super::progress::{Losses, Observer, StepReport, Validation};
use super::sampling::{Draw, EpochPlan, Sample, plan_epoch};
use super::schedule::lr_factor;
use super::step::{Part, StepBatch};
use super::team::Team;
use crate::lora::Adapter;
use crate::rescore::tune::{ScoredList, chosen, total_errors, total_expected_errors, tune_weights};
use crate::rescore::weights::Weights;
use crate::{Error, Result};

/// Lists that the classifier is fitted to before the first step, at most: enough for the width of a BERT.
const FIT_LISTS: usize = 2000;
/// Hypotheses scored in validation between two looks at the clock.
const VALIDATION_BLOCK: usize = 512;

/// A run about to start, or to go on.
pub struct Run<'a> {
    pub options: &'a TrainOptions,
    /// Whether the classifier is to be fitted to the errors before the first step: it is fresh, and the pooler is not.
    pub fit_head: bool,
    /// Of the scores that are not trained, in the loss.
    pub fixed_weights: Weights,
    pub train: &'a [Example],
    pub valid: &'a [Example],
    /// Who trains with this process.
    pub team: &'a Team,
    /// The folder of the checkpoints, which the process that leads the team writes; it exists.
    pub out: &'a Path,
    /// The most that a killed run repeats, less the time of one step or of one block of validation.
    pub checkpoint_every: Duration,
    pub identity: Identity,
    /// Set from outside to stop after the step under way.
    pub stop: &'a AtomicBool,
}

/// A finished run.
pub struct Outcome {
    /// The adapter that validated best.
    pub adapter: Adapter,
    /// The epoch it followed, from 1.
    pub epoch: u32,
    /// The epochs that were trained.
    pub epochs: u32,
    /// The validation lists with its scores.
    pub validation: Vec<ScoredList>,
    pub steps: u64,
    pub seconds: f64,
}

impl Run<'_> {
    /// Whether there is something to learn.
    ///
    /// # Errors
    /// [`Error::Usage`] where no list teaches anything.
    pub fn check(&self) -> Result<()> {
        match self.train.iter().any(Example::teaches) {
            true => Ok(()),
            false => Err(Error::Usage(
                "no training list has two hypotheses with different errors: there is nothing to learn".into(),
            )),
        }
    }

    /// The steps of an epoch, from 0.
    fn plan(&self, epoch: u32) -> EpochPlan {
        let o = self.options;
        let weights = self.fixed_weights;
        plan_epoch(
            self.train,
            Draw { hyps: o.hyps, batch_tokens: o.batch_tokens, weights, seed: o.seed },
            epoch,
        )
    }

    /// Trains `adapter`, whose values `learner` has, from where `resumed` is, or from the start.
    ///
    /// # Errors
    /// [`Error::Usage`] where no list teaches anything, [`Error::Interrupted`] after `stop` was set and the
    /// state saved, [`Error::NotFinite`] where training diverged, [`Error::Io`] where a checkpoint cannot
    /// be written.
    pub fn train(
        &self,
        mut adapter: Adapter,
        learner: &mut dyn Learner,
        resumed: Option<State>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let o = self.options;
        self.check()?;
        let steps: u64 = (0..o.epochs).map(|epoch| self.plan(epoch).len() as u64).sum();
        if let Some(state) = &resumed {
            learner.restore(&state.values, &state.adamw);
        }
        let mut state = resumed.unwrap_or_else(|| State::start(&adapter, self.fit_head));
        observer.start(state.position.step, steps);
        let without_scores = with_scores(self.valid, &[]);
        let expected_without = total_expected_errors(&without_scores, &tune_weights(&without_scores, false));
        let mut clock =
            Clock { began: Instant::now(), before: state.position.seconds, saved: Instant::now() };
        if state.position.fitted.is_some() {
            self.fit(&self.plan(0), &adapter, learner, &mut state, &mut clock, observer)?;
        }
        while state.position.epoch < o.epochs && !self.out_of_patience(&state.position) {
            if !state.position.validating {
                self.epoch(
                    &self.plan(state.position.epoch),
                    steps,
                    learner,
                    &mut state,
                    &mut clock,
                    observer,
                )?;
            }
            observer.validation(self.validate(expected_without, learner, &mut state, &mut clock)?);
        }
        adapter.values = state.best;
        Ok(Outcome {
            adapter,
            epoch: state.position.best.map_or(0, |(_, epoch)| epoch),
            epochs: state.position.epoch,
            validation: with_scores(self.valid, &state.best_scores),
            steps,
            seconds: clock.seconds(),
        })
    }

    /// Whether as many validations in a row as are waited for were not the best.
    fn out_of_patience(&self, position: &Position) -> bool {
        let since = position.best.map_or(0, |(_, best)| position.epoch - best);
        self.options.patience.is_some_and(|patience| since >= patience)
    }

    /// Fits the classifier to the lists of the first steps of `plan` that are left.
    fn fit(
        &self,
        plan: &EpochPlan,
        adapter: &Adapter,
        learner: &mut dyn Learner,
        state: &mut State,
        clock: &mut Clock,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let classifier = adapter.layout.classifier();
        let hidden = classifier.len();
        let lists: usize = plan.iter().map(Vec::len).sum::<usize>().min(FIT_LISTS);
        let mut done = 0;
        for (step, samples) in plan.iter().enumerate() {
            if done >= lists {
                break;
            }
            done += samples.len();
            if state.position.fitted.is_some_and(|fitted| (step as u64) < fitted) {
                continue;
            }
            let batch = self.batch(samples);
            let features = learner.features(&batch.sequences)?;
            let of_list = |range: &Range<usize>| FitList {
                features: &features[range.start * hidden..range.end * hidden],
                offsets: &batch.offsets[range.clone()],
                errors: &batch.errors[range.clone()],
            };
            state.head_fit.add(hidden, &batch.utterances.iter().map(of_list).collect::<Vec<_>>());
            state.position.fitted = Some(step as u64 + 1);
            observer.fitting(done.min(lists), lists);
            if self.must_pause(clock) {
                self.pause(learner, state, clock)?;
            }
        }
        if let Some(weight) = state.head_fit.weight(hidden) {
            let beta = self.options.beta.initial() as f32;
            state.values[classifier].iter_mut().zip(weight).for_each(|(value, w)| *value = w / beta);
            state.best.clone_from(&state.values);
            learner.restore(&state.values, &state.adamw);
        }
        state.head_fit = HeadFit::default();
        state.position.fitted = None;
        Ok(())
    }

    /// The steps of an epoch that are left.
    fn epoch(
        &self,
        plan: &EpochPlan,
        steps: u64,
        learner: &mut dyn Learner,
        state: &mut State,
        clock: &mut Clock,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        // Tokens of the steps whose losses are not known yet.
        let mut untold = VecDeque::new();
        let mut told = state.position.step;
        let epoch = state.position.epoch + 1;
        let mut tell = |losses: Vec<Losses>, untold: &mut VecDeque<usize>, seconds: f64| {
            for losses in losses {
                told += 1;
                if !losses.gradient_norm.is_finite() {
                    return Err(diverged(&format!("step {told}: the gradient is not finite")));
                }
                let tokens = untold.pop_front().unwrap_or(0);
                let lr = f64::from(self.options.lr * lr_factor(told - 1, steps, self.options.warmup));
                observer.step(StepReport { epoch, step: told, steps, losses, tokens, lr, seconds });
            }
            Ok(())
        };
        while let Some(samples) = plan.get(state.position.step_in_epoch as usize) {
            let at = state.position.step;
            learner.step(&self.part(samples), at, lr_factor(at, steps, self.options.warmup))?;
            untold.push_back(self.tokens(samples).iter().sum());
            state.position.step += 1;
            state.position.step_in_epoch += 1;
            tell(learner.losses(false)?, &mut untold, clock.seconds())?;
            if self.must_pause(clock) {
                tell(learner.losses(true)?, &mut untold, clock.seconds())?;
                self.pause(learner, state, clock)?;
            }
        }
        tell(learner.losses(true)?, &mut untold, clock.seconds())?;
        state.position.validating = true;
        Ok(())
    }

    fn batch(&self, samples: &[Sample]) -> StepBatch {
        let mut batch = StepBatch::default();
        for sample in samples {
            let example = &self.train[sample.example];
            let first = batch.sequences.len();
            for &h in &sample.hypotheses {
                let hypothesis = &example.list.hypotheses[h];
                batch.sequences.push(example.tokens[h].clone());
                batch.offsets.push(self.fixed_weights.combined(&hypothesis.features));
                batch.errors.push(hypothesis.errors as u32);
            }
            batch.utterances.push(first..batch.sequences.len());
        }
        batch
    }

    /// What this process does of a step.
    fn part(&self, samples: &[Sample]) -> StepBatch {
        let tokens = self.tokens(samples);
        let share = self.team.share(&tokens);
        let part = Part {
            first_token: tokens[..share.start].iter().sum(),
            first_sequence: samples[..share.start].iter().map(|sample| sample.hypotheses.len()).sum(),
            utterances: samples.len(),
        };
        StepBatch { part: Some(part), ..self.batch(&samples[share]) }
    }

    /// Of each sample.
    fn tokens(&self, samples: &[Sample]) -> Vec<usize> {
        let of = |s: &Sample| s.hypotheses.iter().map(|&h| self.train[s.example].tokens[h].len()).sum();
        samples.iter().map(of).collect()
    }

    /// Scores the validation lists with the parameters as they are, and closes the epoch.
    fn validate(
        &self,
        expected_without: f64,
        learner: &mut dyn Learner,
        state: &mut State,
        clock: &mut Clock,
    ) -> Result<Validation> {
        let all: Vec<&[u32]> = self.valid.iter().flat_map(|e| e.tokens.iter().map(Vec::as_slice)).collect();
        while state.validated.len() < all.len() {
            let block = &all[state.validated.len()..];
            let block = &block[..block.len().min(VALIDATION_BLOCK)];
            let scores = learner.scores(block)?;
            if scores.iter().any(|score| !score.is_finite()) {
                let epoch = state.position.epoch + 1;
                return Err(diverged(&format!("validation after epoch {epoch}: a score is not finite")));
            }
            state.validated.extend(scores);
            if self.must_pause(clock) {
                self.pause(learner, state, clock)?;
            }
        }
        (state.values, state.adamw) = learner.snapshot()?;
        let lists = with_scores(self.valid, &state.validated);
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
        Ok(Validation {
            epoch: state.position.epoch,
            step: state.position.step,
            errors: total_errors(&lists, &chosen(&lists, &weights)),
            expected,
            expected_without,
            reference_units: lists.iter().map(|l| l.reference_units).sum(),
            best,
        })
    }

    /// Whether it is time to save, or to stop.
    fn must_pause(&self, clock: &Clock) -> bool {
        self.stop.load(Ordering::Relaxed) || clock.saved.elapsed() >= self.checkpoint_every
    }

    /// Saves, and stops where it was asked to.
    fn pause(&self, learner: &mut dyn Learner, state: &mut State, clock: &mut Clock) -> Result<()> {
        (state.values, state.adamw) = learner.snapshot()?;
        state.position.seconds = clock.seconds();
        if self.team.leads() {
            checkpoint::save(self.out, &self.identity, state)?;
        }
        clock.saved = Instant::now();
        if self.stop.load(Ordering::Relaxed) {
            // Of a team another process may not have been stopped.
            let saved = if self.team.leads() { ", saved in" } else { "; rank 0 saves in" };
            return Err(Error::Interrupted(format!(
                "stopped after step {}{saved} {}; the same command with --resume goes on from there",
                state.position.step,
                self.out.display()
            )));
        }
        Ok(())
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bert::Config;
    use crate::lora::{Layout, LoraConfig};
    use crate::ops::adamw::{Adamw, AdamwOptions};
    use crate::rescore::weights::Features;

    const LISTS: usize = 8;

    /// A list of which the first pass prefers the hypothesis with an error. Its tokens are its number and the
    /// hypothesis's.
    fn example(number: usize) -> Example {
        let scores = |first_pass, lm| Features { first_pass, lm, ..Features::default() };
        Example {
            tokens: vec![vec![number as u32, 0], vec![number as u32, 1]],
            ..Example::of(1, &[(scores(0.0, -2.0), 1), (scores(-1.0, -6.0), 0)])
        }
    }

    /// Known instead, where every score is to be NaN.
    const DIVERGED: usize = 0;

    /// Counts its steps in its values, and after each epoch knows so many lists' right hypotheses.
    struct Scripted<'a> {
        knows: &'a [usize],
        validations: usize,
        values: Vec<f32>,
        factors: Vec<f32>,
        offsets: Vec<Vec<f64>>,
    }

    impl Learner for Scripted<'_> {
        fn step(&mut self, batch: &StepBatch, step: u64, factor: f32) -> Result<()> {
            assert_eq!(step, self.factors.len() as u64);
            self.values.iter_mut().for_each(|value| *value += 1.0);
            self.factors.push(factor);
            self.offsets.push(batch.offsets.clone());
            Ok(())
        }

        fn losses(&mut self, _wait: bool) -> Result<Vec<Losses>> {
            Ok(Vec::new())
        }

        fn snapshot(&mut self) -> Result<(Vec<f32>, Adamw)> {
            Ok((self.values.clone(), Adamw::new(AdamwOptions::default(), self.values.len())))
        }

        fn restore(&mut self, values: &[f32], _adamw: &Adamw) {
            self.values = values.to_vec();
        }

        fn features(&mut self, _sequences: &[Vec<u32>]) -> Result<Vec<f32>> {
            Ok(Vec::new())
        }

        fn scores(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
            let known = self.knows[self.validations];
            self.validations += 1;
            let right = |tokens: &&[u32]| (tokens[0] < known as u32) == (tokens[1] == 1);
            let score =
                |tokens| if known == DIVERGED { f32::NAN } else { f32::from(u8::from(right(tokens))) };
            Ok(sequences.iter().map(score).collect())
        }
    }

    #[derive(Default)]
    struct Best(Vec<bool>);

    impl Observer for Best {
        fn start(&mut self, _done: u64, _steps: u64) {}
        fn fitting(&mut self, _done: usize, _lists: usize) {}
        fn step(&mut self, _report: StepReport) {}
        fn validation(&mut self, validation: Validation) {
            self.0.push(validation.best);
        }
    }

    /// Trains on lists that each are a step of their own, four an epoch.
    fn train(knows: &[usize], patience: Option<u32>) -> (Outcome, Scripted<'_>, Vec<bool>) {
        go_on(knows, patience, 0.0).unwrap()
    }

    pub fn adapter(pooler: bool, learned_beta: bool) -> Adapter {
        let lora = LoraConfig { rank: 1, ..LoraConfig::default() };
        let layout = Layout::new(&Config::tiny(), &lora, pooler, learned_beta);
        let values = vec![0.0; layout.len()];
        Adapter { config: lora, layout, values, classifier_bias: 0.0, base_name: String::new() }
    }

    /// The same, from a checkpoint before the first step, after so many seconds.
    fn go_on(
        knows: &[usize],
        patience: Option<u32>,
        seconds: f64,
    ) -> Result<(Outcome, Scripted<'_>, Vec<bool>)> {
        let adapter = adapter(false, false);
        let values = adapter.values.clone();
        let options =
            TrainOptions { epochs: knows.len() as u32, patience, batch_tokens: 4, ..TrainOptions::default() };
        let (examples, out) =
            ((0..LISTS).map(example).collect::<Vec<Example>>(), tempfile::tempdir().unwrap());
        let run = Run {
            options: &options,
            fit_head: false,
            fixed_weights: Weights { first_pass: 0.5, lm: 0.25, ..Weights::default() },
            train: &examples[..4],
            valid: &examples,
            team: &Team::default(),
            out: out.path(),
            checkpoint_every: Duration::from_secs(3600),
            identity: Identity {
                options: serde_json::Value::Null,
                data: String::new(),
                start: String::new(),
                instruction_set: String::new(),
            },
            stop: &AtomicBool::new(false),
        };
        let mut learner =
            Scripted { knows, validations: 0, values, factors: Vec::new(), offsets: Vec::new() };
        let mut best = Best::default();
        let mut state = State::start(&adapter, false);
        state.position.seconds = seconds;
        let outcome = run.train(adapter, &mut learner, Some(state), &mut best)?;
        Ok((outcome, learner, best.0))
    }

    #[test]
    fn the_first_epoch_that_validated_best_is_kept() {
        let (outcome, learner, best) = train(&[6, 8, 7, 8], None);
        assert_eq!((outcome.epoch, outcome.epochs, outcome.steps), (2, 4, 16));
        assert_eq!(best, [true, true, false, false]);
        assert_eq!((outcome.adapter.values[0], learner.values[0]), (8.0, 16.0));
        let right = |list: &ScoredList| list.hypotheses[1].features.lorb > list.hypotheses[0].features.lorb;
        assert!(outcome.validation.iter().all(right), "its scores are those of another epoch");
    }

    #[test]
    fn scores_that_are_not_finite_end_the_run() {
        for knows in [&[DIVERGED, 8][..], &[6, DIVERGED]] {
            let error = go_on(knows, None, 0.0).err().unwrap();
            let epoch = 1 + knows.iter().position(|&known| known == DIVERGED).unwrap();
            let expected =
                format!("validation after epoch {epoch}: a score is not finite: training diverged");
            assert!(matches!(&error, Error::NotFinite(said) if said.starts_with(&expected)), "{error}");
        }
    }

    #[test]
    fn patience_waits_for_so_many_that_were_not_the_best() {
        let epochs = |patience| train(&[6, 8, 7, 7, 7, 7], patience).0.epochs;
        assert_eq!([Some(1), Some(2), Some(9), None].map(epochs), [3, 4, 6, 6]);
    }

    #[test]
    fn the_rate_follows_its_schedule_over_all_epochs() {
        let (_, learner, _) = train(&[6, 8], None);
        let expected: Vec<f32> =
            (0..8).map(|step| lr_factor(step, 8, TrainOptions::default().warmup)).collect();
        assert_eq!(learner.factors, expected);
    }

    #[test]
    fn the_time_of_earlier_processes_counts() {
        assert!((1000.0..1100.0).contains(&go_on(&[8], None, 1000.0).unwrap().0.seconds));
    }

    #[test]
    fn the_loss_has_the_scores_that_are_not_trained() {
        let (_, learner, _) = train(&[8], None);
        assert_eq!(learner.offsets, vec![vec![-0.5, -2.0]; 4]);
    }
}
