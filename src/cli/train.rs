mod model_card;
mod progress;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use lorb_engine::bert::Encoder;
use lorb_engine::builtin;
use lorb_engine::card::{Card, open_adapter};
use lorb_engine::device::AnyDevice;
use lorb_engine::lora::adapter::has_classifier;
use lorb_engine::lora::{Adapter, LoraConfig, Targets};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::normalise::Normaliser;
use lorb_engine::rescore::confidence::fit_confidence_scale;
use lorb_engine::rescore::scorer::Scorer;
use lorb_engine::rescore::tune::tune_weights;
use lorb_engine::rescore::weights::{RescoringFile, TunedOn, Weights};
use lorb_engine::train::checkpoint::{self, Identity};
use lorb_engine::train::examples::{Example, Preparation, default_epochs, digest, first_pass_weight, split};
use lorb_engine::train::learner::{CpuLearner, CudaLearner};
use lorb_engine::train::{Beta, Run, TrainOptions, with_scores};
use lorb_engine::{Error, Result, atomic};
use serde_json::json;

use self::model_card::{ModelCard, Row};
use super::output::print;
use super::profile::{Profile, ProfileOption};
use super::{Compute, Lists, find_adapter, find_model, open_found};

/// Of the embedded default, which is to end soon.
const EMBEDDED_EPOCHS: u32 = 2;

/// Train an adapter on N-best lists with references
#[derive(Args)]
pub struct Train {
    /// A Hugging Face BERT: its folder, or its id on the Hub, ORG/NAME or ORG/NAME@REVISION [default, without
    /// --train: a small embedded one]
    #[arg(long, value_name = "DIR|ID")]
    model: Option<PathBuf>,
    /// N-best lists to train on (.jsonl, .gz, .zst) [default, without --model: embedded ones]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    train: Vec<PathBuf>,
    /// Lists to choose the best epoch and the rescoring weights on, or the fraction of --train kept for that
    #[arg(long, value_name = "FILE|FRACTION", default_value = "0.2")]
    valid: String,
    /// Held-out lists to measure the result on, never used to choose anything
    #[arg(long, value_name = "FILE", num_args = 1..)]
    test: Vec<PathBuf>,
    /// Where the adapter goes
    #[arg(long, value_name = "DIR", default_value = "lorb-adapter")]
    out: PathBuf,
    /// Go on with the unfinished run that --out holds, or start if it holds none
    #[arg(long)]
    resume: bool,
    /// Start from this adapter, a folder or an id on the Hub (domain adaptation); its rank, alpha and targets apply
    #[arg(long, value_name = "DIR|ID", conflicts_with_all = ["rank", "alpha", "targets"])]
    init_adapter: Option<PathBuf>,
    /// Rank of the low-rank matrices [default: 8]
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Their product is scaled by alpha / rank [default: 8]
    #[arg(long, value_name = "ALPHA")]
    alpha: Option<f32>,
    /// Adapted layers: all, none, or some of query, key, value, attention.output.dense,
    /// intermediate.dense, output.dense [default: all]
    #[arg(long, value_name = "LAYERS")]
    targets: Option<Targets>,
    /// Dropout before A
    #[arg(long, value_name = "P")]
    dropout: Option<f32>,
    /// Peak learning rate of the low-rank matrices
    #[arg(long, value_name = "RATE")]
    lr: Option<f32>,
    /// Peak learning rate of the classifier, a fresh pooler and a learned beta
    #[arg(long, value_name = "RATE")]
    head_lr: Option<f32>,
    /// Decoupled weight decay
    #[arg(long, value_name = "W")]
    weight_decay: Option<f32>,
    /// Passes over the training lists [default: as many as show about 5,000 utterances, 1 to 4]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Hypotheses of an utterance in a step
    #[arg(long, value_name = "N")]
    hyps: Option<usize>,
    /// Tokens in a step, at most
    #[arg(long, value_name = "N")]
    batch_tokens: Option<usize>,
    /// Weight of BERT's score in the loss: a number, or "learned" [default: learned]
    #[arg(long, value_name = "B|learned", value_parser = parse_beta)]
    beta: Option<Beta>,
    /// Weight of the first pass's score in the loss [default: chosen from the lists]
    #[arg(long, value_name = "W")]
    first_pass_weight: Option<f64>,
    /// Weight of the first pass's LM score in the loss, relative to the first-pass score's
    #[arg(long, value_name = "W")]
    lm_weight: Option<f64>,
    /// Train a fresh pooler instead of keeping the base's; one that the base lacks is trained in any case
    #[arg(long)]
    fresh_pooler: bool,
    /// Weight of the correlation loss
    #[arg(long, value_name = "LAMBDA")]
    corr_weight: Option<f64>,
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Save the unfinished run so often
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    checkpoint_every: u64,
    #[command(flatten)]
    profile: ProfileOption,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    compute: Compute,
}

