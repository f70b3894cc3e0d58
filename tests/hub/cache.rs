//! A cache as other programs leave it, and no network.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::support::cli::{Desk, lists};
use crate::{RESCORE, content, desk, expect, run};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Lays `files` of `from` out in the cache as a snapshot of `repository` that `revision` refers to.
fn lay_out(hub: &Path, repository: &str, revision: &str, from: &Path, files: &[&str]) {
    let folder = hub.join(format!("models--{}", repository.replace('/', "--")));
    let snapshot = folder.join("snapshots").join(COMMIT);
    for dir in [&folder.join("blobs"), &folder.join("refs"), &snapshot] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(folder.join("refs").join(revision), COMMIT).unwrap();
    for (i, file) in files.iter().enumerate() {
        fs::copy(from.join(file), folder.join(format!("blobs/{i:040x}"))).unwrap();
        symlink(format!("../../blobs/{i:040x}"), snapshot.join(file)).unwrap();
    }
}

const MODEL: [&str; 3] = ["config.json", "model.safetensors", "vocab.txt"];
const ADAPTER: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "lorb.json"];

fn lay_out_both(desk: &Desk, hub: &str, revision: &str) {
    lay_out(&desk.path(hub), "org/base", revision, &desk.path("base"), &MODEL);
    lay_out(&desk.path(hub), "org/adapter", revision, &desk.path("adapter"), &ADAPTER);
}

#[test]
fn a_snapshot_is_used_wherever_the_cache_is() {
    let (desk, expected) = desk();
    lay_out_both(&desk, "hf/hub", "main");
    lay_out_both(&desk, "xdg/huggingface/hub", "main");
    lay_out_both(&desk, "home/.cache/huggingface/hub", "main");
    for place in [
        &[("HF_HOME", "hf")][..],
        &[("HF_HUB_CACHE", "hf/hub"), ("HF_HOME", "elsewhere")],
        &[("XDG_CACHE_HOME", "xdg")],
        &[],
    ] {
        let ran = run(&desk, RESCORE, &[place, &[("HF_HUB_OFFLINE", "1")]].concat());
        expect(&ran, 0, &[]);
        assert_eq!(ran.stdout, expected, "{place:?}");
    }
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let (desk, expected) = desk();
    lay_out_both(&desk, "hf/hub", "v2");
    let offline = [("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "true")];
    for revision in ["v2", COMMIT] {
        let named = RESCORE.replace("org/base", &format!("org/base@{revision}"));
        let named = named.replace("org/adapter", &format!("org/adapter@{revision}"));
        let ran = run(&desk, &named, &offline);
        expect(&ran, 0, &[]);
        assert_eq!(ran.stdout, expected, "{revision}");
    }
    let words =
        ["org/base: no such folder here", "HF_HUB_OFFLINE", "revision main of it is not in the cache"];
    expect(&run(&desk, RESCORE, &offline), 2, &words);
    let other = RESCORE.replace("org/base", "org/other@v2");
    expect(&run(&desk, &other, &offline), 2, &["org/other@v2: ", "revision v2 of it is not in the cache"]);
}

#[test]
fn what_the_cache_lacks_is_named() {
    let (desk, _) = desk();
    lay_out(&desk.path("hf/hub"), "org/base", "main", &desk.path("base"), &MODEL[..2]);
    let offline = [("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "1")];
    let words = ["org/base: ", "it has no tokenizer.json or vocab.txt", "is not in the cache"];
    expect(&run(&desk, RESCORE, &offline), 2, &words);
}

#[test]
fn what_another_program_may_have_left_out_is_told() {
    let (desk, expected) = desk();
    lay_out(&desk.path("hf/hub"), "org/base", "main", &desk.path("base"), &MODEL);
    lay_out(&desk.path("hf/hub"), "org/adapter", "main", &desk.path("adapter"), &ADAPTER[..2]);
    let offline = [("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "1")];
    let words =
        ["org/adapter: the cache", "does not tell whether it has lorb.json, rescoring.json, ngram.arpa"];
    let ran = run(&desk, RESCORE, &offline);
    expect(&ran, 0, &words);
    assert_ne!(ran.stdout, expected, "lorb.json has the weights");
    // As Hugging Face's programs remember what a commit lacks,
    let folder = desk.path("hf/hub/models--org--adapter");
    let no_exist = folder.join(".no_exist").join(COMMIT);
    fs::create_dir_all(&no_exist).unwrap();
    for file in ["lorb.json", "rescoring.json", "ngram.arpa"] {
        fs::write(no_exist.join(file), "").unwrap();
    }
    let known = run(&desk, RESCORE, &offline);
    assert!(!known.stderr.contains("org/adapter: the cache"), "{}", known.stderr);
    assert_eq!(known.stdout, ran.stdout);
    // and all that it has.
    fs::create_dir(folder.join("trees")).unwrap();
    let tree = |files: &[&str]| {
        let files: serde_json::Map<_, _> =
            files.iter().map(|file| (file.to_string(), json!({"size": 1, "blob_id": "0"}))).collect();
        let tree = json!({"format_version": 1, "files": files}).to_string();
        fs::write(folder.join("trees").join(format!("{COMMIT}.json")), tree).unwrap();
    };
    tree(&ADAPTER);
    let words = ["org/adapter: ", "it has no lorb.json", "is not in the cache"];
    expect(&run(&desk, RESCORE, &offline), 2, &words);
    tree(&ADAPTER[..2]);
    assert_eq!(run(&desk, RESCORE, &offline).stdout, ran.stdout);
}

#[test]
fn without_a_network_the_cache_will_do() {
    let (desk, expected) = desk();
    lay_out_both(&desk, "hf/hub", "main");
    let nobody = ("HF_ENDPOINT", "http://127.0.0.1:1");
    let ran = run(&desk, RESCORE, &[("HF_HOME", "hf"), nobody]);
    expect(&ran, 0, &["org/base: cannot ask http://127.0.0.1:1", "taken from the cache"]);
    assert_eq!(ran.stdout, expected);
    let words = ["org/base: no such folder here", "cannot fetch it from http://127.0.0.1:1"];
    expect(&run(&desk, RESCORE, &[("HF_HOME", "empty"), nobody]), 1, &words);
}

#[test]
fn every_command_takes_an_id_and_changes_nothing_in_the_cache() {
    let (desk, _) = desk();
    lay_out_both(&desk, "hf/hub", "main");
    desk.write("dev.jsonl", lists(2, 30));
    let before = content(&desk.path("hf"));
    let offline = [("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "1")];
    for command in [
        "merge --model org/base --adapter org/adapter --output merged",
        "bench --model org/base --adapter org/adapter --input in.jsonl",
        "train --model org/base --init-adapter org/adapter --train dev.jsonl --epochs 1 --out trained-on",
        "train --model org/base --train dev.jsonl --epochs 1 --out trained",
    ] {
        expect(&run(&desk, command, &offline), 0, &[]);
    }
    let evaluate = "evaluate --model org/base --adapter org/adapter --tune dev.jsonl in.jsonl";
    expect(&run(&desk, evaluate, &offline), 0, &["the weights are not saved"]);
    assert_eq!(content(&desk.path("hf")), before);
    let merged = desk.ok("rescore --model merged --input in.jsonl");
    assert_eq!(merged.lines().count(), 8);
    // PEFT and this program find the base again.
    let json = |file: &str| -> serde_json::Value { serde_json::from_str(&desk.read(file)).unwrap() };
    assert_eq!(json("trained/adapter_config.json")["base_model_name_or_path"], "org/base");
    assert_eq!(json("trained/lorb.json")["base"], "org/base");
}
