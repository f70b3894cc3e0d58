//! This engine as a contender of benches/alternate.py: for each line "go" one round, answered by a line of
//! JSON; "quit" ends it.
//!
//!     cargo bench --bench contender -- rescore|rescore-merged MODEL LISTS COUNT [cpu|cuda]
//!     cargo bench --bench contender -- step MODEL LISTS STEPS [cpu|cuda] [UTTERANCES]
//!     cargo bench --bench contender -- linear|linear-gelu MODEL ROWS COUNT [cpu|cuda]
//!
//! The same work as benches/baselines/rescore.py (one list a batch), step.py (UTTERANCES, or 4, x 8 hypotheses,
//! MWER alone), with an adapter of rank 8 on query and value, or as if it were merged; and as linear.py: the first
//! layer's intermediate product with bias and an adapter of rank 8.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lorb_engine::bert::Encoder;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::Precision;
use lorb_engine::device::cuda::first_use::{Child, FirstUse};
use lorb_engine::device::{AnyDevice, Choice, Memory, select};
use lorb_engine::lora::{Adapter, LoraConfig, Target};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::Reading;
use lorb_engine::nbest::jsonl::Fields;
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::ops::lora_linear::{Call, DeviceEpilogue, LinearWeights, LoraLinear};
use lorb_engine::rescore::scorer::Scorer;
use lorb_engine::train::examples::{Example, Preparation};
use lorb_engine::train::learner::{CpuLearner, CudaLearner, Learner};
use lorb_engine::train::step::StepBatch;
use lorb_engine::train::{Beta, TrainOptions};
use lorb_engine::{Error, Result};

const UTTERANCES: usize = 4;
const HYPOTHESES: usize = 8;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [what, model, lists, count, more @ ..] = &arguments[..] else {
        // No failure: `cargo bench` runs every bench, and gives no arguments.
        eprintln!(
            "usage: contender rescore|rescore-merged|step|linear|linear-gelu MODEL LISTS|ROWS COUNT \
             [cpu|cuda] [UTTERANCES]"
        );
        return Ok(());
    };
    let number =
        |text: &str| text.parse::<usize>().map_err(|_| Error::Usage(format!("{text}: expected a number")));
    let choice = if more.first().is_some_and(|d| d == "cuda") { Choice::Cuda } else { Choice::Cpu };
    // Where this was built, unless it has been carried to another machine.
    let program = std::env::var_os("LORB_ENGINE").unwrap_or(env!("CARGO_BIN_EXE_lorb-engine").into());
    let child = Child { program: program.into(), limit: Child::LIMIT };
    let attempt = |trial| child.run(trial, "production").map(|ran| ran.verdict);
    let first_use = FirstUse { folder: FirstUse::folder(), attempt: &attempt };
    let (device, notes) = select(choice, Cpu::new(Isa::detect()?), Precision::Bf16, &first_use)?;
    notes.iter().for_each(|note| eprintln!("{note}"));
    let contender = format!("lorb-engine {what} {}", device.description());
    let count = number(count)?;
    let model = BaseModel::open(Path::new(model))?;
    if what.starts_with("linear") {
        let (rows, gelu) = (number(lists)?, what == "linear-gelu");
        return match &device {
            AnyDevice::Cpu(cpu) => linear(&contender, cpu, &model, rows, count, gelu, || Ok(())),
            AnyDevice::Cuda(cuda) => {
                // Reading anything waits for all that was asked for before.
                let mark = cuda.parameters(&[0.0]);
                let wait = || cuda.download_flat(&mark).map(drop);
                linear(&contender, cuda, &model, rows, count, gelu, wait)
            }
        };
    }
    let preparation = Preparation {
        fields: &Fields::default(),
        reading: &Reading::default(),
        normaliser: &Normaliser::new(&NormaliseOptions::default())?,
        unit: Unit::Word,
        tokenizer: &model.tokenizer,
        max_tokens: model.config.max_positions,
    };
    let examples = preparation.read(&[PathBuf::from(lists)])?;
    let mut lora = LoraConfig { targets: "query,value".parse()?, rank: 8, ..LoraConfig::default() };
    if what == "rescore-merged" {
        lora.targets = "none".parse()?;
    }
    let adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, None, 1)?;
    if what != "step" {
        let scorer = Scorer::new(device, &model, &[&adapter])?;
        let lists: Vec<_> = examples.iter().take(count).map(|e| &e.tokens[..]).collect();
        return rounds(
            &contender,
            || None,
            || lists.iter().map(|list| timed(tokens(list), || scorer.scores(list).map(drop))).collect(),
        );
    }
    let utterances = more.get(1).map_or(Ok(UTTERANCES), |n| number(n))?;
    let batches = batches(&examples, utterances, count);
    let options = TrainOptions { beta: Beta::Fixed(1.0), correlation_weight: 0.0, ..TrainOptions::default() };
    match &device {
        AnyDevice::Cpu(cpu) => {
            let encoder = Encoder::load(cpu, &model.config, &model.checkpoint, true)?;
            let mut learner = CpuLearner::new(cpu, &encoder, &options, adapter);
            steps(&contender, || None, &mut learner, &batches)
        }
        AnyDevice::Cuda(cuda) => {
            let encoder = Encoder::load(cuda, &model.config, &model.checkpoint, true)?;
            let weights = cuda.allocated();
            let mut learner = CudaLearner::new(cuda, &encoder, &options, adapter);
            let memory = || Some((cuda.allocated() - weights) as f64 / f64::from(1 << 20));
            steps(&contender, memory, &mut learner, &batches)
        }
    }
}

