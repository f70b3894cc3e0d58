//! This engine as a contender of benches/alternate.py: for each line "go" one round, answered by a line of
//! JSON; "quit" ends it.
//!
//!     cargo bench --bench contender -- rescore|rescore-merged MODEL LISTS COUNT [cpu|cuda]
//!     cargo bench --bench contender -- step MODEL LISTS STEPS [cpu|cuda] [UTTERANCES]
//!     cargo bench --bench contender -- linear|linear-gelu MODEL ROWS COUNT [cpu|cuda]
//!     cargo bench --bench contender -- peak MODEL
//!
//! The same work as benches/baselines/rescore.py (one list a call, unless --together says more), step.py
//! (UTTERANCES, or 4, x 8 hypotheses, MWER alone), with an adapter of rank 8 on query and value unless --adapter names
//! one, or as if it were merged; and as linear.py: the first layer's intermediate product with bias and an adapter of
//! rank 8. `peak` measures what the others' floors are taken at. RAYON_NUM_THREADS sets the threads.

mod linear;
mod peak;
mod rescore;
mod rounds;
mod step;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use lorb_engine::card::{open_adapter, own_head};
use lorb_engine::device::cpu::Cpu;
use lorb_engine::device::cuda::first_use::{Child, FirstUse};
use lorb_engine::device::{AnyDevice, Choice, Dtype, select};
use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::nbest::{Fields, Reading};
use lorb_engine::train::examples::{Example, Preparation};
use lorb_engine::{Error, Result};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Option<Work>,
    /// What `cargo bench` passes to every bench
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Work {
    Rescore(rescore::Rescore),
    RescoreMerged(rescore::Rescore),
    Step(step::Step),
    Linear(linear::Linear),
    LinearGelu(linear::Linear),
    Peak(peak::Peak),
}

/// What most work is given.
#[derive(Args)]
struct Inputs {
    /// A Hugging Face BERT folder
    model: PathBuf,
    /// N-best lists with references
    lists: PathBuf,
    /// Lists, or steps
    count: usize,
    #[arg(default_value = "cpu", value_parser = parse_device)]
    device: Choice,
    /// f32, bf16 or int8 [default: f32 on the CPU, bf16 on a GPU]
    #[arg(long)]
    dtype: Option<Dtype>,
    /// The folder of an adapter [default: a fresh one of rank 8 on query and value]
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Arguments::parse().work {
        Some(Work::Rescore(work)) => work.run(false),
        Some(Work::RescoreMerged(work)) => work.run(true),
        Some(Work::Step(work)) => work.run(),
        Some(Work::Linear(work)) => work.run(false),
        Some(Work::LinearGelu(work)) => work.run(true),
        Some(Work::Peak(work)) => work.run(),
        // No failure: `cargo bench` runs every bench, and names no work.
        None => {
            eprintln!("contender: run `cargo bench --bench contender -- help` to see what it measures");
            Ok(())
        }
    }
}

fn parse_device(text: &str) -> std::result::Result<Choice, String> {
    match text {
        "cpu" => Ok(Choice::Cpu),
        "cuda" => Ok(Choice::Cuda),
        _ => Err("expected cpu or cuda".into()),
    }
}

/// The device, and the name of a contender that does `what` there.
fn start(what: &str, choice: Choice, dtype: Option<Dtype>) -> Result<(AnyDevice, String)> {
    // Where this was built, unless it has been carried to another machine.
    let program = std::env::var_os("LORB_ENGINE").unwrap_or(env!("CARGO_BIN_EXE_lorb-engine").into());
    let child = Child { program: program.into(), limit: Child::LIMIT };
    let attempt = |trial| child.run(trial, "production").map(|ran| ran.verdict);
    let first_use = FirstUse { folder: FirstUse::folder(), attempt: &attempt };
    let (device, notes) = select(choice, Cpu::of_environment()?, dtype, &first_use)?;
    notes.iter().for_each(|note| eprintln!("{note}"));
    let name = format!("lorb-engine {what} {}", device.description());
    Ok((device, name))
}

impl Inputs {
    fn model(&self) -> Result<BaseModel> {
        BaseModel::open(&self.model)
    }

    /// Every list of the file.
    fn examples(&self, model: &BaseModel) -> Result<Vec<Example>> {
        let preparation = Preparation {
            fields: &Fields::default(),
            reading: &Reading::default(),
            normaliser: &Normaliser::new(&NormaliseOptions::default())?,
            unit: Unit::Word,
            tokenizer: &model.tokenizer,
            max_tokens: model.config.max_positions,
        };
        preparation.read(std::slice::from_ref(&self.lists))
    }

    /// The adapter that is named, or a fresh one; a merged one is the model's own head, where it has one.
    fn adapter(&self, model: &BaseModel, merged: bool) -> Result<Adapter> {
        if let Some(dir) = &self.adapter {
            return Ok(open_adapter(dir, model)?.0);
        }
        let targets = if merged { "none" } else { "query,value" };
        let fresh = || {
            let lora = LoraConfig { targets: targets.parse()?, rank: 8, ..LoraConfig::default() };
            Adapter::initialise(&model.config, &model.checkpoint, lora, None, 1)
        };
        match own_head(model)?.filter(|_| merged) {
            Some(head) => Ok(head),
            None => fresh(),
        }
    }
}

/// Writes a file for whoever compares.
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::io(path, "write it", e))
}
