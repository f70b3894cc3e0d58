//! `--profile`: the operations that ran, their work, and when, and nothing else changed.

mod support;

use std::collections::HashMap;
use std::fs;

use lorb_engine::bert::{Encoder, PackedBatch};
use lorb_engine::device::Memory;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::profile::{Kind, Recorder};
use lorb_engine::tape::Tape;
use serde_json::Value;
use support::cli::{Desk, lists};
use support::{TinyBert, tiny_bert};

#[test]
fn multiply_adds_are_counted_as_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path(), 3, &TinyBert::default());
    let model = BaseModel::open(dir.path()).unwrap();
    let lora = LoraConfig { rank: 4, targets: "all".parse().unwrap(), ..LoraConfig::default() };
    let adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, None, 5).unwrap();

    let recorder = Recorder::start();
    let cpu = Cpu::new(Isa::available()[0]).recorded_by(recorder.clone());
    let encoder = Encoder::load(&cpu, &model.config, &model.checkpoint, true).unwrap();
    let operands = encoder.operands(&cpu, &[(&adapter, &adapter.values)]);
    // 7 tokens, of which the first two of both are the same: 5 distinct.
    let batch = PackedBatch::new(&cpu, &[vec![2, 5, 6, 3], vec![2, 5, 3]]);
    let mut tape = Tape::recording();
    let scored = encoder.forward(&cpu, &operands, &batch, None, &mut tape);
    let mut gradient = vec![0.0; adapter.layout.len()];
    let d_scores = cpu.upload(&[1.0, -1.0], 2, 1);
    tape.backward(&cpu, vec![(scored.scores, d_scores)], &mut gradient);

    let (h, wide, rank) = (32, 64, 4);
    let forward = |rows: u64, k: u64, n: u64| 2 * rows * (k * n + rank * (k + n));
    // The adapter's product with dy, both gradients, and what goes on to x.
    let backward = |rows: u64, k: u64, n: u64| 2 * rows * (k * n + 2 * rank * (k + n));
    let lowest = |rows: u64, k: u64, n: u64| 2 * rows * rank * (k + 2 * n);
    // The last layer needs keys and values of every token, and the rest for the two [CLS].
    let linear = 3 * forward(5, h, h) + 2 * forward(7, h, h) + forward(2, h, h);
    let residual = |rows| forward(rows, h, h) + forward(rows, wide, h);
    let behind = |rows| backward(rows, h, h) + backward(rows, h, wide) + backward(rows, wide, h);
    let pairs = (16 + 9) + (4 + 3);
    let expected = HashMap::from([
        ("linear", linear),
        ("linear, residual", residual(7) + residual(2)),
        ("linear, GELU", forward(7, h, wide) + forward(2, h, wide)),
        (
            "linear, backward",
            behind(2) + backward(2, h, h) + 2 * backward(7, h, h) + behind(7) + 3 * lowest(5, h, h),
        ),
        ("attention", 2 * 2 * pairs * h),
        ("attention, backward", 5 * 2 * pairs * h),
        ("pooler", 2 * 2 * h * h),
        ("pooler, backward", 2 * 2 * h * h),
    ]);
    let totals = recorder.totals(Kind::Operation);
    let counted = totals.iter().filter(|(_, total)| total.work.flop > 0.0);
    let counted: HashMap<&str, u64> = counted.map(|(name, t)| (*name, t.work.flop as u64)).collect();
    assert_eq!(counted, expected);

    let of = |name: &str| totals.iter().find(|(n, _)| *n == name).unwrap().1;
    // Both of each layer; and again, for the gradients of A, those that an adapted product reads.
    let rows = 2 * (7 + 2) + (2 * 7 + 2);
    assert_eq!((of("layer norm").calls, of("layer norm").work.bytes), (7, (2 * 4 * 32 * rows) as f64));
    // The weight and its input and output.
    assert_eq!(of("pooler").work.bytes, (4 * (h * h + 2 * 2 * h)) as f64);
}

