//! A training run as users ask for it, from the paths of its lists to the files of its adapter: what the command line
//! and the Python package share.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::base::Base;
use super::checkpoint::{self, Identity};
use super::cross_fit::{check_order, cross_fit};
use super::examples::{Example, Preparation, Texts, digest, first_pass_weight, split};
use super::pace::Pace;
use super::prepared::Prepared;
use super::team::Team;
use super::{Beta, TrainOptions};
use crate::card::{Card, open_adapter};
use crate::hub::Found;
use crate::lora::adapter::has_classifier;
use crate::lora::{Adapter, LoraConfig};
use crate::model::BaseModel;
use crate::nbest::normalise::Normaliser;
use crate::rescore::settings::ListOptions;
use crate::rescore::weights::Weights;
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
        if let Some(file) = self.test.iter().find(|test| atomic::is_same(test, &valid)) {
            let file = file.display();
            return Err(Error::Usage(format!(
                "--test {file}: --valid has these lists to choose on: give others"
            )));
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

    pub(super) fn validation_name(&self) -> String {
        match self.valid.parse::<f64>() {
            Ok(fraction) => format!("{fraction} of the training lists, seed {}", self.options.seed),
            Err(_) => self.valid.clone(),
        }
    }
}

/// A digest of the base and of the adapter that training starts from. Of the base's weights it covers the fingerprint
/// alone, since to read all would cost each start seconds.
fn digest_start(model: &BaseModel, adapter: &Adapter) -> Result<String> {
    let mut hash = Sha256::new();
    let fingerprint = model.checkpoint.fingerprint(&model.config)?;
    hash.update(json!([fingerprint, model.config, adapter.config.scale()]).to_string());
    hash.update(bytemuck::cast_slice::<f32, u8>(&adapter.values));
    Ok(hex(&hash.finalize()))
}
