//! The whole network: losses, gradients and scores of the engine against the naive form and its finite
//! differences.

use lorb_engine::bert::encoder::Operands;
use lorb_engine::bert::{Checkpoint, Config, Encoder, PackedBatch};
use lorb_engine::device::Memory;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::lora::{Adapter, Entry, Group, LoraConfig};
use lorb_engine::ops::mwer::{MwerInputs, mean_mwer};
use lorb_engine::rescore::scorer;
use lorb_engine::tape::Tape;
use lorb_engine::train::batch::StepBatch;
use lorb_engine::train::step::{Objective, StepGradient, gradient};
use tempfile::TempDir;

use crate::autodiff::{central_difference, pull_back};
use crate::bert::{Step, tensors};
use crate::harness::{Oracle, Random, ULP, bits, devices};
use crate::support::{TinyBert, tiny_bert, vocabulary};

#[derive(Clone, Debug)]
struct Case {
    layers: usize,
    targets: &'static str,
    rank: usize,
    dropout: f32,
    /// The base has none, so that the adapter trains one.
    fresh_pooler: bool,
    learned_beta: bool,
    correlation_weight: f64,
    /// Hypotheses of each utterance.
    utterances: &'static [usize],
    threads: usize,
    /// Parameters, drawn at random, whose finite differences are taken.
    sampled: usize,
}

const CASE: Case = Case {
    layers: 2,
    targets: "all",
    rank: 3,
    dropout: 0.0,
    fresh_pooler: true,
    learned_beta: true,
    correlation_weight: 0.1,
    utterances: &[5, 1, 3],
    threads: 1,
    sampled: 60,
};

struct Network {
    case: Case,
    config: Config,
    checkpoint: Checkpoint,
    adapter: Adapter,
    batch: StepBatch,
    objective: Objective,
    _dir: TempDir,
}

const STEP: u32 = 3;

/// [CLS] words [SEP], of 2 to 11 tokens; one in four repeats another, the others share their beginnings.
fn sequences(random: &mut Random, count: usize) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> = vec![vec![2, 3]];
    while all.len() < count {
        let mut next = all[random.below(all.len())].clone();
        if random.below(4) > 0 {
            next.truncate(1 + random.below(next.len() - 1));
            next.extend((0..random.below(6)).map(|_| 5 + random.below(vocabulary().len() - 5) as u32));
            next.truncate(10);
            next.push(3);
        }
        all.push(next);
    }
    all
}

/// The batch as a device has it that shares no pairs.
fn unshared<S: AsRef<[u32]>>(cpu: &Cpu, sequences: &[S], batch: PackedBatch<Cpu>) -> PackedBatch<Cpu> {
    assert!(batch.shared.as_ref().is_some_and(|shared| shared.pairs < batch.tokens), "pairs are shared");
    let token_ids: Vec<u32> = sequences.iter().flat_map(|s| s.as_ref()).copied().collect();
    let positions: Vec<u32> = sequences.iter().flat_map(|s| 0..s.as_ref().len() as u32).collect();
    PackedBatch { token_ids: cpu.index(&token_ids), positions: cpu.index(&positions), shared: None, ..batch }
}

impl Network {
    fn new(case: &Case) -> Network {
        let dir = tempfile::tempdir().unwrap();
        let options = TinyBert {
            hidden: 24,
            layers: case.layers,
            heads: 2,
            intermediate: 40,
            max_positions: 16,
            pooler: !case.fresh_pooler,
            ..TinyBert::default()
        };
        tiny_bert(dir.path(), 31, &options);
        let config = Config::open(dir.path()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let lora = LoraConfig {
            rank: case.rank,
            alpha: 4.0,
            dropout: case.dropout,
            targets: case.targets.parse().unwrap(),
            ..LoraConfig::default()
        };
        let beta = case.learned_beta.then_some(0.7);
        let mut adapter = Adapter::initialise(&config, &checkpoint, lora, beta, 1).unwrap();
        let mut random = Random::new(32);
        // As after some training: B is no longer zero, and the head no longer small.
        let theta = adapter.layout.theta();
        for (i, value) in adapter.values.iter_mut().enumerate().filter(|(i, _)| Some(*i) != theta) {
            *value = 0.3 * random.value() + if i % 7 == 0 { 0.1 } else { 0.0 };
        }
        adapter.classifier_bias = 0.3;
        let count = case.utterances.iter().sum();
        let mut ends = case.utterances.iter().scan(0, |end, n| {
            *end += n;
            Some(*end - n..*end)
        });
        let batch = StepBatch {
            sequences: sequences(&mut random, count),
            offsets: (0..count).map(|_| f64::from(2.0 * random.value())).collect(),
            errors: (0..count).map(|_| random.below(7) as u32).collect(),
            utterances: ends.by_ref().collect(),
            first_token: 0,
            first_sequence: 0,
            step_utterances: case.utterances.len(),
        };
        let objective = Objective { beta: 0.6, correlation_weight: case.correlation_weight, seed: 77 };
        Network { case: case.clone(), config, checkpoint, adapter, batch, objective, _dir: dir }
    }

    fn oracle(&self) -> Step<'_> {
        Step {
            config: &self.config,
            base: tensors(&self.config, &self.checkpoint),
            adapter: &self.adapter,
            batch: &self.batch,
            objective: self.objective,
            step: STEP,
        }
    }