/// The complete events of a trace by thread, each thread's in order: name, start and end in microseconds.
fn spans(trace: &str) -> HashMap<u64, Vec<(String, f64, f64)>> {
    let events: Vec<Value> = serde_json::from_str(trace).unwrap();
    let mut threads: HashMap<u64, Vec<_>> = HashMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let start = event["ts"].as_f64().unwrap();
        let span = (event["name"].as_str().unwrap().into(), start, start + event["dur"].as_f64().unwrap());
        threads.entry(event["tid"].as_u64().unwrap()).or_default().push(span);
    }
    for spans in threads.values_mut() {
        spans.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.2.total_cmp(&a.2)));
    }
    threads
}

/// Every span lies within or after those before it on its thread.
#[track_caller]
fn assert_nested(trace: &str) {
    const ROUNDING: f64 = 1e-3;
    for (thread, spans) in spans(trace) {
        let mut open: Vec<f64> = Vec::new();
        for (name, start, end) in spans {
            while open.last().is_some_and(|&last| last <= start + ROUNDING) {
                open.pop();
            }
            assert!(open.last().is_none_or(|&last| end <= last + ROUNDING), "{name} on {thread} at {start}");
            open.push(end);
        }
    }
}

#[test]
fn a_profile_of_rescoring_accounts_for_its_time_and_changes_nothing() {
    let desk = Desk::new();
    let wide = TinyBert { hidden: 128, intermediate: 512, ..TinyBert::default() };
    tiny_bert(&desk.path("wide"), 3, &wide);
    support::cli::write_adapter(&desk.path("wide"), &desk.path("wide-adapter"));
    desk.write("in.jsonl", lists(1, 100));
    let rescore = "rescore --model wide --adapter wide-adapter --input in.jsonl --device cpu";
    let plain = desk.ok(rescore);
    let profiled = || {
        let ran = desk.run(&format!("{rescore} --threads 1 --profile trace.json"));
        assert_eq!((ran.code, &ran.stdout), (Some(0), &plain), "{}", ran.stderr);
        let trace = desk.read("trace.json");
        assert_nested(&trace);
        let spans = spans(&trace);
        let seconds = |thread: u64, matches: &dyn Fn(&str) -> bool| {
            let of = spans[&thread].iter().filter(|(name, ..)| matches(name));
            of.map(|(_, start, end)| (end - start) / 1e6).sum::<f64>()
        };
        let (inside, all) = (seconds(1, &|name| name != "tokenise"), seconds(0, &|name| name == "score"));
        assert!(inside <= all, "operations have {inside} s of {all} s");
        (ran, inside / all)
    };
    // A busy machine stops the program between operations too: it does not each time.
    let (ran, share) = (0..5).map(|_| profiled()).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(share > 0.7, "operations have {share} of the time");

    for name in
        ["linear, GELU", "attention", "layer norm", "tokenise", "elsewhere", "phase score", "1 threads"]
    {
        assert!(ran.stderr.contains(name), "{name:?} is not in: {}", ran.stderr);
    }
    let shares = ran.stderr.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let share = cells.iter().position(|cell| *cell == "%")?;
        cells[share - 1].parse::<f64>().ok()
    });
    let sum: f64 = shares.sum();
    assert!((sum - 100.0).abs() < 1.0, "shares of {sum} %: {}", ran.stderr);

    desk.ok(&format!("{rescore} --threads 3 --profile trace.json"));
    assert_nested(&desk.read("trace.json"));
    desk.refused(&format!("{rescore} --profile no/such/folder.json"), 2, &["no/such/folder.json"]);
}

#[test]
fn a_profile_of_training_changes_nothing() {
    let desk = Desk::new();
    desk.write("train.jsonl", lists(2, 60));
    let train = "train --model base --train train.jsonl --epochs 1 --device cpu --corr-weight 0.01 --out";
    desk.ok(&format!("{train} plain"));
    let ran = desk.run(&format!("{train} profiled --profile trace.json"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let adapter = |out: &str| fs::read(desk.path(out).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("plain") == adapter("profiled"), "the adapters differ");
    let trace = desk.read("trace.json");
    assert_nested(&trace);
    let spans = spans(&trace);
    let names: Vec<&str> = spans.values().flatten().map(|(name, ..)| name.as_str()).collect();
    for name in ["linear, backward", "attention, backward", "layer norm, backward", "gather rows, backward"]
        .iter()
        .chain(&["AdamW", "MWER", "correlation", "sum gradients", "pack adapters", "step", "score"])
    {
        assert!(names.contains(name) && ran.stderr.contains(name), "{name:?}: {}", ran.stderr);
    }
}
