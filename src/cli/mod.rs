//! The subcommands: one file each, thin over the library.

mod bench;
mod check_kernels;
mod convert;
mod doctor;
mod evaluate;
mod inspect;
mod merge;
mod named;
mod output;
mod profile;
mod report;
mod rescore;
mod scoring;
mod serve;
mod signals;
mod train;

pub use output::note;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use lorb_engine::device::cpu::Cpu;
use lorb_engine::device::{AnyDevice, Choice, Dtype, select};
use lorb_engine::nbest::normalise::{Case, Unit};
use lorb_engine::nbest::{Format, Reading};
use lorb_engine::rescore::settings::ListOptions;
use lorb_engine::{Error, Result};

use check_kernels::with_first_use;
use named::{find_adapter, find_model, open_model};

/// Second-pass rescoring of N-best lists with low-rank adapted BERT (LoRB).
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Train),
    Rescore(rescore::Rescore),
    Serve(serve::Serve),
    Evaluate(evaluate::Evaluate),
    Convert(convert::Convert),
    Merge(merge::Merge),
    Report(report::Report),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    #[command(hide = true)]
    CheckKernels(check_kernels::CheckKernels),
}

/// Parses the command line and runs the subcommand.
pub fn run() -> Result<()> {
    let command = Cli::parse().command;
    // The service ends in its own way.
    if !matches!(command, Command::Serve(_)) {
        signals::watch()?;
    }
    match command {
        Command::Train(command) => command.run(),
        Command::Rescore(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Evaluate(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Merge(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::CheckKernels(command) => command.run(),
    }
}

/// Where the program computes.
#[derive(Args)]
struct Compute {
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    device: DeviceOption,
    /// What the base's weights are kept and multiplied in: f32, bf16, or int8 (on the CPU, not for training) [default: f32
    /// on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<Dtype>,
}

impl Compute {
    /// Whether nothing was said of it.
    fn is_default(&self) -> bool {
        self.threads.is_none() && self.dtype.is_none() && self.device.device == Choice::Auto
    }

    /// Starts the workers.
    fn start_workers(&self) -> Result<()> {
        let mut pool = rayon::ThreadPoolBuilder::new();
        if let Some(threads) = self.threads {
            pool = pool.num_threads(threads.into());
        }
        pool.build_global().map_err(|e| Error::Usage(format!("cannot start the worker threads: {e}")))
    }

    /// Starts the workers and the device; LORB_ISA forces an instruction set (avx512, avx2, portable).
    fn start(&self) -> Result<AnyDevice> {
        self.start_workers()?;
        let cpu = Cpu::of_environment()?;
        let (device, notes) =
            with_first_use(|first_use| select(self.device.device, cpu, self.dtype, first_use))?;
        notes.into_iter().for_each(note);
        Ok(device)
    }
}

/// Which device computes.
#[derive(Args)]
struct DeviceOption {
    /// auto (the GPU where there is one to use, else the CPU), cpu or cuda
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Choice,
}

/// How lists are read. Where an option is absent, what the adapter was trained with applies.
#[derive(Args)]
struct Lists {
    /// What the lists are: jsonl, espnet, kaldi, nemo, mlm, csv or parquet [default: recognised]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    #[command(flatten)]
    missing: Missing,
    /// The field of a hypothesis that holds the first-pass log-score [default: am]
    #[arg(long, value_name = "FIELD")]
    first_pass: Option<String>,
    /// The field that holds the score of the first pass's language model [default: lm, where present]
    #[arg(long, value_name = "FIELD")]
    lm: Option<String>,
    /// Change the case of all text before it is scored or compared: keep, lower or upper
    #[arg(long, value_name = "CASE")]
    case: Option<Case>,
    /// A regular expression: words that match it as a whole are noise tags, and removed
    #[arg(long, value_name = "REGEX")]
    noise: Option<String>,
    /// Filler words to remove, separated by commas
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    fillers: Option<Vec<String>>,
    /// What errors are counted in: word or char
    #[arg(long, value_name = "UNIT")]
    unit: Option<Unit>,
}

impl Lists {
    /// How the files are read.
    fn reading(&self) -> Reading {
        self.missing.reading(self.format)
    }

    fn options(&self) -> ListOptions {
        ListOptions {
            reading: self.reading(),
            first_pass: self.first_pass.clone(),
            lm: self.lm.clone(),
            case: self.case,
            noise: self.noise.clone(),
            fillers: self.fillers.clone(),
            unit: self.unit,
        }
    }
}

/// What the files of recognisers lack.
#[derive(Args)]
struct Missing {
    /// What was said: a text of Kaldi, a .trn of sclite, or a manifest of NeMo
    #[arg(long = "ref", value_name = "FILE")]
    references: Option<PathBuf>,
    /// In lists of ESPnet, the weight W of am = (1 - W) decoder + W ctc
    #[arg(long, value_name = "W", value_parser = parse_share)]
    ctc_weight: Option<f64>,
    /// The manifest of lists of NeMo [default: of NAME.tsv, NAME.manifest.json beside it]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Missing {
    fn reading(&self, format: Option<Format>) -> Reading {
        let (references, manifest) = (self.references.clone(), self.manifest.clone());
        Reading { format, references, manifest, ctc_weight: self.ctc_weight }
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

/// A number from 0 that is not infinite.
fn parse_from_zero(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..f64::INFINITY).contains(&number) => Ok(number),
        _ => Err("expected a number from 0".into()),
    }
}
