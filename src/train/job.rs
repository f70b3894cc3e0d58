//! A training run as users ask for it, from the paths of its lists to the files of its adapter: what the command line
//! and the Python package share.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::base::Base;
use super::checkpoint::{self, Identity, State};
use super::cross_fit::{self, check_order, cross_fit};
use super::examples::{Example, Preparation, Texts, digest, first_pass_weight, split};
use super::metrics::{Finished, Lists, Metrics, Setting};
use super::model_card::ModelCard;
use super::pace::Pace;
use super::summary::SetSummary;
use super::team::Team;
use super::{Beta, Observer, Outcome, Run, TrainOptions, with_scores};
use crate::card::{Card, open_adapter};
use crate::hub::Found;
use crate::lora::adapter::has_classifier;
use crate::lora::{Adapter, Group, LoraConfig};
use crate::model::BaseModel;
use crate::nbest::jsonl::Fields;
use crate::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use crate::ops::adamw::{Adamw, AdamwOptions};
use crate::rescore::confidence::fit_confidence_scale;
use crate::rescore::ngram::{DomainModel, Ngram};
use crate::rescore::settings::ListOptions;
use crate::rescore::tune::{ScoredList, tune_weights};
use crate::rescore::weights::{RescoringFile, TunedOn, Weights};
use crate::text::{hex, plain};
use crate::{Error, Result, atomic, builtin};

/// What is to be trained, on what, and where it goes.
#[derive(Clone)]
pub struct Job {
    /// Without any, with the embedded base: the embedded lists.
    pub train: Vec<PathBuf>,
    /// Lists to choose the best epoch and the weights on, or the fraction of `train` kept for that.
    pub valid: String,
    /// Held-out lists; without any, beside the embedded lists: those that are embedded too.
    pub test: Vec<PathBuf>,
    /// The adapter's folder.
    pub out: PathBuf,
    /// Go on with the unfinished run that `out` holds, or start if it holds none.
    pub resume: bool,
    /// Start from this adapter; its rank, alpha and targets apply.
    pub init_adapter: Option<Found>,
    /// The order of the n-gram model of the training references, [`NGRAM_ORDER`](Self::NGRAM_ORDER) by default; 0 for
    /// none.
    pub ngram_order: usize,
    /// Train a fresh pooler instead of keeping the base's.
    pub fresh_pooler: bool,
    /// Instead of what `options` say of the same: what is `None` here is chosen by the number of lists.
    pub pace: Pace,
    pub checkpoint_every: Duration,
    pub options: TrainOptions,
    pub lists: ListOptions,
    /// What was typed to ask for it, where anything was: the metrics and the model card keep it.
    pub command: Option<String>,
    /// Who trains with this process. All get the same result, and the one that leads writes it.
    pub team: Team,
}

/// A [`Job`] whose files were read.
pub struct Prepared<'b> {
    job: Job,
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
    fit_head: bool,
    fields: Fields,
    normalise: NormaliseOptions,
    unit: Unit,
    identity: Identity,
}

/// A finished run, whose adapter is saved.
pub struct Trained {
    pub adapter: Adapter,
    pub result: Finished,
}

impl Job {
    /// A few hundred references say little of longer n-grams.
    pub const NGRAM_ORDER: usize = 3;

