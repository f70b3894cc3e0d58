//! A job whose files were read: trained, and the result written.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use super::base::Base;
use super::checkpoint::{self, State};
use super::cross_fit;
use super::examples::{Example, with_scores};
use super::identity::Identity;
use super::job::Job;
use super::metrics::{Finished, Lists, Metrics, Setting};
use super::model_card::ModelCard;
use super::summary::SetSummary;
use super::{Observer, Outcome, Run, TrainOptions};
use crate::Result;
use crate::card::Card;
use crate::lora::{Adapter, Group};
use crate::nbest::Fields;
use crate::nbest::normalise::{NormaliseOptions, Unit};
use crate::nbest::sample::Sample;
use crate::ops::adamw::{Adamw, AdamwOptions};
use crate::rescore::confidence::fit_confidence_scale;
use crate::rescore::ngram::{DomainModel, Ngram};
use crate::rescore::tune::{ScoredList, tune_weights};
use crate::rescore::weights::{RescoringFile, TunedOn, Weights};

/// A [`Job`] whose files were read.
pub struct Prepared<'b> {
    pub(super) job: Job,
    pub base: &'b Base,
    /// As training starts.
    pub adapter: Adapter,
    pub train: Vec<Example>,
    pub valid: Vec<Example>,
    /// Held out.
    pub test: Vec<Example>,
    /// The recipe, with what was chosen by the number of lists.
    pub options: TrainOptions,
    /// Of the scores that are not trained, in the loss.
    pub fixed_weights: Weights,
    /// Of the training references, where it serves.
    pub domain_model: Option<DomainModel>,
    pub(super) fit_head: bool,
    pub(super) fields: Fields,
    pub(super) normalise: NormaliseOptions,
    pub(super) unit: Unit,
    /// With what the adapter was trained on that training starts from.
    pub(super) trained_on: Sample,
    pub(super) identity: Identity,
}

/// A finished run, whose adapter is saved.
pub struct Trained {
    pub adapter: Adapter,
    pub result: Finished,
}