fn parse_beta(text: &str) -> Result<Beta, String> {
    if text == "learned" {
        return Ok(Beta::Learned(1.0));
    }
    text.parse().map(Beta::Fixed).map_err(|_| "expected a number or \"learned\"".into())
}

impl Train {
    pub fn run(self) -> Result<()> {
        let mut options = self.options();
        options.check()?;
        let (device, profile) = self.profile.start(self.compute.start()?)?;
        let stop = stop_on_signals()?;
        if self.train.is_empty() && self.model.is_some() {
            return Err(Error::Usage("give lists to train on with --train FILE".into()));
        }
        let embedded = self.model.is_none() && self.train.is_empty();
        let found = if embedded { None } else { Some(find_model(&self.model)?) };
        let id = found.as_ref().and_then(|found| found.id.clone());
        let model = found.map_or_else(builtin::model, open_found)?;
        let initial = self
            .init_adapter
            .as_deref()
            .map(|name| open_adapter(&find_adapter(name)?.dir, &model))
            .transpose()?;
        let card = initial.as_ref().and_then(|(_, card)| card.as_ref());
        let (fields, normalise, unit) = self.lists.over(card.map(|c| (&c.fields, &c.normalise, c.unit)));
        let normaliser = Normaliser::new(&normalise)?;
        let preparation = Preparation {
            fields: &fields,
            normaliser: &normaliser,
            unit,
            tokenizer: &model.tokenizer,
            max_tokens: model.config.max_positions,
        };
        atomic::ensure_directory(&self.out)?;
        checkpoint::sweep(&self.out)?;
        if !self.resume && checkpoint::exists(&self.out)? {
            return Err(Error::Usage(format!(
                "{} holds an unfinished run: go on with --resume, or give another --out",
                self.out.display()
            )));
        }
        let (train, test) = match embedded {
            true => (
                preparation.read_list(builtin::training_lists(&fields)?)?,
                preparation.read_list(builtin::held_out_lists(&fields)?)?,
            ),
            false => (preparation.read(&self.train)?, preparation.read(&self.test)?),
        };
        let (train, valid) = self.keep_for_validation(train, &preparation, options.seed)?;
        let by_lists = || if embedded { EMBEDDED_EPOCHS } else { default_epochs(&train) };
        options.epochs = self.epochs.unwrap_or_else(by_lists);

        let mut beta = options.beta.initial();
        let mut adapter = match initial {
            Some((adapter, card)) => {
                beta = card.map_or(beta, |c| c.training_weights.lorb);
                adapter
            }
            None => {
                let lora = options.lora.clone();
                let mut adapter =
                    Adapter::initialise(&model.config, &model.checkpoint, lora, None, options.seed)?;
                if let Some(id) = &id {
                    // PEFT finds it there too.
                    adapter.base_name = id.repository.clone();
                }
                adapter
            }
        };
        if self.fresh_pooler {
            adapter = adapter.with_fresh_pooler(&model.config, options.seed);
        }
        if let Beta::Learned(_) = options.beta {
            adapter = adapter.learn_beta(&model.config, beta as f32)?;
        }
        adapter.config.dropout = options.lora.dropout;
        // Features of a pooler drawn at random say too little: on the embedded lists a fit to them lost WER.
        let fit_head = self.init_adapter.is_none()
            && adapter.layout.pooler().is_none()
            && !has_classifier(&model.config, &model.checkpoint);
        let w_a = options.first_pass_weight.unwrap_or_else(|| first_pass_weight(&train, options.lm_weight));
        say(format!("base:    {}", model.name))?;
        say(format!("trained: {}", report::parameters(&adapter, &model)))?;
        say(format!(
            "lists:   {} utterances to train on, {} to validate, {} held out",
            train.len(),
            valid.len(),
            test.len(),
        ))?;
        say(format!("loss:    first-pass scores count {w_a:.3}"))?;
        let cut: usize = [&train, &valid, &test].iter().flat_map(|s| s.iter()).map(|e| e.cut).sum();
        if cut > 0 {
            say(format!("         {cut} hypotheses were cut at {} tokens", model.config.max_positions))?;
        }
        let identity = Identity {
            options: self.identity_options(&options, w_a),
            data: digest(&[&train, &valid]),
            start: digest_start(&model, &adapter)?,
            instruction_set: device.description(),
        };
        let resumed = if self.resume { checkpoint::load(&self.out, &identity)? } else { None };
        if self.resume && resumed.is_none() && checkpoint::is_finished(&self.out, &identity)? {
            say(format!("finished {}: nothing is left to do", self.out.display()))?;
            return Ok(());
        }
        let run = Run {
            options: &options,
            fit_head,
            first_pass_weight: w_a,
            train: &train,
            valid: &valid,
            out: &self.out,
            checkpoint_every: Duration::from_secs(self.checkpoint_every),
            identity: identity.clone(),
            stop: &stop,
        };
        let mut progress = progress::Progress::new();
        let outcome = match &device {
            AnyDevice::Cpu(cpu) => {
                let encoder = Encoder::load(cpu, &model.config, &model.checkpoint, true)?;
                let mut learner = CpuLearner::new(cpu, &encoder, &options, adapter.clone());
                run.train(adapter, &mut learner, resumed, &mut progress)?
            }
            AnyDevice::Cuda(cuda) => {
                cuda.accept(&model.config)?;
                let encoder = Encoder::load(cuda, &model.config, &model.checkpoint, true)?;
                let mut learner = CudaLearner::new(cuda, &encoder, &options, adapter.clone());
                run.train(adapter, &mut learner, resumed, &mut progress)?
            }
        };
        let adapter = outcome.adapter;

        let weights = tune_weights(&outcome.validation, true);
        adapter.save(&self.out)?;
        let beta = adapter.beta().map_or(options.beta.initial(), f64::from);
        let card = Card {
            base: model.name.clone(),
            fingerprint: model.checkpoint.fingerprint(&model.config)?,
            fields: fields.clone(),
            normalise: normalise.clone(),
            unit,
            training_weights: Weights {
                first_pass: w_a,
                lm: w_a * options.lm_weight,
                lorb: beta,
                words: 0.0,
            },
        };
        card.save(&self.out)?;
        let rescoring = RescoringFile {
            weights,
            confidence_scale: fit_confidence_scale(&outcome.validation, &weights),
            fields,
            normalise,
            unit,
            tuned_on: vec![TunedOn { list: self.validation_name(), utterances: valid.len() as u64 }],
        };
        rescoring.save(&self.out)?;

        let without = tune_weights(&outcome.validation, false);
        let table = report::Table { without: &without, with: &weights };
        say(format!("\n{}", table.header()))?;
        say(table.line("validation", &outcome.validation))?;
        let mut rows = vec![Row { lists: "validation", wer: table.wers(&outcome.validation) }];
        if !test.is_empty() {
            let scorer = Scorer::new(device, &model, &[&adapter])?;
            let tokens: Vec<&[u32]> = test.iter().flat_map(|e| e.tokens.iter().map(Vec::as_slice)).collect();
            let lists = with_scores(&test, &scorer.scores(&tokens)?);
            say(table.line("held out", &lists))?;
            rows.push(Row { lists: "held out", wer: table.wers(&lists) });
        }
        let model_card = ModelCard {
            base: &model.name,
            id: id.as_ref(),
            embedded,
            parameters: report::parameters(&adapter, &model),
            train: &self.train,
            test: &self.test,
            validation: self.validation_name(),
            utterances: [train.len(), valid.len(), test.len()],
            weights: &weights,
            rows,
            options: &identity.options,
            epoch: format!("epoch {} of {}", outcome.epoch, options.epochs),
        };
        model_card.save(&self.out)?;
        // Whoever is killed before this line goes on with --resume, and writes everything again.
        checkpoint::finish(&self.out, &identity)?;
        say(format!("\nweights: {weights}, tuned on the validation lists"))?;
        say(format!(
            "adapter: {} (epoch {} of {}, {:.0} s)",
            self.out.display(),
            outcome.epoch,
            options.epochs,
            outcome.seconds
        ))?;
        profile.map_or(Ok(()), Profile::finish)
    }