    /// Reads the lists and makes `out`.
    ///
    /// # Errors
    /// [`Error::Usage`] where options contradict each other or what `out` holds, and whatever is wrong with a file.
    pub fn prepare(self, base: &Base) -> Result<Prepared<'_>> {
        let mut options = self.options.clone();
        options.check()?;
        if self.team.size() > 1 && options.correlation_weight > 0.0 {
            return Err(Error::Usage(
                "--corr-weight: the correlation of a step's features is no sum over the parts of a team: give 0"
                    .into(),
            ));
        }
        let model = &base.model;
        let embedded = self.train.is_empty();
        check_order(self.ngram_order)?;
        self.check_paths()?;
        if embedded && model.dir.is_some() {
            return Err(Error::Usage("give lists to train on with --train FILE".into()));
        }
        let initial = self.init_adapter.as_ref().map(|found| open_adapter(&found.dir, model)).transpose()?;
        let card = initial.as_ref().and_then(|(_, card)| card.as_ref());
        let (fields, normalise, unit) = self.lists.over(card.map(|c| (&c.fields, &c.normalise, c.unit)));
        let normaliser = Normaliser::new(&normalise)?;
        let preparation = Preparation {
            fields: &fields,
            reading: &self.lists.reading,
            normaliser: &normaliser,
            unit,
            tokenizer: &model.tokenizer,
            max_tokens: model.config.max_positions,
        };
        self.open_out()?;
        let train = match embedded {
            true => preparation.read_list(builtin::training_lists(&fields)?)?,
            false => preparation.read(&self.train)?,
        };
        let test = match embedded && self.test.is_empty() {
            true => preparation.read_list(builtin::held_out_lists(&fields)?)?,
            false => preparation.read(&self.test)?,
        };
        let (mut train, valid) = self.keep_for_validation(train, &preparation)?;
        let data = digest(&[&train, &valid, &test]);
        let domain_model = cross_fit(self.ngram_order, unit, &train);
        // Nobody will read them.
        train.iter_mut().for_each(|e| e.texts = Texts::default());
        let chosen = if embedded { Pace::EMBEDDED } else { Pace::of(&train) };
        self.pace.or(chosen).set(&mut options);

