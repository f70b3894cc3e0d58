//! `train` finds out what the references say about the order of words, and everything that rescores makes use of it.

mod support;

use std::fs;

use lorb_engine::rescore::ngram::{Likelihood, Ngram};
use lorb_engine::rescore::weights::RescoringFile;
use serde_json::{Value, json};
use support::cli::{Desk, parsed};

/// Lists of one pattern, whose first pass prefers a hypothesis that has its words in another order.
fn patterned(count: usize) -> String {
    let (things, people) = (["one", "all", "so"], ["he", "she", "they", "we"]);
    let line = |i: usize| {
        let (thing, person) = (things[i % 3], people[i % 4]);
        let right = format!("{person} said that {thing} was his");
        let mut words: Vec<&str> = right.split(' ').collect();
        words.rotate_left(1 + i % 5);
        let wrong = words.join(" ");
        let hyps = [(&wrong, -1.0), (&right, -1.5)].map(|(text, am)| json!({"text": text, "am": am}));
        format!("{}\n", json!({"id": format!("u{i}"), "ref": right, "hyps": hyps}))
    };
    (0..count).map(line).collect()
}

/// The adapter's score stays what it was, and knows nothing of the pattern.
const TRAIN: &str =
    "train --model base --init-adapter adapter --train in.jsonl --epochs 1 --lr 1e-9 --head-lr 1e-9";

fn trained() -> (Desk, String) {
    let desk = Desk::new();
    desk.write("in.jsonl", patterned(60));
    let said = desk.ok(&format!("{TRAIN} --out trained"));
    (desk, said)
}

fn numbers(line: &Value, key: &str) -> Vec<f64> {
    line["hyps"].as_array().unwrap().iter().map(|h| h[key].as_f64().unwrap()).collect()
}

#[test]
fn the_model_of_the_references_counts_in_the_total() {
    let (desk, said) = trained();
    assert!(said.contains("a 3-gram model of the references (11 words) counts beside"), "{said}");
    assert!(fs::read_to_string(desk.path("trained/README.md")).unwrap().contains("ngram.arpa"));
    let settings = RescoringFile::load(&desk.path("trained")).unwrap().unwrap();
    let (weights, familiarity) = (settings.weights, settings.ngram.unwrap());
    assert!(weights.ngram > 0.0, "{weights}");
    let ngram = Ngram::load(&desk.path("trained")).unwrap().unwrap();

    let rescored = desk.ok("rescore --model base --adapter trained --input in.jsonl");
    for line in parsed(&rescored) {
        assert_eq!(line["best"], line["ref"]);
        let [am, lorb, d, total] = ["am", "lorb", "lorb_ngram", "total"].map(|key| numbers(&line, key));
        let hypotheses = line["hyps"].as_array().unwrap().iter();
        let words = hypotheses.map(|h| h["text"].as_str().unwrap().split(' ').collect::<Vec<_>>());
        let likelihoods: Vec<Likelihood> = words.map(|words| ngram.likelihood(&words)).collect();
        assert_eq!(d, familiarity.scores(likelihoods.into_iter()).collect::<Vec<_>>());
        for i in 0..d.len() {
            let sum = am[i] + weights.lorb * lorb[i] + weights.words * 6.0 + weights.ngram * d[i];
            assert!((sum - total[i]).abs() < 1e-9, "{sum} {}", total[i]);
        }
    }
    // What was written into the lists counts where they are not scored anew.
    desk.write("rescored.jsonl", &rescored);
    for command in ["evaluate rescored.jsonl", "evaluate --model base --adapter trained in.jsonl"] {
        let report: Value = serde_json::from_str(&desk.ok(&format!("{command} --json"))).unwrap();
        let found = &report["files"][0]["systems"]["rescored"];
        assert_eq!(found["substitutions"], 0, "{command}: {found}");
    }
}

#[test]
fn the_held_out_lists_are_judged_with_it() {
    let desk = Desk::new();
    desk.write("in.jsonl", patterned(60));
    desk.write("test.jsonl", patterned(12));
    desk.ok(&format!("{TRAIN} --out trained --test test.jsonl"));
    let metrics = parsed(&desk.read("trained/metrics.jsonl"));
    let sets = metrics.last().unwrap()["sets"].as_array().unwrap();
    for set in sets {
        assert!(set["errors"]["first_pass"].as_u64().unwrap() > 0, "{set}");
        assert_eq!(set["errors"]["rescored"], 0, "{set}");
    }
    assert_eq!(sets[1]["utterances"], 12);
}

#[test]
fn what_does_not_help_on_the_validation_lists_is_not_kept() {
    let desk = Desk::new();
    desk.write("in.jsonl", patterned(60));
    desk.write("strange.jsonl", support::cli::lists(40, 60));
    desk.ok(&format!("{TRAIN} --out trained --valid strange.jsonl"));
    assert!(!desk.path("trained/ngram.arpa").exists());
    let settings = RescoringFile::load(&desk.path("trained")).unwrap().unwrap();
    assert_eq!((settings.weights.ngram, settings.ngram), (0.0, None));
}