/// Rounds of steps, each waited for: what is read after it is there.
fn steps(
    contender: &str,
    memory: impl Fn() -> Option<f64>,
    learner: &mut dyn Learner,
    batches: &[StepBatch],
) -> Result<()> {
    rounds(contender, memory, || {
        let mut step = |batch: &StepBatch| {
            learner.step(batch, 0, 1e-2)?;
            learner.losses(true).map(drop)
        };
        batches.iter().map(|b| timed(b.tokens(), || step(b))).collect()
    })
}

/// Rounds of calls of one product, all waited for together: the time of each is a share of that. As linear.py.
fn linear<D: LoraLinear>(
    contender: &str,
    device: &D,
    model: &BaseModel,
    rows: usize,
    count: usize,
    gelu: bool,
    wait: impl Fn() -> Result<()>,
) -> Result<()> {
    let target = Target::Intermediate;
    let (input, output) = target.sizes(&model.config);
    let name = format!("encoder.layer.0.{}", target.module());
    let weights = LinearWeights {
        weight: model.checkpoint.f32(&format!("{name}.weight"), &[output, input])?,
        bias: model.checkpoint.f32(&format!("{name}.bias"), &[output])?,
    };
    let lora = LoraConfig { targets: "intermediate.dense".parse()?, rank: 8, ..LoraConfig::default() };
    let adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, None, 1)?;
    let values = device.parameters(&adapter.values);
    let slots = [adapter.layout.lora(0, target).cloned()];
    let call = Call {
        linear: &device.linear(input, &[weights], false),
        lora: Some(&device.lora(&[(&values, adapter.config.scale())], &slots)),
        segments: None,
        modules: 0..1,
        dropout: None,
    };
    let x: Vec<f32> = (0..rows * input).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let x = device.upload(&x, rows, input);
    rounds(
        contender,
        || None,
        || {
            let start = Instant::now();
            for _ in 0..count {
                let epilogue = if gelu { DeviceEpilogue::Gelu } else { DeviceEpilogue::Nothing };
                device.lora_linear(&call, &x, epilogue, false);
            }
            wait()?;
            Ok(vec![(rows, start.elapsed().as_secs_f64() / count as f64)])
        },
    )
}

/// As step.py: lists of at least 8 hypotheses, the first 8 of each, as many lists a step.
fn batches(examples: &[Example], utterances: usize, steps: usize) -> Vec<StepBatch> {
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
    // A short file goes round.
    let lists: Vec<&Example> = long.iter().copied().cycle().take(utterances * steps).collect();
    lists.chunks_exact(utterances).map(batch).collect()
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

/// `memory`: MiB of the device that the work has taken, weights apart, where that is known.
fn rounds(
    contender: &str,
    memory: impl Fn() -> Option<f64>,
    mut round: impl FnMut() -> Result<Vec<(usize, f64)>>,
) -> Result<()> {
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
        let mut answer = serde_json::json!({
            "contender": contender,
            "tokens_per_s": (tokens as f64 / total).round(),
            "p50_ms": percentile(0.5),
            "p95_ms": percentile(0.95),
            "peak_rss_mb": peak_rss_mb(),
        });
        if let Some(memory) = memory() {
            answer["device_mb"] = memory.into();
        }
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