    /// The mean over the utterances where g counts nothing.
    fn mwer_without(&self) -> f64 {
        let StepBatch { offsets, errors, utterances, .. } = &self.batch;
        let scores = vec![0.0; offsets.len()];
        mean_mwer(MwerInputs { offsets, scores: &scores, errors, beta: 0.0 }, utterances).loss
    }

    fn encoder(&self, cpu: &Cpu) -> Encoder<Cpu> {
        Encoder::load(cpu, &self.config, &self.checkpoint, true).unwrap()
    }

    fn gradient(&self, cpu: &Cpu) -> StepGradient {
        let encoder = self.encoder(cpu);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.case.threads).build().unwrap();
        let step = STEP.into();
        pool.install(|| gradient(cpu, &encoder, &self.adapter, &self.batch, self.objective, step))
    }
}

/// What the naive form loses in f32.
#[derive(Default)]
struct Lost {
    mwer: f64,
    correlation: f64,
    /// Of a parameter's gradient, and of a tensor's as a whole, relative to its norm.
    parameter: f64,
    tensor: f64,
}

impl Lost {
    /// The worst of some points near the adapter's values: at one point alone a sum may be exact by luck.
    fn near(op: &Step, values: &[f32]) -> Lost {
        let mut random = Random::new(34);
        let mut lost = Lost::default();
        for _ in 0..16 {
            let near: Vec<f32> = values.iter().map(|x| x * (1.0 + 1e-3 * random.value())).collect();
            let (exact, naive) = (op.losses(&wide(&near)), op.losses(&near));
            lost.mwer = lost.mwer.max((exact.mwer - f64::from(naive.mwer)).abs());
            lost.correlation = lost.correlation.max((exact.correlation - f64::from(naive.correlation)).abs());
            let (exact, naive) = (pull_back::<f64>(op, &near, &[1.0]), pull_back::<f32>(op, &near, &[1.0]));
            let differences = naive.iter().zip(&exact).map(|(&n, e)| (f64::from(n) - e).abs());
            lost.parameter = differences.fold(lost.parameter, f64::max);
            let of_tensor = |e: &Entry| relative_error(&naive[e.range()], &exact[e.range()]);
            lost.tensor = op.adapter.layout.entries().iter().map(of_tensor).fold(lost.tensor, f64::max);
        }
        lost
    }
}

