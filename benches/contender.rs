//! This engine as a contender of benches/alternate.py: for each line "go" one round, answered by a line of
//! JSON; "quit" ends it.
//!
//!     cargo bench --bench contender -- rescore MODEL LISTS COUNT [cpu|cuda]
//!     cargo bench --bench contender -- step MODEL LISTS STEPS [cpu|cuda]
//!
//! The same work as benches/baselines/rescore.py (one list a batch) and step.py (4 utterances x 8
//! hypotheses, MWER alone), with an adapter of rank 8 on query and value, not merged.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lorb_engine::Result;
use lorb_engine::bert::Encoder;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::Precision;
use lorb_engine::device::cuda::first_use::{Child, FirstUse};
use lorb_engine::device::{AnyDevice, Choice, select};
use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::jsonl::Fields;
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::rescore::scorer::Scorer;
use lorb_engine::train::examples::{Example, Preparation};
use lorb_engine::train::learner::{CpuLearner, CudaLearner, Learner};
use lorb_engine::train::step::StepBatch;
use lorb_engine::train::{Beta, TrainOptions};

const UTTERANCES: usize = 4;
const HYPOTHESES: usize = 8;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [what, model, lists, count, device @ ..] = &arguments[..] else {
        eprintln!("usage: contender rescore|step MODEL LISTS COUNT [cpu|cuda]");
        return Ok(());
    };
    let choice = if device.first().is_some_and(|d| d == "cuda") { Choice::Cuda } else { Choice::Cpu };
    let child = Child { program: env!("CARGO_BIN_EXE_lorb-engine").into(), limit: Child::LIMIT };
    let attempt = |trial| child.run(trial, "production").map(|ran| ran.verdict);
    let first_use = FirstUse { folder: FirstUse::folder(), attempt: &attempt };
    let (device, notes) = select(choice, Cpu::new(Isa::detect()?), Precision::Bf16, &first_use)?;
    notes.iter().for_each(|note| eprintln!("{note}"));
    let contender = format!("lorb-engine {}", device.description());
    let count: usize = count.parse().unwrap_or(50);
    let model = BaseModel::open(Path::new(model))?;
    let preparation = Preparation {
        fields: &Fields::default(),
        normaliser: &Normaliser::new(&NormaliseOptions::default())?,
        unit: Unit::Word,
        tokenizer: &model.tokenizer,
        max_tokens: model.config.max_positions,
    };
    let examples = preparation.read(&[PathBuf::from(lists)])?;
    let adapter = Adapter::initialise(&model.config, &model.checkpoint, LoraConfig::default(), None, 1)?;
    if what == "rescore" {
        let scorer = Scorer::new(device, &model, &adapter)?;
        let lists: Vec<_> = examples.iter().take(count).map(|e| &e.tokens[..]).collect();
        return rounds(&contender, || {
            lists.iter().map(|list| timed(tokens(list), || scorer.scores(list).map(drop))).collect()
        });
    }
    let batches = batches(&examples[..examples.len().min(count * UTTERANCES)]);
    let options = TrainOptions { beta: Beta::Fixed(1.0), correlation_weight: 0.0, ..TrainOptions::default() };
    let contender = format!("{contender} LoRA step");
    match &device {
        AnyDevice::Cpu(cpu) => {
            let encoder = Encoder::load(cpu, &model.config, &model.checkpoint, true)?;
            steps(&contender, &mut CpuLearner::new(cpu, &encoder, &options, adapter), &batches)
        }
        AnyDevice::Cuda(cuda) => {
            let encoder = Encoder::load(cuda, &model.config, &model.checkpoint, true)?;
            steps(&contender, &mut CudaLearner::new(cuda, &encoder, &options, adapter), &batches)
        }
    }
}

/// Rounds of steps, each waited for: what is read after it is there.
fn steps(contender: &str, learner: &mut dyn Learner, batches: &[StepBatch]) -> Result<()> {
    rounds(contender, || {
        let mut step = |batch: &StepBatch| {
            learner.step(batch, 0, 1e-2)?;
            learner.losses(true).map(drop)
        };
        batches.iter().map(|b| timed(b.tokens(), || step(b))).collect()
    })
}

/// As step.py: lists of at least 8 hypotheses, the first 8 of each, 4 lists a step.
fn batches(examples: &[Example]) -> Vec<StepBatch> {
    let long: Vec<_> = examples.iter().filter(|e| e.tokens.len() >= HYPOTHESES).collect();
    let batch = |group: &[&Example]| {
        let mut batch = StepBatch::default();
        for example in group {
            let first = batch.sequences.len();
            for (tokens, h) in example.tokens.iter().zip(&example.list.hypotheses).take(HYPOTHESES) {
                batch.sequences.push(tokens.clone());
                batch.offsets.push(0.3 * h.features.first_pass);
                batch.errors.push(h.errors as u32);
            }
            batch.utterances.push(first..batch.sequences.len());
        }
        batch
    };
    long.chunks_exact(UTTERANCES).map(batch).collect()
}

fn tokens(sequences: &[Vec<u32>]) -> usize {
    sequences.iter().map(Vec::len).sum()
}

/// The tokens and the seconds of one piece of work.
fn timed(tokens: usize, work: impl FnOnce() -> Result<()>) -> Result<(usize, f64)> {
    let start = Instant::now();
    work()?;
    Ok((tokens, start.elapsed().as_secs_f64()))
}

fn rounds(contender: &str, mut round: impl FnMut() -> Result<Vec<(usize, f64)>>) -> Result<()> {
    for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
        if line == "quit" {
            return Ok(());
        }
        let done = round()?;
        let tokens: usize = done.iter().map(|(t, _)| t).sum();
        let mut seconds: Vec<f64> = done.iter().map(|(_, s)| *s).collect();
        seconds.sort_by(f64::total_cmp);
        let total: f64 = seconds.iter().sum();
        let percentile = |p: f64| 1e3 * seconds[(p * (seconds.len() - 1) as f64).round() as usize];
        let answer = serde_json::json!({
            "contender": contender,
            "tokens_per_s": (tokens as f64 / total).round(),
            "p50_ms": percentile(0.5),
            "p95_ms": percentile(0.95),
            "peak_rss_mb": peak_rss_mb(),
        });
        println!("{answer}");
    }
    Ok(())
}

/// VmHWM of /proc/self/status; none elsewhere.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
