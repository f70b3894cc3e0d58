//! The pages for users of ESPnet, Kaldi, k2 and NeMo, run as they are written, on the embedded model and lists.
//!
//! Each block of commands runs in a folder that has what its page says that there is: lists in the layout of the
//! recogniser, references as they lie beside it, and the model under the name BERT.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::cli::{Desk, PROGRAM, parsed};

const EMBEDDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin");

/// Lists to train on: fewer gain little, all take longer.
const TRAINING_LISTS: usize = 200;

/// Hypotheses of each list.
const BEAM: usize = 8;

/// The blocks of a page that have commands of this program.
fn blocks(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(path).unwrap();
    let blocks =
        text.split("\n```").skip(1).step_by(2).map(|block| block.trim_start_matches('\n').to_owned());
    blocks.filter(|block| block.contains("lorb-engine ")).collect()
}

/// A folder with the model, and the embedded lists of a development set and a test set in it as JSON lines.
fn desk() -> (Desk, [Vec<Value>; 2]) {
    let desk = Desk::new();
    std::os::unix::fs::symlink(format!("{EMBEDDED}/model"), desk.path("BERT")).unwrap();
    let lists = ["train", "valid"].map(|set| {
        let lines = parsed(&desk.ok(&format!("convert {EMBEDDED}/{set}.jsonl.gz -")));
        let mut lines: Vec<Value> = lines.into_iter().take(TRAINING_LISTS).collect();
        for line in &mut lines {
            line["hyps"].as_array_mut().unwrap().truncate(BEAM);
        }
        lines
    });
    (desk, lists)
}

/// Writes the lists in a format, each hypothesis as `change` makes it.
fn write(desk: &Desk, lists: &[Value], to: &str, format: &str, change: impl Fn(&mut Value)) {
    let mut lists = lists.to_vec();
    for hypothesis in lists.iter_mut().flat_map(|line| line["hyps"].as_array_mut().unwrap()) {
        change(hypothesis);
    }
    desk.write("lists", lists.iter().map(|line| format!("{line}\n")).collect::<String>());
    desk.ok(&format!("convert lists {to} --to {format}"));
    fs::remove_file(desk.path("lists")).unwrap();
}

/// A text of Kaldi with what was said.
fn write_references(desk: &Desk, lists: &[Value], set: &str) {
    fs::create_dir_all(desk.path(&format!("data/{set}"))).unwrap();
    let line = |line: &Value| format!("{} {}\n", line["id"].as_str().unwrap(), line["ref"].as_str().unwrap());
    desk.write(&format!("data/{set}/text"), lists.iter().map(line).collect::<String>());
}

/// A stand-in for the score of a language model.
fn lm(hypothesis: &Value) -> Value {
    json!(-(hypothesis["text"].as_str().unwrap().split(' ').count() as f64))
}

/// Runs a block, and gives what it printed.
#[track_caller]
fn run(desk: &Desk, block: &str) -> String {
    let folder = Path::new(PROGRAM).parent().unwrap().display().to_string();
    let ran = desk.shell(&format!("set -e\nPATH={folder}:$PATH\n{block}"));
    assert_eq!(ran.code, Some(0), "{block}\n{}\n{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// The word error rate of what rescoring chose must be lower than that of the first pass.
#[track_caller]
fn assert_better(desk: &Desk, lists: &[Value], best: &[String]) {
    assert_eq!(best.len(), lists.len());
    let wer = |texts: &mut dyn Iterator<Item = &str>| -> f64 {
        let lines = lists.iter().zip(texts).map(|(line, text)| {
            format!("{}\n", json!({"id": line["id"], "ref": line["ref"], "hyps": [{"text": text, "am": 0}]}))
        });
        desk.write("chosen", lines.collect::<String>());
        let report: Value = serde_json::from_str(&desk.ok("evaluate chosen --json")).unwrap();
        report["files"][0]["systems"]["first_pass"]["wer"].as_f64().unwrap()
    };
    let before = wer(&mut lists.iter().map(|line| line["hyps"][0]["text"].as_str().unwrap()));
    let after = wer(&mut best.iter().map(String::as_str));
    assert!(after < before, "{after} % after rescoring, {before} % before");
}

/// The values of a file of ids and texts.
fn texts(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

#[test]
fn espnet() {
    let [block] = &blocks("espnet.md")[..] else { panic!("one block of commands") };
    let (desk, [dev, test]) = desk();
    for (set, lists) in [("dev", &dev), ("test", &test)] {
        let jobs = lists.chunks(lists.len().div_ceil(2)).zip(1..);
        fs::create_dir_all(desk.path(&format!("DECODE/{set}"))).unwrap();
        for (lists, job) in jobs {
            write(&desk, lists, &format!("DECODE/{set}/output.{job}"), "espnet", |hypothesis| {
                let am = hypothesis["am"].clone();
                let text = &hypothesis["text"];
                *hypothesis =
                    json!({"text": text, "score": am, "decoder": am, "ctc": am, "lm": lm(hypothesis)});
            });
        }
        write_references(&desk, lists, set);
    }
    let printed = run(&desk, block);
    let best = printed.lines().rev().take(test.len()).collect::<Vec<_>>();
    let best = best.into_iter().rev().collect::<Vec<_>>().join("\n");
    assert_eq!(best.trim_end(), desk.read("rescored/1best_recog/text").trim_end());
    assert_better(&desk, &test, &texts(&best));
}

#[test]
fn kaldi() {
    let blocks = blocks("kaldi.md");
    let (desk, [dev, test]) = desk();
    for (set, lists) in [("dev", &dev), ("test", &test)] {
        write(&desk, lists, set, "kaldi", |hypothesis| hypothesis["lm"] = lm(hypothesis));
        write_references(&desk, lists, set);
    }
    run(&desk, &blocks[0]);
    assert_better(&desk, &test, &texts(&desk.read("hypotheses")));
}

#[test]
fn k2() {
    let [_, block] = &blocks("kaldi.md")[..] else { panic!("one block for Kaldi, and one for k2") };
    let (desk, [dev, test]) = desk();
    for (set, lists) in [("dev", &dev), ("test", &test)] {
        write(&desk, lists, &format!("{set}.jsonl"), "jsonl", |hypothesis| {
            hypothesis["lm"] = lm(hypothesis);
            hypothesis["score"] = hypothesis["am"].clone();
        });
    }
    run(&desk, block);
    let best = parsed(&desk.read("rescored.jsonl"));
    let best: Vec<String> = best.iter().map(|line| line["best"].as_str().unwrap().into()).collect();
    assert_better(&desk, &test, &best);
}

#[test]
fn nemo() {
    let [block] = &blocks("nemo.md")[..] else { panic!("one block of commands") };
    let (desk, [dev, test]) = desk();
    for (set, lists) in [("dev", &dev), ("test", &test)] {
        write(&desk, lists, &format!("{set}_beams.tsv"), "nemo", |_| {});
        let manifest = |name: &str| desk.path(&format!("{set}_{name}.json"));
        fs::rename(manifest("beams.manifest"), manifest("manifest")).unwrap();
    }
    run(&desk, block);
    let best = desk.read("rescored.tsv");
    let best: Vec<String> =
        best.lines().step_by(BEAM).map(|line| line.split('\t').next().unwrap().to_owned()).collect();
    assert_better(&desk, &test, &best);
}
