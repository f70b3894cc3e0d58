//! The JSON of mlm-scoring.

use serde_json::{Value, json};

use crate::support::cli::{Desk, lists, parsed};

#[test]
fn hypotheses_come_in_the_order_of_their_numbers() {
    let desk = Desk::new();
    let hypothesis = |text: &str, score: f64| json!({"score": score, "text": text});
    let mut utterance = json!({"ref": "A"});
    for n in [10, 2, 1, 3, 4, 5, 6, 7, 8, 9] {
        utterance[format!("hyp_{n}")] = hypothesis(&format!("{n}"), -f64::from(n));
    }
    desk.write("in.json", format!("{:#}", json!({"u": utterance, "v": {"hyp_1": hypothesis(" B ", -1.0)}})));
    let lines = parsed(&desk.ok("convert in.json -"));
    let expected: Vec<Value> =
        (1..=10).map(|n| json!({"am": -f64::from(n), "text": format!("{n}")})).collect();
    assert_eq!(lines[0], json!({"id": "u", "ref": "A", "hyps": expected}));
    assert_eq!(lines[1], json!({"id": "v", "hyps": [{"am": -1.0, "text": " B "}]}));
    desk.ok("rescore --model base --adapter adapter --input in.json --output out.json");
    let out: Value = serde_json::from_str(&desk.read("out.json")).unwrap();
    let scores: Vec<f64> =
        (1..=10).map(|n| out["u"][format!("hyp_{n}")]["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    let desk = Desk::new();
    for (text, expected) in [
        (
            "{\"u\": {\"hyp_1\": {\"text\": \"A\"}, \n\"hyp_3\": {\"text\": \"A\"}}}",
            "in.json:1: u: there is no hyp_2",
        ),
        ("{\n\"u\": {\"hyp_1\": 1}}", "in.json:2: u: hyp_1: expected an object, found the number 1"),
        ("{\n\"u\": {\"hyp_1\": {\"score\": -1}}}", "in.json:2: u: hyps[0] has no \"text\""),
        ("{\"u\":\n{\"ref\": \"A\"}}", "in.json:2: u: \"hyps\" is empty"),
        ("{\"u\": {\"ref\": \"A\",\n\"hyp_1\": {\"score\": NaN}}}", "in.json:2: broken JSON"),
        ("{\"u\": {\"hyp_1\": {\"text\": \"A\"}}", "in.json:1: expected , or }, found the end"),
    ] {
        desk.write("in.json", text);
        desk.refused("convert in.json out.jsonl --from mlm", 2, &[expected]);
    }
    desk.write("in.json", "{}");
    desk.refused("convert in.json out.jsonl --from mlm", 2, &["there is no utterance"]);
}

#[test]
fn it_is_one_object_that_python_reads_too() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(9, 20));
    let ran = desk.run("convert in.jsonl out.json");
    assert!(!ran.stderr.contains("dropped"), "{}", ran.stderr);
    let whole: Value = serde_json::from_str(&desk.read("out.json")).unwrap();
    let first = &parsed(&lists(9, 20))[0];
    assert_eq!(whole["u0"]["hyp_1"]["score"], first["hyps"][0]["am"]);
    assert_eq!((&whole["u0"]["ref"], whole.as_object().unwrap().len()), (&first["ref"], 20));
}
