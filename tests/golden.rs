//! Parity with PyTorch + transformers + PEFT: the numbers of tests/fixtures/golden, made by
//! scripts/make_golden.py in f64, on every instruction set of this machine.

use std::path::{Path, PathBuf};

use lorb_engine::bert::Encoder;
use lorb_engine::bert::tensors::Tensors;
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::lora::Adapter;
use lorb_engine::model::BaseModel;
use lorb_engine::ops::adamw::{Adamw, AdamwOptions};
use lorb_engine::rescore::scorer::Scorer;
use lorb_engine::train::TrainOptions;
use lorb_engine::train::batch::StepBatch;
use lorb_engine::train::schedule::lr_factor;
use lorb_engine::train::schedule::parameter_groups;
use lorb_engine::train::step::{Objective, StepGradient, gradient};
use serde_json::Value;

const VARIANTS: [&str; 3] = ["adapter_start", "adapter_qv", "adapter_pooler"];

struct Golden {
    json: Value,
    tensors: Tensors,
    base: BaseModel,
    batch: StepBatch,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden")
}

impl Golden {
    fn open() -> Golden {
        let json: Value =
            serde_json::from_slice(&std::fs::read(folder().join("golden.json")).unwrap()).unwrap();
        let lists = std::fs::read_to_string(folder().join("lists.jsonl")).unwrap();
        let mut batch = StepBatch::default();
        for (line, utterance) in lists.lines().zip(json["utterances"].as_array().unwrap()) {
            let list: Value = serde_json::from_str(line).unwrap();
            let rows = list["hyps"].as_array().unwrap().iter();
            let rows = rows.zip(utterance["errors"].as_array().unwrap());
            let rows = rows.zip(utterance["token_ids"].as_array().unwrap());
            batch.push(rows.map(|((hyp, errors), ids)| {
                let ids = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
                let offset = json["settings"]["w_a"].as_f64().unwrap() * hyp["am"].as_f64().unwrap();
                (ids.collect(), offset, errors.as_u64().unwrap() as u32)
            }));
        }
        let tensors = Tensors::open(folder().join("golden.safetensors")).unwrap();
        Golden { json, tensors, base: BaseModel::open(&folder().join("base")).unwrap(), batch }
    }

    fn adapter(&self, variant: &str) -> Adapter {
        let adapter =
            Adapter::load(folder().join(variant), &self.base.config, &self.base.checkpoint).unwrap();
        let theta = self.json["settings"]["theta_start"].as_f64().unwrap();
        adapter.learn_beta(&self.base.config, theta.exp() as f32).unwrap()
    }

    fn step(&self, cpu: &Cpu, encoder: &Encoder<Cpu>, adapter: &Adapter, step: u64) -> StepGradient {
        let weight = self.json["settings"]["correlation_weight"].as_f64().unwrap();
        let objective = Objective { beta: f64::NAN, correlation_weight: weight, seed: 0 };
        gradient(cpu, encoder, adapter, &self.batch, objective, step)
    }

    /// Compares the flat `values` tensor by tensor with those stored under `prefix`: the relative error of
    /// each in norm.
    fn compare(&self, adapter: &Adapter, values: &[f32], prefix: &str, tolerance: f64) {
        let mut compared = 0;
        for entry in adapter.layout.entries() {
            let bert = if entry.name.starts_with("classifier") { "" } else { "bert." };
            let name = format!("{prefix}/base_model.model.{bert}{}", entry.name);
            let Some(shape) = self.tensors.shape(&name).map(<[usize]>::to_vec) else {
                assert_eq!(entry.name, "theta", "{name} is not in the fixture");
                continue;
            };
            let golden = self.tensors.f32(&name, &shape, "").unwrap();
            let got = &values[entry.range()];
            // B is kept transposed.
            let at = |i: usize| match name.ends_with("lora_B.weight") {
                true => got[i % entry.rows * entry.cols + i / entry.rows],
                false => got[i],
            };
            let norm = |x: f64| x.sqrt();
            let size = norm(golden.iter().map(|&g| f64::from(g).powi(2)).sum());
            let error = norm(golden.iter().enumerate().map(|(i, &g)| f64::from(at(i) - g).powi(2)).sum());
            assert!(error <= tolerance * size, "{name}: error {error:e}, norm {size:e}");
            compared += 1;
        }
        assert!(compared + 1 == adapter.layout.entries().len());
    }
}

