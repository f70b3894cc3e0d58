//! The subcommands: one file each, thin over the library.

mod bench;
mod check_kernels;
mod doctor;
mod evaluate;
mod inspect;
mod merge;
mod named;
mod output;
mod profile;
mod rescore;
mod scoring;
mod serve;
mod train;

pub use output::note;

use clap::{Args, Parser, Subcommand};
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::Precision;
use lorb_engine::device::{AnyDevice, Choice, select};
use lorb_engine::nbest::jsonl::Fields;
use lorb_engine::nbest::normalise::{Case, NormaliseOptions, Unit};
use lorb_engine::rescore::prune::Margin;
use lorb_engine::rescore::weights::RescoringFile;
use lorb_engine::{Error, Result};

use check_kernels::with_first_use;
use named::{find_adapter, find_model, open_found, open_model};

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
    Merge(merge::Merge),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    #[command(hide = true)]
    CheckKernels(check_kernels::CheckKernels),
}

/// Parses the command line and runs the subcommand.
pub fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Train(command) => command.run(),
        Command::Rescore(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Evaluate(command) => command.run(),
        Command::Merge(command) => command.run(),
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
    /// What a GPU keeps activations and base weights in: bf16 or f32
    #[arg(long, value_name = "DTYPE", default_value = "bf16", value_parser = parse_dtype)]
    dtype: Precision,
}

impl Compute {
    /// Starts the workers and the device; LORB_ISA forces an instruction set (avx512, avx2, portable).
    fn start(&self) -> Result<AnyDevice> {
        let mut pool = rayon::ThreadPoolBuilder::new();
        if let Some(threads) = self.threads {
            pool = pool.num_threads(threads.into());
        }
        pool.build_global().map_err(|e| Error::Usage(format!("cannot start the worker threads: {e}")))?;
        let cpu = Cpu::new(Isa::detect()?);
        let (device, notes) =
            with_first_use(|first_use| select(self.device.device, cpu, self.dtype, first_use))?;
        notes.into_iter().for_each(note);
        Ok(device)
    }
}

fn parse_dtype(text: &str) -> Result<Precision, String> {
    match text {
        "bf16" => Ok(Precision::Bf16),
        "f32" => Ok(Precision::F32),
        _ => Err("expected bf16 or f32".into()),
    }
}

/// Which device computes.
#[derive(Args)]
struct DeviceOption {
    /// auto (the GPU where there is one to use, else the CPU), cpu or cuda
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    device: Choice,
}

fn parse_device(text: &str) -> Result<Choice, String> {
    match text {
        "auto" => Ok(Choice::Auto),
        "cpu" => Ok(Choice::Cpu),
        "cuda" => Ok(Choice::Cuda),
        _ => Err("expected auto, cpu or cuda".into()),
    }
}

/// How lists are read. Where an option is absent, what the adapter was trained with applies.
#[derive(Args)]
struct Lists {
    /// The field of a hypothesis that holds the first-pass log-score [default: am]
    #[arg(long, value_name = "FIELD")]
    first_pass: Option<String>,
    /// The field that holds the score of the first pass's language model [default: lm, where present]
    #[arg(long, value_name = "FIELD")]
    lm: Option<String>,
    /// Change the case of all text before it is scored or compared: keep, lower or upper
    #[arg(long, value_name = "CASE", value_parser = parse_case)]
    case: Option<Case>,
    /// A regular expression: words that match it as a whole are noise tags, and removed
    #[arg(long, value_name = "REGEX")]
    noise: Option<String>,
    /// Filler words to remove, separated by commas
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    fillers: Option<Vec<String>>,
    /// What errors are counted in: word or char
    #[arg(long, value_name = "UNIT", value_parser = parse_unit)]
    unit: Option<Unit>,
}

impl Lists {
    /// The options over those that an adapter was trained with, if any.
    fn over(&self, trained: Option<(&Fields, &NormaliseOptions, Unit)>) -> (Fields, NormaliseOptions, Unit) {
        let (mut fields, mut normalise, mut unit) = match trained {
            Some((fields, normalise, unit)) => (fields.clone(), normalise.clone(), unit),
            None => (Fields::default(), NormaliseOptions::default(), Unit::Word),
        };
        if let Some(name) = &self.first_pass {
            fields.first_pass = name.clone();
        }
        if let Some(name) = &self.lm {
            fields.lm = Some(name.clone());
            fields.lm_required = true;
        }
        normalise.case = self.case.unwrap_or(normalise.case);
        normalise.noise = self.noise.clone().or(normalise.noise);
        if let Some(fillers) = &self.fillers {
            normalise.fillers = fillers.clone();
        }
        unit = self.unit.unwrap_or(unit);
        (fields, normalise, unit)
    }

    /// The options over those that lists are rescored with otherwise.
    fn override_in(&self, file: &mut RescoringFile) {
        let saved = (&file.fields, &file.normalise, file.unit);
        (file.fields, file.normalise, file.unit) = self.over(Some(saved));
    }
}

/// A number from 0 that is not infinite.
fn parse_from_zero(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..f64::INFINITY).contains(&number) => Ok(number),
        _ => Err("expected a number from 0".into()),
    }
}

fn parse_margin(text: &str) -> Result<Margin, String> {
    parse_from_zero(text).map(|margin| Margin::new(margin).expect("a number from 0"))
}

fn parse_case(text: &str) -> Result<Case, String> {
    match text {
        "keep" => Ok(Case::Keep),
        "lower" => Ok(Case::Lower),
        "upper" => Ok(Case::Upper),
        _ => Err("expected keep, lower or upper".into()),
    }
}

fn parse_unit(text: &str) -> Result<Unit, String> {
    match text {
        "word" => Ok(Unit::Word),
        "char" => Ok(Unit::Char),
        _ => Err("expected word or char".into()),
    }
}
