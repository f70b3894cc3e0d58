mod command;
mod progress;
mod recipe;
mod report;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::hub::Found;
use lorb_engine::rescore::ngram::DomainModel;
use lorb_engine::train::ValidationLists;
use lorb_engine::train::base::Base;
use lorb_engine::train::domain::Domain;
use lorb_engine::train::job::Job;
use lorb_engine::train::metrics::{Finished, History};
use lorb_engine::train::prepared::Prepared;
use lorb_engine::train::team::Team;

use super::output::print;
use super::profile::{Profile, ProfileOption};
use super::{Compute, Lists, find_adapter, find_model, signals};
use recipe::Recipe;

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
    #[arg(long, value_name = "NAME=FILE[,FILE...]")]
    domain: Vec<Domain>,
    /// Lists to choose the best epoch and the rescoring weights on, or the fraction of --train kept for that; with
    /// --domain, the fraction of each domain's lists
    #[arg(long, value_name = "FILE|FRACTION", default_value = "0.2")]
    valid: ValidationLists,
    /// Held-out lists to measure the result on, never used to choose anything; with --domain, each adapter is
    /// measured on all of them [default, without --model and --train: embedded ones]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    test: Vec<PathBuf>,
    /// Where the adapter goes; with --domain, the folder of their folders. An adapter that is there is replaced; an
    /// unfinished run there is refused without --resume
    #[arg(long, value_name = "DIR", default_value = "lorb-adapter")]
    out: PathBuf,
    /// Go on with the unfinished run that --out holds, or start if it holds none; with --domain, finished ones are
    /// left as they are
    #[arg(long)]
    resume: bool,
    /// Start from this adapter, a folder or an id on the Hub (domain adaptation); its rank, alpha and targets apply
    #[arg(long, value_name = "DIR|ID")]
    init_adapter: Option<PathBuf>,
    #[command(flatten)]
    recipe: Recipe,
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

impl Train {
    pub fn run(self) -> Result<()> {
        let job = self.job()?;
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
        let asked = self.recipe.asked();
        asked.check(self.init_adapter.is_some())?;
        Ok(Job {
            train: self.train.clone(),
            valid: self.valid.clone(),
            test: self.test.clone(),
            out: self.out.clone(),
            resume: self.resume,
            init_adapter: self.init_adapter.as_deref().map(find_adapter).transpose()?,
            asked,
            checkpoint_every: Duration::from_secs(self.checkpoint_every),
            lists: self.lists.options(),
            command: Some(command::typed()),
            team: Team::default(),
        })
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
