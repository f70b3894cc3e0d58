use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use lorb_engine::Result;
use lorb_engine::bert::floor;
use lorb_engine::builtin;
use lorb_engine::card::{open_adapter, own_head};
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cpu::{self, peak::fma_peak};
use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::nbest::{Fields, Hypothesis, ListReader, Utterance};
use lorb_engine::rescore::prune::Margin;
use lorb_engine::rescore::rescorer::Rescorer;
use serde::Serialize;

use super::output::print;
use super::{Compute, find_adapter, open_model};

/// Measure how fast this machine rescores with a model, in less than 20 seconds
#[derive(Args)]
pub struct Bench {
    /// A Hugging Face BERT: its folder, or its id on the Hub [default: a small embedded one]
    #[arg(long, value_name = "DIR|ID")]
    model: Option<PathBuf>,
    /// An adapter: its folder, or its id on the Hub [default: the model's own head, or a fresh adapter, which is as
    /// fast]
    #[arg(long, value_name = "DIR|ID")]
    adapter: Option<PathBuf>,
    /// The lists to rescore [default: embedded ones, of 30 hypotheses or fewer]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The field of a hypothesis of --input that holds the first-pass log-score
    #[arg(long, value_name = "FIELD", default_value = "am", requires = "input")]
    first_pass: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// Lists that are kept in memory for the measurement.
const LISTS: usize = 200;
/// Lists scored together where throughput is measured, as `rescore` takes them.
const TOGETHER: usize = 32;
const EACH: Duration = Duration::from_secs(6);
const PEAK: Duration = Duration::from_millis(500);

impl Bench {
    pub fn run(self) -> Result<()> {
        let device = self.compute.start()?;
        let model = if self.model.is_some() { open_model(&self.model)? } else { builtin::model()? };
        let adapter = self.head(&model)?;
        let utterances = self.lists()?;
        let normaliser = Normaliser::new(&NormaliseOptions::default())?;
        let work = Work::of(&model, &normaliser, &utterances)?;
        let (device_name, name) = (device.description(), model.name.clone());
        let peak = match &device {
            AnyDevice::Cpu(cpu) => Some(fma_peak(cpu.isa(), cpu.dtype(), PEAK)),
            AnyDevice::Cuda(_) => None,
        };
        let rescorer = Rescorer::new(device, model, &adapter, normaliser, Unit::Word)?;
        rescorer.score(&utterances[..utterances.len().min(TOGETHER)], Margin::NONE)?;
        let alone = measure(&rescorer, utterances.chunks(1))?;
        let together = measure(&rescorer, utterances.chunks(TOGETHER))?;
        let report = Report {
            cpu: cpu::name(),
            device: device_name,
            threads: rayon::current_num_threads(),
            model: name,
            lists: utterances.len(),
            hypotheses: work.hypotheses,
            tokens: work.tokens,
            list_p50_ms: alone.percentile_ms(0.5),
            list_p95_ms: alone.percentile_ms(0.95),
            list_p99_ms: alone.percentile_ms(0.99),
            tokens_per_s_alone: alone.tokens_per_second(),
            tokens_per_s: together.tokens_per_second(),
            fma_peak_gflop_per_s: peak.map(|p| p / 1e9),
            floor_tokens_per_s: peak.map(|p| work.tokens as f64 * p / work.flop),
        };
        match self.json {
            true => print(&(serde_json::to_string(&report).expect("a report is plain data") + "\n")),
            false => print(&report.to_string()),
        }
    }

    fn head(&self, model: &BaseModel) -> Result<Adapter> {
        if let Some(adapter) = &self.adapter {
            return Ok(open_adapter(&find_adapter(adapter)?.dir, model)?.0);
        }
        match own_head(model)? {
            Some(head) => Ok(head),
            None => Adapter::initialise(&model.config, &model.checkpoint, LoraConfig::default(), None, 1),
        }
    }