    fn validation_name(&self) -> String {
        match self.valid.parse::<f64>() {
            Ok(fraction) => format!("{fraction} of the training lists, seed {}", self.options().seed),
            Err(_) => self.valid.clone(),
        }
    }

    fn options(&self) -> TrainOptions {
        let d = TrainOptions::default();
        TrainOptions {
            lora: LoraConfig {
                rank: self.rank.unwrap_or(d.lora.rank),
                alpha: self.alpha.unwrap_or(d.lora.alpha),
                dropout: self.dropout.unwrap_or(d.lora.dropout),
                targets: self.targets.unwrap_or(d.lora.targets),
                ..d.lora
            },
            lr: self.lr.unwrap_or(d.lr),
            head_lr: self.head_lr.unwrap_or(d.head_lr),
            weight_decay: self.weight_decay.unwrap_or(d.weight_decay),
            epochs: self.epochs.unwrap_or(d.epochs),
            hyps: self.hyps.unwrap_or(d.hyps),
            batch_tokens: self.batch_tokens.unwrap_or(d.batch_tokens),
            beta: self.beta.unwrap_or(d.beta),
            first_pass_weight: self.first_pass_weight,
            lm_weight: self.lm_weight.unwrap_or(d.lm_weight),
            correlation_weight: self.corr_weight.unwrap_or(d.correlation_weight),
            seed: self.seed.unwrap_or(d.seed),
            ..d
        }
    }

