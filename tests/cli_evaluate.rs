//! `evaluate`: the same numbers from a model and from a rescored file, and weights that never saw the test.

mod support;

use serde_json::Value;
use support::cli::{Desk, lists, parsed};

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
fn a_rescored_file_of_any_format_is_evaluated() {
    let desk = desk();
    desk.write(
        "test.ref",
        lists(11, 100)
            .lines()
            .map(|line| {
                let line = json(line);
                format!("{} {}\n", line["id"].as_str().unwrap(), line["ref"].as_str().unwrap())
            })
            .collect::<String>(),
    );
    let expected = json(&desk.ok(&format!("{EVALUATE} test.jsonl --json")));
    for format in ["csv", "parquet", "mlm", "kaldi", "espnet"] {
        let rescore = "rescore --model base --adapter adapter --input test.jsonl";
        desk.ok(&format!("{rescore} --output out.{format} --output-format {format}"));
        let reference = if ["kaldi", "espnet"].contains(&format) { "--ref test.ref" } else { "" };
        let found = json(&desk.ok(&format!("evaluate out.{format} --json {reference}")));
        let errors = |report: &Value| report["files"][0]["systems"]["rescored"]["wer"].clone();
        assert_eq!(errors(&found), errors(&expected), "{format}");
    }
}

#[test]
fn weights_are_saved_only_where_everything_could_be_read() {
    let desk = desk();
    desk.ok(&format!("{EVALUATE} --tune dev.jsonl test.jsonl"));
    let before = desk.read("adapter/rescoring.json");
    desk.write("other.jsonl", lists(12, 60));
    desk.refused(&format!("{EVALUATE} --tune other.jsonl test.jsonl missing.jsonl"), 2, &["missing.jsonl"]);
    assert_eq!(desk.read("adapter/rescoring.json"), before);
}

#[test]
fn to_count_errors_nothing_is_computed() {
    let desk = desk();
    // Where there is a GPU, none is checked for this either.
    assert!(desk.ok("evaluate test.jsonl --device cuda").contains("first pass"));
}