    /// The first lists of the input.
    fn lists(&self) -> Result<Vec<Utterance>> {
        let fields = Fields { first_pass: self.first_pass.clone(), ..Fields::default() };
        let mut reader = match &self.input {
            Some(path) => ListReader::open(Some(path), &fields)?,
            None => builtin::held_out_lists(&Fields::default())?,
        };
        let lists = reader.by_ref().take(LISTS).collect::<Result<Vec<_>>>()?;
        if lists.is_empty() { Err(reader.no_utterances()) } else { Ok(lists) }
    }
}

/// What is there to compute, where each list is scored alone.
struct Work {
    hypotheses: usize,
    tokens: usize,
    /// What cannot be avoided.
    flop: f64,
}

impl Work {
    fn of(model: &BaseModel, normaliser: &Normaliser, utterances: &[Utterance]) -> Result<Work> {
        let mut work = Work { hypotheses: 0, tokens: 0, flop: 0.0 };
        for utterance in utterances {
            let encode = |h: &Hypothesis| {
                let text = normaliser.normalise(&h.text);
                Ok(model.tokenizer.encode(&text, model.config.max_positions)?.ids)
            };
            let sequences = utterance.hypotheses.iter().map(encode).collect::<Result<Vec<Vec<u32>>>>()?;
            work.hypotheses += sequences.len();
            work.tokens += sequences.iter().map(Vec::len).sum::<usize>();
            work.flop += floor::scoring(&model.config, &sequences).flop;
        }
        Ok(work)
    }
}

/// Calls that were timed, the tokenizer included.
struct Measured {
    tokens: u64,
    /// Of each call, in rising order.
    seconds: Vec<f64>,
}

impl Measured {
    fn percentile_ms(&self, p: f64) -> f64 {
        1e3 * self.seconds[(p * (self.seconds.len() - 1) as f64).round() as usize]
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.iter().sum::<f64>()
    }
}

/// Scores the pieces over and over for the time of one measurement.
fn measure<'a>(
    rescorer: &Rescorer,
    pieces: impl Iterator<Item = &'a [Utterance]> + Clone,
) -> Result<Measured> {
    let began = Instant::now();
    let mut measured = Measured { tokens: 0, seconds: Vec::new() };
    for piece in pieces.cycle() {
        let start = Instant::now();
        measured.tokens += rescorer.score(piece, Margin::NONE)?.tokens;
        measured.seconds.push(start.elapsed().as_secs_f64());
        if began.elapsed() >= EACH {
            break;
        }
    }
    measured.seconds.sort_by(f64::total_cmp);
    Ok(measured)
}

/// What was found.
#[derive(Serialize)]
struct Report {
    cpu: String,
    device: String,
    threads: usize,
    model: String,
    lists: usize,
    hypotheses: usize,
    tokens: usize,
    list_p50_ms: f64,
    list_p95_ms: f64,
    list_p99_ms: f64,
    tokens_per_s_alone: f64,
    tokens_per_s: f64,
    /// On the CPU.
    fma_peak_gflop_per_s: Option<f64>,
    /// What the peak would give, each list alone.
    floor_tokens_per_s: Option<f64>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine:    {}, {}, {} threads", self.cpu, self.device, self.threads)?;
        writeln!(f, "model:      {}", self.model)?;
        let (lists, hypotheses, tokens) = (self.lists, self.hypotheses, self.tokens);
        writeln!(f, "lists:      {lists} lists, {hypotheses} hypotheses, {tokens} tokens")?;
        let (p50, p95, p99) = (self.list_p50_ms, self.list_p95_ms, self.list_p99_ms);
        writeln!(f, "latency:    one list p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms")?;
        let (alone, together) = (self.tokens_per_s_alone, self.tokens_per_s);
        writeln!(
            f,
            "throughput: {alone:.0} tokens/s list by list, {together:.0} tokens/s {TOGETHER} lists at a time"
        )?;
        if let (Some(peak), Some(floor)) = (self.fma_peak_gflop_per_s, self.floor_tokens_per_s) {
            writeln!(
                f,
                "floor:      {floor:.0} tokens/s is what {peak:.0} GFLOP/s of multiply-adds would give list by list; \
                 this is {:.0} % of it",
                100.0 * alone / floor
            )?;
        }
        Ok(())
    }
}
