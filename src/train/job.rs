//! A training run as users ask for it, from the paths of its lists to the files of its adapter: what the command line
//! and the Python package share.

use std::path::PathBuf;
use std::time::Duration;

use super::base::Base;
use super::checkpoint;
use super::cross_fit::cross_fit;
use super::examples::{Example, Preparation, Texts, first_pass_weight, split};
use super::identity::{self, Identity};
use super::prepared::Prepared;
use super::team::Team;
use super::{Asked, Beta, TrainOptions, ValidationLists};
use crate::card::{Card, open_adapter};
use crate::hub::Found;
use crate::lora::Adapter;
use crate::lora::adapter::has_classifier;
use crate::model::BaseModel;
use crate::nbest::normalise::Normaliser;
use crate::rescore::settings::ListOptions;
use crate::rescore::weights::Weights;
use crate::{Error, Result, atomic, builtin};

/// What is to be trained, on what, and where it goes.
#[derive(Clone)]
pub struct Job {
    /// Without any, with the embedded base: the embedded lists.
    pub train: Vec<PathBuf>,
    pub valid: ValidationLists,
    /// Held-out lists; without any, beside the embedded lists: those that are embedded too.
    pub test: Vec<PathBuf>,
    /// The adapter's folder.
    pub out: PathBuf,
    /// Go on with the unfinished run that `out` holds, or start if it holds none.
    pub resume: bool,
    /// Start from this adapter; its rank, alpha and targets apply.
    pub init_adapter: Option<Found>,
    /// The recipe, as far as it is not chosen by the number of lists.
    pub asked: Asked,
    pub checkpoint_every: Duration,
    pub lists: ListOptions,
    /// What was typed to ask for it, where anything was: the metrics and the model card keep it.
    pub command: Option<String>,
    /// Who trains with this process. All get the same result, and the one that leads writes it.
    pub team: Team,
}

impl Job {
    /// Reads the lists and makes `out`.
    ///
    /// # Errors
    /// [`Error::Usage`] where options contradict each other or what `out` holds, and whatever is wrong with a file.
    pub fn prepare(self, base: &Base) -> Result<Prepared<'_>> {
        let model = &base.model;
        self.check(model)?;
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
        let [mut train, valid, test] = self.read(&preparation)?;
        let mut trained_on = card.map(|card| card.trained_on.clone()).unwrap_or_default();
        train.iter().for_each(|e| trained_on.add(&e.id, &e.texts.reference));
        let options = self.asked.over(match self.is_embedded() {
            true => TrainOptions::for_embedded(),
            false => TrainOptions::for_examples(&train),
        });
        let data = identity::lists(&[&train, &valid, &test]);
        let domain_model = cross_fit(options.ngram_order, unit, &train);
        // Nobody will read them.
        train.iter_mut().for_each(|e| e.texts = Texts::default());

        let adapter = self.start(base, initial, &options)?;
        // Features of a pooler drawn at random say too little: on the embedded lists a fit to them lost WER.
        let fit_head = self.init_adapter.is_none()
            && adapter.layout.pooler().is_none()
            && !has_classifier(&model.config, &model.checkpoint);
        let w_a = options.first_pass_weight.unwrap_or_else(|| first_pass_weight(&train, options.lm_weight));
        let fixed_weights = Weights { first_pass: w_a, lm: w_a * options.lm_weight, ..Weights::default() };
        let identity = Identity {
            options: identity::recipe(&options, &adapter.config, w_a, self.team.size()),
            data,
            start: identity::start(model, &adapter)?,
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
            trained_on,
            identity,
        })
    }

    /// Whether the lists to train on are those that are embedded.
    pub(super) fn is_embedded(&self) -> bool {
        self.train.is_empty()
    }

    /// Refuses what contradicts itself, before anything is read.
    fn check(&self, model: &BaseModel) -> Result<()> {
        self.asked.check(self.init_adapter.is_some())?;
        if self.team.size() > 1 && self.asked.corr_weight.is_some_and(|weight| weight > 0.0) {
            return Err(Error::Usage(
                "--corr-weight: the correlation of a step's features is no sum over the parts of a team: give 0"
                    .into(),
            ));
        }
        self.check_paths()?;
        if self.is_embedded() && model.dir.is_some() {
            return Err(Error::Usage("give lists to train on with --train FILE".into()));
        }
        Ok(())
    }

    /// The lists to train on, those to validate on, and those that are held out.
    fn read(&self, preparation: &Preparation<'_>) -> Result<[Vec<Example>; 3]> {
        let train = match self.is_embedded() {
            true => preparation.read_list(builtin::training_lists(preparation.fields)?)?,
            false => preparation.read(&self.train)?,
        };
        let test = match self.is_embedded() && self.test.is_empty() {
            true => preparation.read_list(builtin::held_out_lists(preparation.fields)?)?,
            false => preparation.read(&self.test)?,
        };
        let (train, valid) = match &self.valid {
            ValidationLists::File(file) => (train, preparation.read(std::slice::from_ref(file))?),
            ValidationLists::Fraction(fraction) if train.len() < 2 => {
                return Err(Error::Usage(format!(
                    "--valid {fraction}: expected a list file, or a fraction of at least two utterances"
                )));
            }
            ValidationLists::Fraction(fraction) => {
                split(train, *fraction, self.asked.over(TrainOptions::default()).seed)
            }
        };
        Ok([train, valid, test])
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
        if options.fresh_pooler {
            adapter = adapter.with_fresh_pooler(config, options.seed);
        }
        if let Beta::Learned(_) = options.beta {
            adapter = adapter.learn_beta(config, beta as f32)?;
        }
        adapter.config.dropout = options.lora.dropout;
        Ok(adapter)
    }

    /// Refuses to write over the adapter that training starts from, to choose or measure on what is trained on, and to
    /// measure on what chooses.
    fn check_paths(&self) -> Result<()> {
        let out = self.out.display();
        if self.init_adapter.as_ref().is_some_and(|start| atomic::is_same(&start.dir, &self.out)) {
            return Err(Error::Usage(format!(
                "--out {out} is the adapter that training starts from: give another --out"
            )));
        }
        let valid = match &self.valid {
            ValidationLists::File(file) => Some(file),
            ValidationLists::Fraction(_) => None,
        };
        let refuse = |option: &str, file: &PathBuf, problem: &str| {
            Err(Error::Usage(format!("{option} {}: {problem}: give others", file.display())))
        };
        let kept = self.test.iter().map(|file| ("--test", file)).chain(valid.map(|file| ("--valid", file)));
        for (option, file) in kept {
            if self.train.iter().any(|train| atomic::is_same(train, file)) {
                return refuse(option, file, "these lists are trained on");
            }
        }
        if let Some(file) =
            self.test.iter().find(|file| valid.is_some_and(|valid| atomic::is_same(valid, file)))
        {
            return refuse("--test", file, "--valid has these lists to choose on");
        }
        Ok(())
    }
}