impl Prepared<'_> {
    /// Trains, and writes the metrics, the adapter with its card and the weights; `None` where `out` holds the result
    /// already.
    ///
    /// # Errors
    /// As for [`Run::train`], and [`Error::Io`](crate::Error::Io) where a file cannot be written.
    pub fn train(&self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Option<Trained>> {
        let (out, options) = (&self.job.out, &self.options);
        let resumed = if self.job.resume { checkpoint::load(out, &self.identity)? } else { None };
        if self.job.resume && resumed.is_none() && checkpoint::is_finished(out, &self.identity)? {
            return Ok(None);
        }
        let team = &self.job.team;
        let run = Run {
            options,
            fit_head: self.fit_head,
            fixed_weights: self.fixed_weights,
            train: &self.train,
            valid: &self.valid,
            team,
            out,
            checkpoint_every: self.job.checkpoint_every,
            identity: self.identity.clone(),
            stop,
        };
        // Before anything is written: all have read what was there, and there is something to learn.
        run.check()?;
        team.agree(&self.of_all(resumed.as_ref()))?;
        if team.leads() && resumed.is_none() {
            checkpoint::begin(out)?;
        }
        let position = resumed.as_ref().map(|s| &s.position);
        let mut metrics = team.leads().then(|| Metrics::open(out, &self.setting(), position)).transpose()?;
        let mut both;
        let observer: &mut dyn Observer = match &mut metrics {
            Some(metrics) => {
                both = (metrics, observer);
                &mut both
            }
            None => observer,
        };
        let mut learner = self.base.learner(options, self.adapter.clone(), team)?;
        let outcome = run.train(self.adapter.clone(), &mut *learner, resumed, observer)?;
        let values = &outcome.adapter.values;
        learner.restore(values, &Adamw::new(AdamwOptions::default(), values.len()));
        let held_out: Vec<&[u32]> =
            self.test.iter().flat_map(|e| e.tokens.iter().map(Vec::as_slice)).collect();
        let held_out = if held_out.is_empty() { Vec::new() } else { learner.scores(&held_out)? };
        let Outcome { adapter, epoch, epochs, validation, seconds, .. } = outcome;

        let validation = self.with_ngram(&self.valid, validation);
        let weights = tune_weights(&validation, true);
        let weights_without_lorb = tune_weights(&validation, false);
        let summary = |name: &str, examples: &[Example], lists| {
            SetSummary::new(name, examples, lists, &weights_without_lorb, &weights)
        };
        let mut sets = vec![summary(SetSummary::VALIDATION, &self.valid, &validation)];
        if !self.test.is_empty() {
            let lists = self.with_ngram(&self.test, with_scores(&self.test, &held_out));
            sets.push(summary(SetSummary::HELD_OUT, &self.test, &lists));
        }
        let result = Finished { epoch, epochs, seconds, weights, weights_without_lorb, sets };
        if let Some(metrics) = metrics {
            self.save(&adapter, &validation, &result, metrics)?;
        }
        Ok(Some(Trained { adapter, result }))
    }

    /// Writes everything about a finished run.
    fn save(
        &self,
        adapter: &Adapter,
        validation: &[ScoredList],
        result: &Finished,
        metrics: Metrics,
    ) -> Result<()> {
        let (out, options, model) = (&self.job.out, &self.options, &self.base.model);
        let weights = result.weights;
        adapter.save(out)?;
        let beta = adapter.beta().map_or(options.beta.initial(), f64::from);
        let card = Card {
            base: model.name.clone(),
            fingerprint: model.checkpoint.fingerprint(&model.config)?,
            fields: self.fields.clone(),
            normalise: self.normalise.clone(),
            unit: self.unit,
            training_weights: Weights { lorb: beta, ..self.fixed_weights },
            trained_on: self.trained_on.clone(),
        };
        card.save(out)?;
        let utterances = self.valid.len() as u64;
        let domain_model = self.domain_model.as_ref().filter(|_| weights.ngram > 0.0);
        match domain_model {
            Some(domain) => domain.ngram.save(out)?,
            None => Ngram::remove(out)?,
        }
        let rescoring = RescoringFile {
            weights,
            confidence_scale: fit_confidence_scale(validation, &weights),
            fields: self.fields.clone(),
            normalise: self.normalise.clone(),
            unit: self.unit,
            ngram: domain_model.map(|domain| domain.familiarity),
            tuned_on: vec![TunedOn { list: self.validation_name(), utterances }],
        };
        rescoring.save(out)?;
        metrics.finish(result.clone())?;
        let model_card = ModelCard {
            base: &model.name,
            id: self.base.id(),
            embedded: self.job.is_embedded(),
            parameters: self.parameters(),
            train: &self.job.train,
            test: &self.job.test,
            validation: self.validation_name(),
            utterances: [&self.train, &self.valid, &self.test].map(Vec::len),
            weights: &weights,
            sets: &result.sets,
            options: &self.identity.options,
            epochs: [result.epoch, options.epochs],
            command: self.job.command.as_deref(),
        };
        model_card.save(out)?;
        // Whoever is killed before this goes on with --resume, and writes everything again.
        checkpoint::finish(out, &self.identity)
    }

    /// What must be the same in the whole team, by name.
    fn of_all(&self, resumed: Option<&State>) -> [(&'static str, String); 5] {
        let Identity { options, data, start, instruction_set } = &self.identity;
        let state = resumed.map(|state| (&state.position, &state.values));
        [
            // Before the recipe, of which a part is chosen by the lists.
            ("lists", data.clone()),
            ("recipe", options.to_string()),
            ("base, or adapter to start from", start.clone()),
            ("instruction set", instruction_set.clone()),
            ("checkpoint in --out", format!("{state:?}")),
        ]
    }

    /// `lists`, which are those of `examples`, with the scores of the n-gram model, where it serves.
    fn with_ngram(&self, examples: &[Example], mut lists: Vec<ScoredList>) -> Vec<ScoredList> {
        if let Some(domain) = &self.domain_model {
            cross_fit::score(domain, examples, &mut lists, self.unit);
        }
        lists
    }

    fn validation_name(&self) -> String {
        self.job.valid.describe(self.options.seed)
    }

    /// The adapter's folder.
    pub fn out(&self) -> &Path {
        &self.job.out
    }

    /// The trained parameters, apart by what they are, and their share of the base's.
    pub fn parameters(&self) -> String {
        let (adapter, base) = (&self.adapter, self.base.model.parameters());
        let line = |group: Group, name: &str| {
            let count = adapter.layout.count(group);
            (count > 0).then(|| format!("{name} {count} ({:.3} %)", 100.0 * count as f64 / base as f64))
        };
        let groups = [
            line(Group::Lora, "LoRA"),
            line(Group::Head, "head"),
            line(
                Group::Pooler,
                if self.options.fresh_pooler { "fresh pooler" } else { "pooler, which the base lacks," },
            ),
        ];
        let total = adapter.layout.of_network();
        format!(
            "{total} of the base's {base} parameters ({:.3} %): {}",
            100.0 * total as f64 / base as f64,
            groups.into_iter().flatten().collect::<Vec<_>>().join(", ")
        )
    }

    /// What the metrics say first.
    fn setting(&self) -> Setting {
        let Base { model, device, .. } = self.base;
        let names = |paths: &[PathBuf]| {
            let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            if names.is_empty() { "embedded".into() } else { names.join(", ") }
        };
        let lists = |role: &str, name: String, examples: &[Example]| Lists {
            role: role.into(),
            name,
            utterances: examples.len(),
            hypotheses: examples.iter().map(|e| e.tokens.len()).sum(),
        };
        let held_out =
            (!self.test.is_empty()).then(|| lists(SetSummary::HELD_OUT, names(&self.job.test), &self.test));
        let (train, valid) = (names(&self.job.train), self.validation_name());
        Setting {
            version: env!("CARGO_PKG_VERSION").into(),
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: self.job.command.clone(),
            device: device.name(),
            instruction_set: device.description(),
            threads: rayon::current_num_threads(),
            base: model.name.clone(),
            base_parameters: model.parameters(),
            trained_parameters: self.adapter.layout.of_network(),
            options: self.identity.options.clone(),
            unit: self.unit,
            lists: [lists("training", train, &self.train), lists(SetSummary::VALIDATION, valid, &self.valid)]
                .into_iter()
                .chain(held_out)
                .collect(),
        }
    }
}
