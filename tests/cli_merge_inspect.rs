//! `merge` gives a model that scores as base and adapter did; `inspect` tells what a path holds.

mod support;

use std::path::PathBuf;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use support::cli::{Desk, PROGRAM, lists, parsed, write_adapter};
use support::{TinyBert, tiny_bert, write_safetensors};

fn lorb(text: &str) -> Vec<f64> {
    let lines = parsed(text);
    let hypotheses = lines.iter().flat_map(|line| line["hyps"].as_array().unwrap());
    hypotheses.map(|h| h["lorb"].as_f64().unwrap()).collect()
}

#[test]
fn a_merged_model_scores_as_base_and_adapter() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(20, 100));
    let said = desk.ok("merge --model base --adapter adapter --output merged");
    assert!(said.starts_with("merged: BertForSequenceClassification"), "{said}");
    let apart = desk.ok("rescore --model base --adapter adapter --input in.jsonl");
    let merged = desk.ok("rescore --model merged --input in.jsonl");
    let (apart_scores, merged_scores) = (lorb(&apart), lorb(&merged));
    assert_eq!(apart_scores.len(), merged_scores.len());
    for (a, m) in apart_scores.iter().zip(&merged_scores) {
        assert!((a - m).abs() < 1e-5, "{a} and {m}");
    }
    // The weights came along.
    for (a, m) in parsed(&apart).iter().zip(parsed(&merged)) {
        assert!((a["confidence"].as_f64().unwrap() - m["confidence"].as_f64().unwrap()).abs() < 1e-4);
    }
    desk.refused("merge --model base --adapter adapter --output merged", 2, &["merged exists already"]);
    desk.refused("merge --model base --adapter adapter --output no/such", 2, &["no/such"]);
    desk.refused("merge --model base --adapter base --output new", 2, &["adapter_config.json"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_merge_holds_one_tensor_at_a_time() {
    let desk = Desk::new();
    let base =
        TinyBert { hidden: 256, intermediate: 1024, layers: 24, dtype: Dtype::BF16, ..Default::default() };
    tiny_bert(&desk.path("half"), 1, &base);
    write_adapter(&desk.path("half"), &desk.path("of-half"));
    let peak = 1024 * desk.peak("merge --model half --adapter of-half --output merged");
    let written = std::fs::metadata(desk.path("merged/model.safetensors")).unwrap().len();
    assert!(peak < written, "{peak} bytes, to write {written}");
}

#[test]
fn models_adapters_and_lists_are_told_apart() {
    let desk = Desk::new();
    let inspect =
        |path: &str| -> Value { serde_json::from_str(&desk.ok(&format!("inspect {path} --json"))).unwrap() };
    let base = inspect("base");
    assert_eq!(
        (&base["kind"], &base["layers"], &base["tokenizer_vocabulary"]),
        (&"BERT".into(), &2.into(), &101.into())
    );
    assert_eq!(
        (&base["stored_as"], &base["pooler"], &base["classifier_labels"]),
        (&serde_json::json!(["F32"]), &true.into(), &Value::Null)
    );

    let adapter = inspect("adapter");
    assert_eq!(
        (&adapter["kind"], &adapter["rank"], &adapter["rescoring"]),
        (&"adapter".into(), &4.into(), &Value::Null)
    );
    assert_eq!(adapter["targets"], serde_json::json!(["attention.self.query", "attention.self.value"]));
    // 2 layers, 2 targets, A and B of 4 x 32; a classifier of 32 and its bias.
    assert_eq!(
        adapter["parameters"],
        serde_json::json!({"lora": 2 * 2 * 2 * 4 * 32, "pooler": 0, "head": 33})
    );
    assert_eq!(adapter["base_fingerprint"], base["fingerprint"]);

    desk.write("dev.jsonl", lists(21, 50));
    desk.write("test.jsonl", lists(22, 51));
    desk.ok("evaluate --model base --adapter adapter --tune dev.jsonl test.jsonl");
    assert_eq!(inspect("adapter")["rescoring"]["tuned_on"], serde_json::json!(["dev.jsonl"]));
    desk.ok("merge --model base --adapter adapter --output merged");
    let merged = inspect("merged");
    assert_eq!(
        (&merged["classifier_labels"], &merged["rescoring"]),
        (&1.into(), &inspect("adapter")["rescoring"])
    );

    let list = inspect("test.jsonl");
    assert_eq!(
        (&list["kind"], &list["utterances"], &list["with_reference"]),
        (&"lists".into(), &51.into(), &51.into())
    );
    assert_eq!(list["scores"].as_object().unwrap().keys().collect::<Vec<_>>(), ["am", "lm"]);
    let report: Value = serde_json::from_str(&desk.ok("evaluate test.jsonl --json")).unwrap();
    assert_eq!(list["oracle_wer"], report["files"][0]["systems"]["oracle"]["wer"]);

    let text = desk.ok("inspect adapter");
    assert!(text.contains("rank              4\n") && text.contains("\n    first pass  1\n"), "{text}");
}

#[test]
fn a_classifier_that_is_a_scalar_gives_no_labels() {
    let desk = Desk::new();
    let path = desk.path("base/model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let stored = SafeTensors::deserialize(&file).unwrap();
    let own = |(name, t): (&str, TensorView)| (name.into(), t.shape().to_vec(), t.data().to_vec());
    let mut tensors: Vec<_> = stored.iter().map(own).collect();
    tensors.push(("classifier.weight".into(), Vec::new(), vec![0; 4]));
    write_safetensors(&path, Dtype::F32, &tensors);
    let text = desk.ok("inspect base");
    assert!(text.contains("classifier labels     none\n"), "{text}");
}

#[test]
fn what_is_none_of_these_is_refused() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("empty")).unwrap();
    desk.write("bad.jsonl", "{\"id\":1,\"hyps\":[]}");
    desk.refused(
        "inspect empty",
        2,
        &[
            "empty: it has neither config.json nor adapter_config.json",
            "the folder holds no lists of a known format",
        ],
    );
    desk.refused("inspect nothing", 2, &["nothing: cannot open it"]);
    desk.refused("inspect bad.jsonl", 2, &["bad.jsonl:1: \"hyps\" is empty"]);
}

#[test]
fn real_lists_have_their_known_error_rate() {
    let Some(folder) = std::env::var_os("LORB_TEST_DATA") else {
        eprintln!("skipped: LORB_TEST_DATA does not name the folder that holds librispeech-30best/");
        return;
    };
    let path = PathBuf::from(folder).join("librispeech-30best/test_clean.jsonl.gz");
    let output = std::process::Command::new(PROGRAM).arg("inspect").arg(path).arg("--json").output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&list["utterances"], &list["hypotheses"]["median"]), (&2620.into(), &30.into()));
    assert!((list["first_pass_wer"].as_f64().unwrap() - 1.92).abs() < 0.01);
}