        let adapter = self.start(base, initial, &options)?;
        // Features of a pooler drawn at random say too little: on the embedded lists a fit to them lost WER.
        let fit_head = self.init_adapter.is_none()
            && adapter.layout.pooler().is_none()
            && !has_classifier(&model.config, &model.checkpoint);
        let w_a = options.first_pass_weight.unwrap_or_else(|| first_pass_weight(&train, options.lm_weight));
        let fixed_weights = Weights { first_pass: w_a, lm: w_a * options.lm_weight, ..Weights::default() };
        let identity = Identity {
            options: self.identity_options(&options, &adapter.config, w_a),
            data,
            start: digest_start(model, &adapter)?,
            instruction_set: base.device.description(),
        };
        Ok(Prepared {
            job: self,
            base,
            adapter,
            train,
            valid,
            test,
            options,
            fixed_weights,
            domain_model,
            fit_head,
            fields,
            normalise,
            unit,
            identity,
        })
    }

    /// Makes the adapter's folder, where it holds no unfinished run that this one does not go on with.
    fn open_out(&self) -> Result<()> {
        atomic::ensure_directory(&self.out)?;
        if self.team.leads() {
            checkpoint::sweep(&self.out)?;
        }
        if !self.resume && checkpoint::exists(&self.out)? {
            return Err(Error::Usage(format!(
                "{} holds an unfinished run: go on with --resume, or give another --out",
                self.out.display()
            )));
        }
        Ok(())
    }

    /// The adapter as training starts: `initial`, or a fresh one.
    fn start(
        &self,
        base: &Base,
        initial: Option<(Adapter, Option<Card>)>,
        options: &TrainOptions,
    ) -> Result<Adapter> {
        let BaseModel { config, checkpoint, .. } = &base.model;
        let mut beta = options.beta.initial();
        let mut adapter = match initial {
            Some((adapter, card)) => {
                beta = card.map_or(beta, |c| c.training_weights.lorb);
                adapter
            }
            None => {
                let lora = options.lora.clone();
                let mut adapter = Adapter::initialise(config, checkpoint, lora, None, options.seed)?;
                if let Some(id) = base.id() {
                    // PEFT finds it there too.
                    adapter.base_name.clone_from(&id.repository);
                }
                adapter
            }
        };
        if self.fresh_pooler {
            adapter = adapter.with_fresh_pooler(config, options.seed);
        }
        if let Beta::Learned(_) = options.beta {
            adapter = adapter.learn_beta(config, beta as f32)?;
        }
        adapter.config.dropout = options.lora.dropout;
        Ok(adapter)
    }

    /// Refuses to write over the adapter that training starts from, and to choose or measure on what is trained on.
    fn check_paths(&self) -> Result<()> {
        let out = self.out.display();
        if self.init_adapter.as_ref().is_some_and(|start| atomic::is_same(&start.dir, &self.out)) {
            return Err(Error::Usage(format!(
                "--out {out} is the adapter that training starts from: give another --out"
            )));
        }
        let valid = PathBuf::from(&self.valid);
        let kept = self.test.iter().map(|file| ("--test", file)).chain([("--valid", &valid)]);
        for (option, file) in kept {
            if self.train.iter().any(|train| atomic::is_same(train, file)) {
                let file = file.display();
                return Err(Error::Usage(format!(
                    "{option} {file}: these lists are trained on: give others"
                )));
            }
        }
        Ok(())
    }

    /// What the result depends on, by the option's name.
    fn identity_options(&self, o: &TrainOptions, lora: &LoraConfig, w_a: f64) -> serde_json::Value {
        json!({
            "rank": lora.rank,
            "alpha": plain(lora.alpha),
            "targets": lora.targets.to_string(),
            "dropout": plain(lora.dropout),
            "lr": plain(o.lr),
            "head-lr": plain(o.head_lr),
            "weight-decay": plain(o.weight_decay),
            "epochs": o.epochs,
            "hyps": o.hyps,
            "batch-tokens": o.batch_tokens,
            "beta": o.beta,
            "first-pass-weight": w_a,
            "lm-weight": o.lm_weight,
            "ngram-order": self.ngram_order,
            "corr-weight": o.correlation_weight,
            "seed": o.seed,
            "patience": o.patience,
            "fresh-pooler": self.fresh_pooler,
            "threads": rayon::current_num_threads(),
            "team": self.team.size(),
        })
    }

    /// The lists to train on and those to validate on.
    fn keep_for_validation(
        &self,
        train: Vec<Example>,
        preparation: &Preparation<'_>,
    ) -> Result<(Vec<Example>, Vec<Example>)> {
        match self.valid.parse::<f64>() {
            Ok(fraction) if fraction > 0.0 && fraction < 1.0 && train.len() > 1 => {
                Ok(split(train, fraction, self.options.seed))
            }
            Ok(fraction) => Err(Error::Usage(format!(
                "--valid {fraction}: expected a list file, or a fraction between 0 and 1 of at least two \
                 utterances"
            ))),
            Err(_) => Ok((train, preparation.read(&[PathBuf::from(&self.valid)])?)),
        }
    }

    fn validation_name(&self) -> String {
        match self.valid.parse::<f64>() {
            Ok(fraction) => format!("{fraction} of the training lists, seed {}", self.options.seed),
            Err(_) => self.valid.clone(),
        }
    }
}

impl Prepared<'_> {
    /// Trains, and writes the metrics, the adapter with its card and the weights; `None` where `out` holds the result
    /// already.
    ///
    /// # Errors
    /// As for [`Run::train`], and [`Error::Io`] where a file cannot be written.
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
            tuned_on: vec![TunedOn { list: self.job.validation_name(), utterances }],
        };
        rescoring.save(out)?;
        metrics.finish(result.clone())?;
        let model_card = ModelCard {
            base: &model.name,
            id: self.base.id(),
            embedded: self.job.train.is_empty(),
            parameters: self.parameters(),
            train: &self.job.train,
            test: &self.job.test,
            validation: self.job.validation_name(),
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
                if self.job.fresh_pooler { "fresh pooler" } else { "pooler, which the base lacks," },
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
        let (train, valid) = (names(&self.job.train), self.job.validation_name());
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

/// A digest of the base and of the parameters that training starts from.
fn digest_start(model: &BaseModel, adapter: &Adapter) -> Result<String> {
    let mut hash = Sha256::new();
    let fingerprint = model.checkpoint.fingerprint(&model.config)?;
    hash.update(json!(fingerprint).to_string());
    hash.update(bytemuck::cast_slice::<f32, u8>(&adapter.values));
    Ok(hex(&hash.finalize()))
}
