//! The control of docs/results.md: trains the default recipe on lists whose error counts were shuffled within
//! each list, so that there is nothing to learn. Whatever WER it then gains is chance, or a leak.
//!
//!     cargo bench --bench control -- MODEL TRAIN VALID OUT SEED
//!     lorb-engine evaluate --model MODEL --adapter OUT --tune VALID TEST

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lorb_engine::bert::Encoder;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::lora::Adapter;
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::nbest::{Fields, Reading};
use lorb_engine::rescore::weights::Weights;
use lorb_engine::train::examples::{Example, Preparation, first_pass_weight};
use lorb_engine::train::identity::Identity;
use lorb_engine::train::learner::CpuLearner;
use lorb_engine::train::sampling::{random, shuffle};
use lorb_engine::train::team::Team;
use lorb_engine::train::{Observer, Run, StepReport, TrainOptions, Validation};
use lorb_engine::{Result, atomic};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [model, train, valid, out, seed] = &arguments[..] else {
        eprintln!("usage: control MODEL TRAIN VALID OUT SEED");
        return Ok(());
    };
    let model = BaseModel::open(Path::new(model))?;
    let preparation = Preparation {
        fields: &Fields::default(),
        reading: &Reading::default(),
        normaliser: &Normaliser::new(&NormaliseOptions::default())?,
        unit: Unit::Word,
        tokenizer: &model.tokenizer,
        max_tokens: model.config.max_positions,
    };
    let read = |path: &str| preparation.read(&[PathBuf::from(path)]);
    let (mut train, mut valid) = (read(train)?, read(valid)?);
    let options = TrainOptions { seed: seed.parse().unwrap_or(1), ..TrainOptions::for_examples(&train) };
    shuffle_errors(&mut train, 1);
    shuffle_errors(&mut valid, 2);

    let cpu = Cpu::new(Isa::detect()?);
    let encoder = Encoder::load(&cpu, &model.config, &model.checkpoint, true)?;
    let lora = options.lora.clone();
    let adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, Some(1.0), options.seed)?;
    let out = Path::new(out);
    atomic::ensure_directory(out)?;
    let run = Run {
        options: &options,
        fit_head: true,
        fixed_weights: Weights { first_pass: first_pass_weight(&train, 0.0), ..Weights::default() },
        train: &train,
        valid: &valid,
        team: &Team::default(),
        out,
        checkpoint_every: Duration::MAX,
        identity: Identity {
            options: serde_json::json!({}),
            data: String::new(),
            start: String::new(),
            instruction_set: cpu.isa().name().into(),
        },
        stop: &AtomicBool::new(false),
    };
    let mut learner = CpuLearner::new(&cpu, &encoder, &options, adapter.clone());
    run.train(adapter, &mut learner, None, &mut Lines)?.adapter.save(out)
}

/// Gives each hypothesis the error count of another of its list.
fn shuffle_errors(examples: &mut [Example], stream: u64) {
    let mut random = random(0, stream);
    for example in examples {
        let mut errors: Vec<u64> = example.list.hypotheses.iter().map(|h| h.errors).collect();
        shuffle(&mut errors, &mut random);
        example.list.hypotheses.iter_mut().zip(errors).for_each(|(h, e)| h.errors = e);
    }
}

struct Lines;

impl Observer for Lines {
    fn step(&mut self, report: StepReport) {
        if report.step.is_multiple_of(100) {
            eprintln!("step {}/{}: {:?}", report.step, report.steps, report.losses);
        }
    }

    fn validation(&mut self, validation: Validation) {
        eprintln!("{validation:?}");
    }
}
