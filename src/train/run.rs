//! The loop of a run.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::checkpoint::State;
use super::examples::Example;
use super::identity::Identity;
use super::learner::Learner;
use super::options::TrainOptions;
use super::progress::Observer;
use super::sampling::{Draw, EpochPlan, plan_epoch};
use super::team::Team;
use super::under_way::UnderWay;
use crate::lora::Adapter;
use crate::rescore::tune::ScoredList;
use crate::rescore::weights::Weights;
use crate::{Error, Result};

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
    pub(super) fn plan(&self, epoch: u32) -> EpochPlan {
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
        adapter: Adapter,
        learner: &mut dyn Learner,
        resumed: Option<State>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        self.check()?;
        let mut under_way = UnderWay::new(self, &adapter, learner, resumed, observer);
        under_way.fit(adapter.layout.classifier())?;
        while under_way.has_more() {
            under_way.epoch()?;
            under_way.validate()?;
        }
        Ok(under_way.end(adapter))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bert::Config;
    use crate::lora::{Layout, LoraConfig};
    use crate::ops::adamw::{Adamw, AdamwOptions};
    use crate::rescore::weights::Features;
    use crate::train::batch::StepBatch;
    use crate::train::schedule::{WARMUP, lr_factor};
    use crate::train::{Losses, StepReport, Validation};

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
        unread: Vec<Losses>,
    }

    impl Learner for Scripted<'_> {
        fn step(&mut self, batch: &StepBatch, step: u64, factor: f32) -> Result<()> {
            assert_eq!(step, self.factors.len() as u64);
            self.values.iter_mut().for_each(|value| *value += 1.0);
            self.factors.push(factor);
            self.offsets.push(batch.offsets.clone());
            let mwer = step as f64;
            self.unread.push(Losses { mwer, mwer_without: 0.0, correlation: 0.0, gradient_norm: 1.0 });
            Ok(())
        }

        fn losses(&mut self, wait: bool) -> Result<Vec<Losses>> {
            let known = if wait || self.unread.len() > 2 { self.unread.len() } else { 0 };
            Ok(self.unread.drain(..known).collect())
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

    /// What it is told: of each step its losses, and of each validation whether it is the best.
    #[derive(Default)]
    struct Told {
        steps: Vec<StepReport>,
        best: Vec<bool>,
    }

    impl Observer for Told {
        fn step(&mut self, report: StepReport) {
            self.steps.push(report);
        }

        fn validation(&mut self, validation: Validation) {
            self.best.push(validation.best);
        }
    }

    /// Trains on lists that each are a step of their own, four an epoch.
    fn train(knows: &[usize], patience: Option<u32>) -> (Outcome, Scripted<'_>, Told) {
        go_on(knows, patience, 0.0).unwrap()
    }

    pub fn adapter(pooler: bool, learned_beta: bool) -> Adapter {
        let lora = LoraConfig { rank: 1, ..LoraConfig::default() };
        let layout = Layout::new(&Config::tiny(), &lora, pooler, learned_beta);
        let values = vec![0.0; layout.len()];
        Adapter { config: lora, layout, values, classifier_bias: 0.0, base_name: String::new() }
    }

    /// The same, from a checkpoint before the first step, after so many seconds.
    fn go_on(knows: &[usize], patience: Option<u32>, seconds: f64) -> Result<(Outcome, Scripted<'_>, Told)> {
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
        let (factors, offsets, unread) = Default::default();
        let mut learner = Scripted { knows, validations: 0, values, factors, offsets, unread };
        let mut told = Told::default();
        let mut state = State::start(&adapter, false);
        state.position.seconds = seconds;
        let outcome = run.train(adapter, &mut learner, Some(state), &mut told)?;
        Ok((outcome, learner, told))
    }

    #[test]
    fn the_first_epoch_that_validated_best_is_kept() {
        let (outcome, learner, told) = train(&[6, 8, 7, 8], None);
        assert_eq!((outcome.epoch, outcome.epochs, learner.factors.len()), (2, 4, 16));
        assert_eq!(told.best, [true, true, false, false]);
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
        let expected: Vec<f32> = (0..8).map(|step| lr_factor(step, 8, WARMUP)).collect();
        assert_eq!(learner.factors, expected);
    }

    #[test]
    fn the_time_of_earlier_processes_counts() {
        assert!((1000.0..1100.0).contains(&go_on(&[8], None, 1000.0).unwrap().0.seconds));
    }

    #[test]
    fn each_step_is_told_of_once_its_losses_are_known() {
        let steps = train(&[6, 8], None).2.steps;
        let facts: Vec<_> = steps.iter().map(|s| (s.epoch, s.step, s.losses.mwer, s.tokens)).collect();
        let of_step = |step: u64| (1 + (step / 4) as u32, step + 1, step as f64, 4);
        assert_eq!(facts, (0..8).map(of_step).collect::<Vec<_>>());
        let rate = f64::from(TrainOptions::default().lr * lr_factor(7, 8, WARMUP));
        assert_eq!((steps[7].steps, steps[7].lr), (8, rate));
    }

    #[test]
    fn the_loss_has_the_scores_that_are_not_trained() {
        let (_, learner, _) = train(&[8], None);
        assert_eq!(learner.offsets, vec![vec![-0.5, -2.0]; 4]);
    }
}
