//! `evaluate`: the same numbers from a model and from a rescored file, and weights that never saw the test.

mod support;

use serde_json::Value;
use support::cli::{Desk, lists};

const EVALUATE: &str = "evaluate --model base --adapter adapter";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A desk with lists to tune on and to evaluate.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("dev.jsonl", lists(10, 120));
    desk.write("test.jsonl", lists(11, 100));
    desk
}

#[test]
fn a_rescored_file_is_evaluated_without_a_model() {
    let desk = desk();
    desk.ok("rescore --model base --adapter adapter --input test.jsonl --output rescored.jsonl");
    let with_model = json(&desk.ok(&format!("{EVALUATE} test.jsonl --json")));
    let without = json(&desk.ok("evaluate rescored.jsonl --json"));
    for key in ["utterances", "hypotheses", "reference_units", "systems", "changes"] {
        assert_eq!(with_model["files"][0][key], without["files"][0][key], "{key}");
    }
    let file = &without["files"][0];
    assert_eq!(file["utterances"], 100);
    let wer = |system: &str| {
        let s = &file["systems"][system];
        let errors: u64 =
            ["substitutions", "deletions", "insertions"].map(|k| s[k].as_u64().unwrap()).iter().sum();
        let wer = s["wer"].as_f64().unwrap();
        assert!((wer - 100.0 * errors as f64 / file["reference_units"].as_f64().unwrap()).abs() < 1e-9);
        wer
    };
    assert!(wer("oracle") <= wer("first_pass").min(wer("rescored")));
    let change = &file["changes"][0];
    assert_eq!((&change["from"], &change["to"]), (&"first_pass".into(), &"rescored".into()));
    let point = change["absolute"]["point"].as_f64().unwrap();
    assert!((point - (wer("rescored") - wer("first_pass"))).abs() < 1e-9);
    assert_eq!(without["weights"], Value::Null);
}

#[test]
fn weights_are_tuned_saved_and_used() {
    let desk = desk();
    let report = json(&desk.ok(&format!("{EVALUATE} --tune dev.jsonl test.jsonl --json")));
    let saved = json(&desk.read("adapter/rescoring.json"));
    assert_eq!(report["weights"], saved["weights"]);
    assert_eq!(report["confidence_scale"], saved["confidence_scale"]);
    assert_eq!(saved["tuned_on"][0]["list"], "dev.jsonl");
    assert_eq!(saved["tuned_on"][0]["utterances"], 120);
    let pairs: Vec<_> =
        report["files"][0]["changes"].as_array().unwrap().iter().map(|c| (&c["from"], &c["to"])).collect();
    assert_eq!(
        pairs,
        [(&"first_pass".into(), &"rescored".into()), (&"tuned_without_lorb".into(), &"rescored".into())]
    );

    let again = json(&desk.ok(&format!("{EVALUATE} test.jsonl --json")));
    assert_eq!(again["files"][0]["systems"]["rescored"], report["files"][0]["systems"]["rescored"]);
    let ran = desk.run("rescore --model base --adapter adapter --input test.jsonl --output rescored.jsonl");
    assert!(ran.stderr.contains("(adapter/rescoring.json, tuned on dev.jsonl)"), "{}", ran.stderr);
    let rescored = json(&desk.ok("evaluate rescored.jsonl --json"));
    assert_eq!(rescored["files"][0]["systems"]["rescored"], report["files"][0]["systems"]["rescored"]);

    // The lists' own scores, tuned, give the same weights.
    desk.ok("rescore --model base --adapter adapter --input dev.jsonl --output dev-rescored.jsonl");
    let own = json(&desk.ok("evaluate --tune dev-rescored.jsonl rescored.jsonl --json"));
    assert_eq!((&own["weights"], &own["saved_to"]), (&report["weights"], &Value::Null));
    assert_eq!(own["files"][0]["systems"], report["files"][0]["systems"]);
}

#[test]
fn the_evaluated_lists_do_not_touch_the_weights() {
    let desk = desk();
    desk.write("other.jsonl", lists(12, 80));
    let weights = |files: &str| {
        json(&desk.ok(&format!("{EVALUATE} --tune dev.jsonl {files} --json")))["weights"].clone()
    };
    assert_eq!(weights("test.jsonl"), weights("other.jsonl test.jsonl"));
    desk.refused(
        &format!("{EVALUATE} --tune dev.jsonl test.jsonl adapter/../dev.jsonl"),
        2,
        &["dev.jsonl cannot be both tuned on and evaluated"],
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(desk.path("dev.jsonl"), desk.path("link.jsonl")).unwrap();
        desk.refused("evaluate --tune link.jsonl dev.jsonl", 2, &["link.jsonl cannot be both"]);
    }
}

#[test]
fn plain_lists_need_no_model() {
    let desk = desk();
    let text = desk.ok("evaluate dev.jsonl test.jsonl");
    for words in ["test.jsonl: 100 utterances, ", "all 2 files: 220 utterances", "first pass", "oracle"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    assert!(!text.contains("rescored"));
    let text = desk.ok("evaluate --tune dev.jsonl test.jsonl");
    assert!(
        text.contains("weights: first pass 1, lm ")
            && text.contains("lorb 0")
            && text.contains("(tuned on dev.jsonl)"),
        "{text}"
    );
    assert!(text.contains("tuned without lorb against first pass: relative "), "{text}");
    let text = desk.ok("evaluate --unit char --case upper test.jsonl");
    assert!(text.contains("CER") && text.contains("reference characters"), "{text}");
}

#[test]
fn lists_that_do_not_belong_together_are_refused() {
    let desk = desk();
    desk.ok("rescore --model base --adapter adapter --input test.jsonl --output rescored.jsonl");
    desk.refused("evaluate dev.jsonl rescored.jsonl", 2, &["rescored.jsonl:1: utterance u0", "\"lorb\""]);
    desk.refused("evaluate --tune dev.jsonl rescored.jsonl", 2, &["rescored.jsonl:1", "\"lorb\""]);
    let mut lines: Vec<String> = lists(1, 3).lines().map(String::from).collect();
    lines[1] = lines[1].replace("\"ref\"", "\"said\"");
    desk.write("unsaid.jsonl", lines.join("\n"));
    desk.refused("evaluate unsaid.jsonl", 2, &["unsaid.jsonl:2: utterance u1: there is no \"ref\""]);
    desk.refused("evaluate --tune unsaid.jsonl dev.jsonl", 2, &["unsaid.jsonl:2"]);
    desk.write("no-lm.jsonl", lists(1, 3).replace("\"lm\"", "\"other\""));
    // The LM's scores in these lists are noise, so that tuning gives them no weight; it is a mistake still.
    desk.refused(
        "evaluate --tune dev.jsonl no-lm.jsonl",
        2,
        &["no-lm.jsonl:1", "language-model score, this one has none"],
    );
    desk.write("empty.jsonl", "");
    desk.refused("evaluate empty.jsonl", 2, &["empty.jsonl: there is no utterance in it"]);
    desk.refused("evaluate", 2, &["FILE"]);
    desk.refused("evaluate --adapter adapter dev.jsonl", 2, &["--model"]);
}
