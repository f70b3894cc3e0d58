mod command;
mod progress;
mod report;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::hub::Found;
use lorb_engine::lora::{LoraConfig, Targets};
use lorb_engine::rescore::ngram::DomainModel;
use lorb_engine::train::base::Base;
use lorb_engine::train::domain::Domain;
use lorb_engine::train::job::Job;
use lorb_engine::train::metrics::{Finished, History};
use lorb_engine::train::pace::Pace;
use lorb_engine::train::prepared::Prepared;
use lorb_engine::train::team::Team;
use lorb_engine::train::{Beta, TrainOptions};

use super::output::print;
use super::profile::{Profile, ProfileOption};
use super::{Compute, Lists, find_adapter, find_model, signals};

/// Train an adapter on N-best lists with references
#[derive(Args)]
pub struct Train {
    /// A Hugging Face BERT: its folder, or its id on the Hub, ORG/NAME or ORG/NAME@REVISION [default, without lists
    /// to train on: a small embedded one]
    #[arg(long, value_name = "DIR|ID")]
    model: Option<PathBuf>,
    /// N-best lists to train on, in any format [default, without --model: embedded ones]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    train: Vec<PathBuf>,
    /// A domain and its lists to train on; may be repeated. Each gets an adapter of its own, in the folder NAME of
    /// --out, as if it were trained alone; all start from the same
    #[arg(long, value_name = "NAME=FILE[,FILE...]", conflicts_with = "train")]
    domain: Vec<Domain>,
    /// Lists to choose the best epoch and the rescoring weights on, or the fraction of --train kept for that; with
    /// --domain, the fraction of each domain's lists
    #[arg(long, value_name = "FILE|FRACTION", default_value = "0.2")]
    valid: String,
    /// Held-out lists to measure the result on, never used to choose anything; with --domain, each adapter is
    /// measured on all of them [default, without --model and --train: embedded ones]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    test: Vec<PathBuf>,
    /// Where the adapter goes; with --domain, the folder of their folders
    #[arg(long, value_name = "DIR", default_value = "lorb-adapter")]
    out: PathBuf,
    /// Go on with the unfinished run that --out holds, or start if it holds none; with --domain, finished ones are
    /// left as they are
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
    /// Dropout before A [default: 0]
    #[arg(long, value_name = "P")]
    dropout: Option<f32>,
    /// Peak learning rate of the low-rank matrices [default: 0.001]
    #[arg(long, value_name = "RATE")]
    lr: Option<f32>,
    /// Peak learning rate of the classifier, a fresh pooler and a learned beta [default: 0.01]
    #[arg(long, value_name = "RATE")]
    head_lr: Option<f32>,
    /// Decoupled weight decay [default: 0.01]
    #[arg(long, value_name = "W")]
    weight_decay: Option<f32>,
    /// Passes over the training lists [default: as many as show about 5,000 utterances, 1 to 8]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Stop after N validations in a row without a better epoch; the learning rate still falls over all --epochs
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
    /// Hypotheses of an utterance in a step [default: 16; of fewer than 2,000 lists 8]
    #[arg(long, value_name = "N")]
    hyps: Option<usize>,
    /// Tokens in a step, at most [default: 1600; of fewer than 2,000 lists 800]
    #[arg(long, value_name = "N")]
    batch_tokens: Option<usize>,
    /// Weight of BERT's score in the loss: a number, or "learned" [default: learned]
    #[arg(long, value_name = "B|learned", value_parser = parse_beta)]
    beta: Option<Beta>,
    /// Weight of the first pass's score in the loss [default: chosen from the lists]
    #[arg(long, value_name = "W")]
    first_pass_weight: Option<f64>,
    /// Weight of the first pass's LM score in the loss, relative to the first-pass score's [default: 0]
    #[arg(long, value_name = "W")]
    lm_weight: Option<f64>,
    /// The order of an n-gram model of the training references, whose score counts beside the others where that helps on
    /// lists that it has not seen, and in lists that are like those; 0 for none
    #[arg(long, value_name = "N", default_value_t = Job::NGRAM_ORDER)]
    ngram_order: usize,
    /// Train a fresh pooler instead of keeping the base's; one that the base lacks is trained in any case
    #[arg(long)]
    fresh_pooler: bool,
    /// Weight of the correlation loss [default: 0]
    #[arg(long, value_name = "LAMBDA")]
    corr_weight: Option<f64>,
    /// Of everything that is drawn at random [default: 1]
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
        let job = self.job()?;
        job.options.check()?;
        let jobs = if self.domain.is_empty() { vec![job] } else { job.of_domains(&self.domain)? };
        let model = self.model()?;
        let (device, profile) = self.profile.start(self.compute.start()?)?;
        let base = Base::open(model.as_ref(), device)?;
        // All are read before any is trained: what is wrong with the last one's lists need not be waited for.
        let runs = jobs.into_iter().map(|job| job.prepare(&base)).collect::<Result<Vec<_>>>()?;
        say(format!("base:    {}", base.model.name))?;
        // Until now there was nothing to save.
        let stop = signals::stop();
        match self.domain.is_empty() {
            true => runs.iter().try_for_each(|run| train_one(run, stop))?,
            false => train_domains(&self.domain, runs, stop)?,
        }
        profile.map_or(Ok(()), Profile::finish)
    }

    /// Where the base is; `None` for the embedded one.
    fn model(&self) -> Result<Option<Found>> {
        // Whoever has lists of their own wants more than that.
        let embedded = self.model.is_none() && self.train.is_empty() && self.domain.is_empty();
        if embedded { Ok(None) } else { find_model(&self.model).map(Some) }
    }

    fn job(&self) -> Result<Job> {
        Ok(Job {
            train: self.train.clone(),
            valid: self.valid.clone(),
            test: self.test.clone(),
            out: self.out.clone(),
            resume: self.resume,
            init_adapter: self.init_adapter.as_deref().map(find_adapter).transpose()?,
            ngram_order: self.ngram_order,
            fresh_pooler: self.fresh_pooler,
            pace: Pace { epochs: self.epochs, hyps: self.hyps, batch_tokens: self.batch_tokens },
            checkpoint_every: Duration::from_secs(self.checkpoint_every),
            options: self.options(),
            lists: self.lists.options(),
            command: Some(command::typed()),
            team: Team::default(),
        })
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
            patience: self.patience,
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
}