/// The engine's losses and gradients against the oracle's and against finite differences.
#[track_caller]
fn check(case: Case) {
    let network = Network::new(&case);
    let op = network.oracle();
    let values = &network.adapter.values;
    let exact = op.losses(&wide(values));
    let gradient: Vec<f64> = pull_back(&op, values, &[1.0]);
    let largest = gradient.iter().fold(0.0, |a: f64, d| a.max(d.abs()));
    let lost = Lost::near(&op, values);

    let mut random = Random::new(33);
    let theta = network.adapter.layout.theta();
    let sampled = (0..case.sampled).map(|_| random.below(values.len())).chain(theta);
    let differences: Vec<(usize, f64)> =
        sampled.map(|i| (i, central_difference(&op, values, &[1.0], i))).collect();
    for &(i, difference) in &differences {
        let error = (gradient[i] - difference).abs();
        assert!(
            error <= 1e-8 * largest,
            "{case:?}: parameter {i} by the oracle {} not {difference}",
            gradient[i]
        );
    }

    for cpu in devices() {
        let name = format!("on {}, {case:?}", cpu.isa().name());
        let require = |what: &str, error: f64, naive: f64| {
            println!("network {what} {name}: error {error:.2e}, naive {naive:.2e}, floor 0");
            assert!(error <= 2.0 * naive, "{what} {name}: error {error:.2e}, naive {naive:.2e}");
        };
        let found = network.gradient(&cpu);
        require("mwer", (found.mwer - exact.mwer).abs(), lost.mwer);
        assert!((found.mwer_without - network.mwer_without()).abs() < 1e-12, "without g {name}");
        if case.correlation_weight > 0.0 {
            require("correlation", (found.correlation - exact.correlation).abs(), lost.correlation);
        }
        let found = found.gradient;
        assert_eq!(found.len(), values.len());
        for entry in network.adapter.layout.entries() {
            let error = relative_error(&found[entry.range()], &gradient[entry.range()]);
            require(&entry.name, error, lost.tensor);
        }
        for &(i, difference) in &differences {
            let error = (f64::from(found[i]) - difference).abs();
            let bound = 2.0 * lost.parameter;
            assert!(
                error <= bound,
                "parameter {i} {name}: {} not {difference}, within {bound:.1e}",
                found[i]
            );
        }
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

/// |found - exact| / |exact|, in the Euclidean norm.
fn relative_error(found: &[f32], exact: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(exact).map(|(&f, e)| f64::from(f) - e)) / norm(&mut exact.iter().copied())
}

#[test]
fn one_layer_is_first_and_last() {
    check(Case { layers: 1, sampled: 300, ..CASE });
}

#[test]
fn three_layers_and_a_large_batch() {
    check(Case { layers: 3, utterances: &[11, 9, 10, 2], rank: 5, sampled: 300, ..CASE });
}

#[test]
fn a_pooler_of_the_base_is_frozen() {
    check(Case { fresh_pooler: false, learned_beta: false, ..CASE });
}

#[test]
fn nothing_but_mwer() {
    check(Case { correlation_weight: 0.0, targets: "query,value", rank: 8, ..CASE });
}

#[test]
fn chunks_of_several_workers_make_one_gradient() {
    check(Case { threads: 3, utterances: &[7, 6], ..CASE });
}

/// With MWER alone a step of so many tokens goes forward and back in pieces of a few utterances.
#[test]
fn pieces_of_a_step_make_one_gradient() {
    let mwer = Case { correlation_weight: 0.0, utterances: &[16, 21, 17, 10], sampled: 8, ..CASE };
    check(Case { targets: "query,key,value", dropout: 0.3, ..mwer });
}

#[test]
fn adapters_above_the_first_product_only() {
    check(Case { targets: "output.dense", rank: 1, ..CASE });
    check(Case { targets: "intermediate.dense,key", rank: 2, layers: 1, ..CASE });
}

#[test]
fn dropout_masks_are_those_of_the_step() {
    for layers in [1, 3] {
        check(Case { layers, targets: "query,key,value", dropout: 0.3, ..CASE });
    }
    check(Case { targets: "query,key,value", dropout: 0.3, threads: 3, ..CASE });
}

#[test]
fn dropout_of_every_target() {
    check(Case { dropout: 0.3, ..CASE });
}

#[test]
fn the_head_alone_is_trained_without_the_encoder() {
    let case = Case { targets: "none", ..CASE };
    check(case.clone());
    let network = Network::new(&case);
    assert_eq!(network.adapter.layout.count(Group::Lora), 0);
    for cpu in devices() {
        let found = network.gradient(&cpu).gradient;
        assert!(found.iter().all(|&d| d != 0.0), "every parameter of a head has a gradient");
    }
}

/// What a tape records shows in what needs a gradient.
#[test]
fn a_tape_records_only_what_is_trained() {
    let cpu = Cpu::poisoned(Isa::available()[0]);
    for (targets, fresh_pooler, expected) in
        [("all", true, true), ("query", false, true), ("none", true, true), ("none", false, false)]
    {
        let network = Network::new(&Case { targets, fresh_pooler, ..CASE });
        let encoder = network.encoder(&cpu);
        let operands = encoder.operands(&cpu, &[(&network.adapter, &network.adapter.values)]);
        let batch = PackedBatch::new(&cpu, &network.batch.sequences);
        let recorded = encoder.forward(&cpu, &operands, &batch, None, &mut Tape::recording());
        assert_eq!(recorded.features.needs_gradient(), expected, "{targets}, {fresh_pooler}");
        assert!(recorded.scores.needs_gradient(), "a classifier is always trained");
        let idle = encoder.forward(&cpu, &operands, &batch, None, &mut Tape::idle());
        assert!(!idle.features.needs_gradient() && !idle.scores.needs_gradient());
        let values = |x: &lorb_engine::tape::Var<Cpu>| bits(&x.value.values());
        assert_eq!(values(&recorded.features), values(&idle.features), "{targets}");
        assert_eq!(values(&recorded.scores), values(&idle.scores), "{targets}");
    }
}

#[test]
fn scores_are_those_of_the_oracle_and_of_the_sequence_alone() {
    for layers in [1, 2] {
        let network = Network::new(&Case { layers, utterances: &[40], ..CASE });
        let op = network.oracle();
        let values = &network.adapter.values;
        let oracle = Oracle { exact: op.scores(&wide(values)).1, naive: op.scores(values).1 };
        for cpu in devices() {
            let encoder = network.encoder(&cpu);
            let operands = encoder.operands(&cpu, &[(&network.adapter, &network.adapter.values)]);
            let of = |batch: &PackedBatch<Cpu>| {
                encoder.forward(&cpu, &operands, batch, None, &mut Tape::idle()).scores.value.values()
            };
            let scores = |sequences: &[Vec<u32>]| of(&PackedBatch::new(&cpu, sequences));
            let sequences = &network.batch.sequences;
            let all = scores(sequences);
            let each = unshared(&cpu, sequences, PackedBatch::new(&cpu, sequences));
            assert_eq!(bits(&of(&each)), bits(&all), "shared or not");
            let name = format!("network scores on {}, {layers} layers", cpu.isa().name());
            oracle.check(name, &all, 4.0 * ULP * oracle.largest());
            for (sequence, score) in sequences.iter().zip(&all) {
                assert_eq!(bits(&scores(std::slice::from_ref(sequence))), bits(&[*score]), "{sequence:?}");
            }
            assert_eq!(bits(&scorer::scores(&cpu, &encoder, &operands, sequences)), bits(&all));
            let mut backwards = scores(&sequences.iter().rev().cloned().collect::<Vec<_>>());
            backwards.reverse();
            assert_eq!(bits(&backwards), bits(&all));
        }
    }
}

/// Sequences of three adapters, some with one alone, in one batch: together, and in any order.
#[test]
fn several_adapters_in_one_batch_score_as_each_alone() {
    for (targets, fresh_pooler, layers) in [("all", true, 2), ("query,value", false, 2), ("none", true, 1)] {
        let network = Network::new(&Case { targets, fresh_pooler, layers, utterances: &[12], ..CASE });
        let adapters = [1.0, -0.5, 0.25].map(|factor| {
            let mut adapter = network.adapter.clone();
            adapter.values.iter_mut().for_each(|x| *x *= factor);
            adapter.config.alpha *= 2.0 + factor;
            adapter.classifier_bias = factor;
            adapter
        });
        let sequences = &network.batch.sequences;
        let whose = [2, 0, 0, 1, 1, 1, 1, 1, 0, 2, 1, 0];
        let mut batch: Vec<(usize, &[u32])> =
            whose.iter().zip(sequences).map(|(&adapter, s)| (adapter, &s[..])).collect();
        // The same tokens at the same places for each adapter: their pairs are not shared.
        batch.extend((0..3).map(|adapter| (adapter, &sequences[3][..])));
        let mut together = batch.clone();
        together.sort_by_key(|(adapter, _)| *adapter);
        for cpu in devices() {
            let encoder = network.encoder(&cpu);
            let with_values = adapters.each_ref().map(|a| (a, &a.values));
            let all = encoder.operands(&cpu, &with_values);
            let scores = |operands: &Operands<Cpu>, batch: &PackedBatch<Cpu>| {
                let scored = encoder.forward(&cpu, operands, batch, None, &mut Tape::idle());
                bits(&scored.scores.value.values())
            };
            let mut distinct = Vec::new();
            for batch in [&batch, &together] {
                let found = scores(&all, &PackedBatch::of_adapters(&cpu, batch));
                let sequences: Vec<&[u32]> = batch.iter().map(|(_, s)| *s).collect();
                let each = unshared(&cpu, &sequences, PackedBatch::of_adapters(&cpu, batch));
                assert_eq!(scores(&all, &each), found, "shared or not");
                for (&(adapter, sequence), score) in batch.iter().zip(&found) {
                    let alone = encoder.operands(&cpu, &with_values[adapter..=adapter]);
                    let expected = scores(&alone, &PackedBatch::new(&cpu, &[sequence]));
                    assert_eq!([*score], expected[..], "{targets}: adapter {adapter}, {sequence:?}");
                }
                distinct = found;
            }
            distinct.sort_unstable();
            distinct.dedup();
            assert!(distinct.len() > sequences.len() / 2, "the adapters differ");
        }
    }
}

/// The same bytes from a second run, and from memory that other steps have used.
#[test]
fn a_step_repeats_to_the_bit() {
    let network = Network::new(&Case { dropout: 0.2, threads: 2, ..CASE });
    for cpu in devices() {
        let (first, second) = (network.gradient(&cpu), network.gradient(&cpu));
        let fresh = network.gradient(&Cpu::new(cpu.isa()));
        assert_eq!(bits(&first.gradient), bits(&second.gradient));
        assert_eq!(bits(&first.gradient), bits(&fresh.gradient));
        assert_eq!((first.mwer, first.correlation), (fresh.mwer, fresh.correlation));
    }
}