#[test]
fn weights_are_tuned_saved_and_used() {
    let desk = desk();
    let report = json(&desk.ok(&format!("{EVALUATE} --tune dev.jsonl test.jsonl --json")));
    let saved = json(&desk.read("adapter/rescoring.json"));
    assert_eq!(report["weights"], saved["weights"]);
    assert_eq!(report["confidence_scale"], saved["confidence_scale"]);
    // The lists are noise, of which nobody can be as sure as the plain sum of the scores is.
    assert!(saved["confidence_scale"].as_f64().unwrap() < 0.9, "{saved}");
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

/// A desk with lists to tune on and to evaluate, of which the adapter knows best what was said.
fn desk_of_an_adapter_that_knows() -> Desk {
    let desk = Desk::new();
    for (name, seed, count) in [("dev.jsonl", 10, 120), ("test.jsonl", 11, 100)] {
        desk.write(name, lists(seed, count));
        let rescored = desk.ok(&format!("rescore --model base --adapter adapter --beta 30 --input {name}"));
        let said =
            parsed(&lists(seed, count)).into_iter().zip(parsed(&rescored)).map(|(mut line, rescored)| {
                line["ref"] = rescored["best"].clone();
                format!("{line}\n")
            });
        desk.write(name, said.collect::<String>());
    }
    desk
}

#[test]
fn pruning_is_judged_as_rescore_prunes() {
    let desk = desk_of_an_adapter_that_knows();
    let report = json(&desk.ok(&format!("{EVALUATE} --tune dev.jsonl --prune 1.5 test.jsonl --json")));
    assert_eq!(report["pruning"]["margin"], 1.5);
    let with_all = json(&desk.ok(&format!("{EVALUATE} test.jsonl --json")));
    let of = |report: &Value, system: &str| report["files"][0]["systems"][system].clone();
    assert_eq!(of(&report, "rescored"), of(&with_all, "rescored"));
    assert_ne!(of(&report, "pruned"), of(&report, "rescored"), "1.5 is too small to change nothing");

    let rescore = "rescore --model base --adapter adapter --input test.jsonl --output";
    let kept = desk.run(&format!("{rescore} pruned.jsonl --prune 1.5")).stderr;
    let own = json(&desk.ok("evaluate pruned.jsonl --json"));
    for (here, there) in [("rescored", "pruned"), ("first_pass", "first_pass"), ("oracle", "oracle")] {
        assert_eq!(of(&own, here), of(&report, there), "{here}");
    }
    // A line whose first hypothesis was pruned has scores as well as the others.
    assert!(desk.read("pruned.jsonl").lines().any(|line| json(line)["pruned"][0] == 0));

    let costs = &report["files"][0]["pruning"];
    let count = |which: &str, what: &str| costs[which][what].as_u64().unwrap();
    for what in ["hypotheses", "tokens"] {
        let said = format!(", {} ", count("kept", what));
        assert!(kept.contains(&said) && count("kept", what) < count("all", what), "{said:?}: {kept}");
    }
    assert_eq!(report["files"][0]["hypotheses"], costs["all"]["hypotheses"]);
    let saved = 1.0 - count("kept", "tokens") as f64 / count("all", "tokens") as f64;
    assert!((costs["tokens_saved"].as_f64().unwrap() - saved).abs() < 1e-12);
    let seconds = |which: &str| costs[which]["seconds"].as_f64().unwrap();
    assert!(seconds("kept") > 0.0 && costs["speedup"].as_f64().unwrap() == seconds("all") / seconds("kept"));

    // With weights that were tuned on lists that have all scores, those of a pruned list still choose.
    desk.ok("rescore --model base --adapter adapter --input dev.jsonl --output dev-rescored.jsonl");
    let tuned = json(&desk.ok("evaluate --tune dev-rescored.jsonl pruned.jsonl --json"));
    assert_eq!(of(&tuned, "rescored"), of(&report, "pruned"));
    desk.refused(
        "evaluate --tune pruned.jsonl dev-rescored.jsonl",
        2,
        &["pruned.jsonl:1: utterance u", "were pruned", "without --prune"],
    );
}

#[test]
fn the_margin_is_found_on_the_tuning_lists() {
    let desk = desk_of_an_adapter_that_knows();
    desk.write("other.jsonl", lists(12, 30));
    let text = |files: &str| desk.ok(&format!("{EVALUATE} --tune dev.jsonl --prune auto {files}"));
    let report = json(&text("--json other.jsonl test.jsonl"));
    let margin = report["pruning"]["margin"].as_f64().unwrap();
    let tuned = |which: &str| report["pruning"]["tuned"][which].as_f64().unwrap();
    assert!(tuned("pruned") <= tuned("unpruned") + 0.01 && margin > 0.0, "{report:#}");
    assert_eq!(report["all"]["pruning"]["all"]["hypotheses"], report["all"]["hypotheses"]);

    let given = json(&desk.ok(&format!("{EVALUATE} --prune {margin} dev.jsonl --json")));
    let wer = |system: &str| given["files"][0]["systems"][system]["wer"].as_f64().unwrap();
    assert_eq!((wer("rescored"), wer("pruned")), (tuned("unpruned"), tuned("pruned")));
    let less = json(&desk.ok(&format!("{EVALUATE} --prune {} dev.jsonl --json", margin.next_down())));
    let wer = less["files"][0]["systems"]["pruned"]["wer"].as_f64().unwrap();
    assert!(wer > tuned("unpruned") + 0.01, "a smaller margin costs more: {wer}");

    let text = text("test.jsonl");
    for words in [&format!("margin: {margin}, the smallest"), "  pruned  ", "% of the tokens not computed, "]
    {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    assert!(text.contains("pruned against rescored: relative "), "{text}");
    desk.refused(&format!("{EVALUATE} --prune auto test.jsonl"), 2, &["--prune auto needs --tune"]);
    desk.refused("evaluate --tune dev.jsonl --prune 2 test.jsonl", 2, &["--prune needs --model"]);
    desk.refused(&format!("{EVALUATE} --prune -2 test.jsonl"), 2, &["expected a number from 0, or auto"]);
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
fn the_lists_that_weights_were_tuned_on_are_told() {
    let desk = desk();
    desk.write("more.jsonl", lists(12, 60));
    desk.ok(&format!("{EVALUATE} --tune dev.jsonl --tune more.jsonl test.jsonl"));
    let tuned_on = json(&desk.read("adapter/rescoring.json"))["tuned_on"].clone();
    let expected = serde_json::json!([
        {"list": "dev.jsonl", "utterances": 120}, {"list": "more.jsonl", "utterances": 60}
    ]);
    assert_eq!(tuned_on, expected);
}

#[test]
fn a_language_model_that_counts_must_be_there() {
    let desk = desk();
    desk.ok(&format!("{EVALUATE} --tune dev.jsonl test.jsonl"));
    let mut saved = json(&desk.read("adapter/rescoring.json"));
    saved["weights"]["lm"] = 0.5.into();
    desk.write("adapter/rescoring.json", saved.to_string());
    desk.ok(&format!("{EVALUATE} test.jsonl"));
    desk.write("no-lm.jsonl", lists(1, 3).replace("\"lm\"", "\"other\""));
    desk.refused(&format!("{EVALUATE} no-lm.jsonl"), 2, &["no-lm.jsonl:1: hyps[0] has no \"lm\""]);
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
fn transcripts_are_what_was_compared() {
    let desk = Desk::new();
    let line = |id: &str, said: &str, first: &str, second: &str| {
        let hyps = serde_json::json!([{"text": first, "am": -1.0}, {"text": second, "am": -2.0}]);
        format!("{}\n", serde_json::json!({"id": id, "ref": said, "hyps": hyps}))
    };
    let lists = line("s-1", "P q  R a b", "a B s t u", "p q r a s") + &line("s-2", "x a b", "p q x", "");
    desk.write("lists.jsonl", &lists);
    let report = desk.ok("evaluate lists.jsonl --json --case lower --align sclite --trn out/trn");
    let read = |name: &str| desk.read(&format!("out/trn/{name}.trn"));
    assert_eq!(read("reference"), "p q r a b (s-1)\nx a b (s-2)\n");
    assert_eq!(read("first_pass"), "a b s t u (s-1)\np q x (s-2)\n");
    assert_eq!(read("oracle"), "p q r a s (s-1)\np q x (s-2)\n");
    // What sclite 2.10 counts in these files.
    let counts = |report: &str, system: &str| {
        let s = &json(report)["files"][0]["systems"][system];
        ["substitutions", "deletions", "insertions"].map(|kind| s[kind].as_u64().unwrap())
    };
    assert_eq!((counts(&report, "first_pass"), counts(&report, "oracle")), ([3, 3, 3], [4, 0, 0]));
    let fewest = desk.ok("evaluate lists.jsonl --json --case lower");
    assert_eq!(counts(&fewest, "first_pass"), [8, 0, 0]);
    assert_eq!(json(&report)["alignment"], "sclite");
    assert!(desk.ok("evaluate lists.jsonl --align sclite").contains("errors: on sclite's alignment"));

    desk.ok("rescore --model base --adapter adapter --input lists.jsonl --output rescored.jsonl");
    desk.ok("evaluate rescored.jsonl --trn rescored");
    let best =
        |line: &Value| format!("{} ({})\n", line["best"].as_str().unwrap(), line["id"].as_str().unwrap());
    let expected: String = parsed(&desk.read("rescored.jsonl")).iter().map(best).collect();
    assert_eq!(desk.read("rescored/rescored.trn"), expected);
}

#[test]
fn what_sclite_would_misread_is_refused() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("out")).unwrap();
    let line = r#"{"id":"s-1","ref":"a","hyps":[{"text":"a","am":0}]}"#;
    for (line, words) in [
        (line.replace("\"a\",\"am\"", "\"{a / b}\",\"am\""), &["lists.jsonl:2: utterance s-1", "\"{a\""][..]),
        (line.replace("\"ref\":\"a\"", "\"ref\":\"a @\""), &["lists.jsonl:2", "\"@\"", "without --trn"]),
        (line.replace("s-1", "s 1"), &["lists.jsonl:2", "its id \"s 1\""]),
        (line.replace("s-1", "s-0"), &["lists.jsonl:2", "another utterance has the same id"]),
    ] {
        desk.write(
            "lists.jsonl",
            format!("{}\n{line}\n", r#"{"id":"s-0","ref":"a","hyps":[{"text":"a","am":0}]}"#),
        );
        desk.refused("evaluate lists.jsonl --trn out", 2, words);
        desk.ok("evaluate lists.jsonl");
    }
    assert!(std::fs::read_dir(desk.path("out")).unwrap().next().is_none());
    desk.refused("evaluate lists.jsonl --align jiwer", 2, &["expected levenshtein or sclite"]);
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