fn train_one(run: &Prepared, stop: &AtomicBool) -> Result<()> {
    let Some(result) = train(run, stop)? else { return Ok(()) };
    let rows: Vec<_> = result.sets.iter().map(|set| (set.name.clone(), set)).collect();
    say(format!("\n{}\n", report::table(&rows)))?;
    conclude(run, &result)
}

/// One after the other, with one table in the end.
fn train_domains(domains: &[Domain], runs: Vec<Prepared>, stop: &AtomicBool) -> Result<()> {
    let mut results = Vec::new();
    for (i, (Domain { name, .. }, run)) in domains.iter().zip(runs).enumerate() {
        say(format!("\ndomain {name}, {} of {}", i + 1, domains.len()))?;
        let result = match train(&run, stop)? {
            Some(result) => {
                conclude(&run, &result)?;
                Some(result)
            }
            // It was trained before: what came of it is in its metrics, unless somebody removed them.
            None => History::read(run.out()).ok().and_then(|history| history.result),
        };
        results.extend(result.map(|result| (name, result)));
    }
    let rows: Vec<_> = results
        .iter()
        .flat_map(|(name, result)| result.sets.iter().map(move |set| (format!("{name} {}", set.name), set)))
        .collect();
    say(format!("\n{}", report::table(&rows)))
}

/// Says what is trained, and trains it; `None` where that was done before.
fn train(run: &Prepared, stop: &AtomicBool) -> Result<Option<Finished>> {
    let Prepared { train, valid, test, base, .. } = run;
    say(format!("trained: {}", run.parameters()))?;
    say(format!(
        "lists:   {} utterances to train on, {} to validate, {} held out",
        train.len(),
        valid.len(),
        test.len(),
    ))?;
    say(format!("loss:    first-pass scores count {:.3}", run.fixed_weights.first_pass))?;
    if let Some(DomainModel { ngram, .. }) = &run.domain_model {
        say(format!(
            "n-gram:  a {}-gram model of the references ({} words) counts beside the trained score",
            ngram.order(),
            ngram.words()
        ))?;
    }
    let cut: usize = [train, valid, test].iter().flat_map(|s| s.iter()).map(|e| e.cut).sum();
    if cut > 0 {
        say(format!("         {cut} hypotheses were cut at {} tokens", base.model.config.max_positions))?;
    }
    let trained = run.train(stop, &mut progress::Progress::new())?;
    if trained.is_none() {
        say(format!("finished {}: nothing is left to do", run.out().display()))?;
    }
    Ok(trained.map(|trained| trained.result))
}

/// Says where the adapter is.
fn conclude(run: &Prepared, result: &Finished) -> Result<()> {
    say(format!("weights: {}, tuned on the validation lists", result.weights))?;
    let planned = run.options.epochs;
    let stopped = match result.epochs < planned {
        true => format!("stopped after {}, ", result.epochs),
        false => String::new(),
    };
    let (out, Finished { epoch, seconds, .. }) = (run.out().display(), result);
    say(format!("adapter: {out} (epoch {epoch} of {planned}, {stopped}{seconds:.0} s)"))
}

/// Prints a line.
fn say(line: String) -> Result<()> {
    print(&(line + "\n"))
}