#[test]
fn it_says_nothing_of_lists_that_are_strange_to_it() {
    let (desk, _) = trained();
    let strange = json!({"id": "v", "hyps": [
        {"text": "at the end of it", "am": -1.0},
        {"text": "at an end of it", "am": -1.5},
    ]});
    desk.write("strange.jsonl", format!("{strange}\n"));
    let rescored = desk.ok("rescore --model base --adapter trained --input strange.jsonl");
    let line = &parsed(&rescored)[0];
    assert_eq!(numbers(line, "lorb_ngram"), [0.0, 0.0]);
}

#[test]
fn formats_that_need_every_score_hold_familiar_and_strange_lists() {
    let (desk, _) = trained();
    let line =
        |text: &str| format!("{}\n", json!({"id": "v", "ref": text, "hyps": [{"text": text, "am": -1.0}]}));
    let (familiar, strange) = (patterned(1), line("at the end of it"));
    for (order, lists) in
        [("first", format!("{strange}{familiar}")), ("last", format!("{familiar}{strange}"))]
    {
        desk.write("mixed.jsonl", lists);
        for format in ["kaldi", "csv", "parquet", "espnet", "mlm"] {
            let out = format!("{order}.{format}");
            let command = "rescore --model base --adapter trained --input mixed.jsonl";
            desk.ok(&format!("{command} --output {out} --output-format {format}"));
            for line in parsed(&desk.ok(&format!("convert {out} - --from {format}"))) {
                let zero = numbers(&line, "lorb_ngram").iter().all(|d| *d == 0.0);
                assert_eq!(zero, line["id"] == "v", "{out}: {line}");
            }
        }
    }
}

#[test]
fn it_knows_a_list_by_all_of_it_whatever_is_pruned() {
    let (desk, _) = trained();
    let rescore = "rescore --model base --adapter trained --input in.jsonl";
    let (all, pruned) = (desk.ok(rescore), desk.ok(&format!("{rescore} --prune 0.1")));
    for (all, pruned) in parsed(&all).iter().zip(parsed(&pruned)) {
        assert_eq!(pruned["pruned"], json!([1]));
        for key in ["lorb", "lorb_ngram", "total"] {
            assert_eq!(pruned["hyps"][0][key], all["hyps"][0][key], "{key}");
        }
        assert!(pruned["hyps"][1].get("lorb_ngram").is_none(), "{pruned}");
    }
}

#[test]
fn a_field_of_the_users_own_stays() {
    let (desk, _) = trained();
    desk.write("own.jsonl", desk.read("in.jsonl").replace("\"am\"", "\"ngram\":-7.5,\"am\""));
    for weights in ["", " --lm ngram"] {
        let rescored = desk.ok(&format!("rescore --model base --adapter trained --input own.jsonl{weights}"));
        assert!(parsed(&rescored).iter().all(|line| numbers(line, "ngram") == [-7.5, -7.5]));
    }
    desk.refused(
        "rescore --model base --adapter trained --input in.jsonl --lm lorb_ngram",
        2,
        &["\"lorb_ngram\": rescoring overwrites it"],
    );
}

#[test]
fn a_merged_model_keeps_it_and_an_adapter_may_do_without() {
    let (desk, _) = trained();
    desk.ok("merge --model base --adapter trained --output merged");
    assert_eq!(desk.read("merged/ngram.arpa"), desk.read("trained/ngram.arpa"));
    let merged = desk.ok("rescore --model merged --input in.jsonl");
    assert!(parsed(&merged).iter().all(|line| numbers(line, "lorb_ngram").iter().all(|d| *d != 0.0)));

    // Another run into the same folder takes the old model away.
    let said = desk.ok(&format!("{TRAIN} --out trained --ngram-order 0"));
    assert!(!said.contains("-gram model") && !desk.path("trained/ngram.arpa").exists(), "{said}");
    let without = desk.ok("rescore --model base --adapter trained --input in.jsonl");
    assert!(parsed(&without).iter().all(|line| line["hyps"][0].get("lorb_ngram").is_none()));
    desk.refused(&format!("{TRAIN} --out new --ngram-order 6"), 2, &["--ngram-order 6: expected 5 at most"]);
}

#[test]
fn a_damaged_model_is_refused_with_its_line() {
    let (desk, _) = trained();
    let whole = desk.read("trained/ngram.arpa");
    desk.write("trained/ngram.arpa", whole.replacen("\\1-grams:", "\\one-grams:", 1));
    let rescore = "rescore --model base --adapter trained --input in.jsonl";
    desk.refused(rescore, 2, &["trained/ngram.arpa:6: expected \\1-grams:"]);
    desk.write("trained/ngram.arpa", &whole[..whole.len() - "\\end\\\n".len()]);
    desk.refused(rescore, 2, &["trained/ngram.arpa", "the file ends before \\end\\"]);
    desk.write("trained/ngram.arpa", [0xff, 0xfe]);
    desk.refused(rescore, 2, &["trained/ngram.arpa"]);
    fs::remove_file(desk.path("trained/ngram.arpa")).unwrap();
    desk.refused(rescore, 2, &["trained/ngram.arpa: it is missing"]);
}