    /// What the result depends on, by the option's name.
    fn identity_options(&self, o: &TrainOptions, w_a: f64) -> serde_json::Value {
        json!({
            "rank": o.lora.rank,
            "alpha": o.lora.alpha,
            "targets": o.lora.targets.to_string(),
            "dropout": o.lora.dropout,
            "lr": o.lr,
            "head-lr": o.head_lr,
            "weight-decay": o.weight_decay,
            "epochs": o.epochs,
            "hyps": o.hyps,
            "batch-tokens": o.batch_tokens,
            "beta": o.beta,
            "first-pass-weight": w_a,
            "lm-weight": o.lm_weight,
            "corr-weight": o.correlation_weight,
            "seed": o.seed,
            "fresh-pooler": self.fresh_pooler,
            "threads": rayon::current_num_threads(),
        })
    }

    /// The lists to train on and those to validate on.
    fn keep_for_validation(
        &self,
        train: Vec<Example>,
        preparation: &Preparation<'_>,
        seed: u64,
    ) -> Result<(Vec<Example>, Vec<Example>)> {
        match self.valid.parse::<f64>() {
            Ok(fraction) if fraction > 0.0 && fraction < 1.0 && train.len() > 1 => {
                Ok(split(train, fraction, seed))
            }
            Ok(fraction) => Err(Error::Usage(format!(
                "--valid {fraction}: expected a list file, or a fraction between 0 and 1 of at least two \
                 utterances"
            ))),
            Err(_) => Ok((train, preparation.read(&[PathBuf::from(&self.valid)])?)),
        }
    }
}

/// Prints a line.
fn say(line: String) -> Result<()> {
    print(&(line + "\n"))
}

/// A flag that Ctrl-C and SIGTERM set; a second signal ends the program at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|e| Error::io(Path::new("signals"), "watch for them", e))?;
    }
    Ok(stop)
}

/// A digest of the base and of the parameters that training starts from.
fn digest_start(model: &BaseModel, adapter: &Adapter) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    let fingerprint = model.checkpoint.fingerprint(&model.config)?;
    hash.update(json!(fingerprint).to_string());
    hash.update(bytemuck::cast_slice::<f32, u8>(&adapter.values));
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