fn close(got: f64, golden: f64, tolerance: f64, what: &str) {
    assert!((got - golden).abs() <= tolerance * golden.abs().max(1.0), "{what}: {got} is not {golden}");
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

#[test]
fn token_ids_are_those_of_transformers() {
    let golden = Golden::open();
    let lists = std::fs::read_to_string(folder().join("lists.jsonl")).unwrap();
    let mut expected = golden.batch.sequences.iter();
    for line in lists.lines() {
        let list: Value = serde_json::from_str(line).unwrap();
        for hyp in list["hyps"].as_array().unwrap() {
            let ids = golden.base.tokenizer.encode(hyp["text"].as_str().unwrap(), 64).unwrap().ids;
            assert_eq!(Some(&ids), expected.next());
        }
    }
}

#[test]
fn scores_are_within_1e_5() {
    let golden = Golden::open();
    for &isa in Isa::available() {
        for variant in VARIANTS {
            let scorer =
                Scorer::new(AnyDevice::Cpu(Cpu::poisoned(isa)), &golden.base, &[&golden.adapter(variant)])
                    .unwrap();
            let expected = numbers(&golden.json["variants"][variant]["f64"]["scores"]);
            let scores = scorer.scores(&golden.batch.sequences).unwrap();
            assert_eq!(scores.len(), expected.len());
            for (got, expected) in scores.iter().zip(&expected) {
                close(f64::from(*got), *expected, 1e-5, &format!("{} {variant}", isa.name()));
            }
        }
    }
}

#[test]
fn losses_and_gradients_are_within_1e_4() {
    let golden = Golden::open();
    for &isa in Isa::available() {
        let cpu = Cpu::poisoned(isa);
        let encoder = Encoder::load(&cpu, &golden.base.config, &golden.base.checkpoint, true).unwrap();
        for variant in VARIANTS {
            let adapter = golden.adapter(variant);
            let step = golden.step(&cpu, &encoder, &adapter, 0);
            let expected = &golden.json["variants"][variant]["f64"];
            close(step.mwer, expected["loss"]["mwer"].as_f64().unwrap(), 1e-5, "MWER loss");
            close(step.correlation, expected["loss"]["correlation"].as_f64().unwrap(), 1e-5, "correlation");
            golden.compare(&adapter, &step.gradient, &format!("{variant}/gradient"), 1e-4);
            let theta = f64::from(step.gradient[adapter.layout.theta().unwrap()]);
            close(theta, expected["theta_gradient"].as_f64().unwrap(), 1e-4, "theta's gradient");
        }
    }
}

#[test]
fn ten_steps_of_adamw_end_within_1e_4() {
    let golden = Golden::open();
    let settings = &golden.json["settings"];
    let lr = settings["lr"].as_f64().unwrap() as f32;
    let options = TrainOptions { lr, head_lr: lr, weight_decay: 0.01, ..Default::default() };
    for &isa in Isa::available() {
        let cpu = Cpu::poisoned(isa);
        let encoder = Encoder::load(&cpu, &golden.base.config, &golden.base.checkpoint, true).unwrap();
        for variant in VARIANTS {
            let mut adapter = golden.adapter(variant);
            let steps = &golden.json["variants"][variant]["f64"]["steps"];
            let mut adamw = Adamw::new(AdamwOptions::default(), adapter.values.len());
            for t in 0..10 {
                let step = golden.step(&cpu, &encoder, &adapter, t);
                close(step.mwer, numbers(&steps["mwer"])[t as usize], 1e-4, "MWER loss");
                let groups = parameter_groups(&adapter, &options, lr_factor(t, 12, 0.25));
                let norm = adamw.update(&mut adapter.values, &step.gradient, &groups);
                close(norm, numbers(&steps["clip_norm"])[t as usize], 1e-4, "gradient norm");
                let theta = f64::from(adapter.beta().unwrap()).ln();
                close(theta, numbers(&steps["theta_after"])[t as usize], 1e-4, "theta");
            }
            if variant == "adapter_start" {
                golden.compare(&adapter, &adapter.values, "adapter_start/after", 1e-4);
            }
        }
    }
}
