//! What NeMo's beam search writes.

use serde_json::json;

use crate::support::cli::{Desk, lists, parsed};

const MANIFEST: &str = "{\"audio_filepath\": \"a/u.wav\", \"duration\": 1.5, \"text\": \"A\"}\n\
                        {\"audio_filepath\": \"a/v.wav\", \"duration\": 2, \"text\": \"\"}\n";
const BEAMS: &str = "A B\t-1.5\n\t-2.5\nC\t-3\nD\t-4.0\n";

#[test]
fn the_manifest_tells_the_utterances() {
    let desk = Desk::new();
    desk.write("manifest.json", MANIFEST);
    desk.write("beams.tsv", BEAMS);
    let lines = parsed(&desk.ok("convert beams.tsv - --manifest manifest.json"));
    let expected = json!({"id": "u", "ref": "A", "audio_filepath": "a/u.wav", "duration": 1.5,
        "hyps": [{"text": "A B", "am": -1.5}, {"text": "", "am": -2.5}]});
    assert_eq!((lines.len(), &lines[0]), (2, &expected));
    desk.ok("evaluate beams.tsv --manifest manifest.json");

    // What is written has a manifest beside it, which is found.
    desk.ok("convert beams.tsv again.tsv --manifest manifest.json");
    assert_eq!(parsed(&desk.ok("convert again.tsv -")), lines);
    assert_eq!(parsed(&desk.read("again.manifest.json"))[0]["audio_filepath"], "a/u.wav");
}

#[test]
fn what_is_wrong_is_named() {
    let desk = Desk::new();
    desk.write("beams.tsv", BEAMS);
    desk.refused("convert beams.tsv out.jsonl", 2, &["no beams.manifest.json", "--manifest"]);
    desk.write("beams.manifest.json", MANIFEST);
    for (beams, expected) in [
        ("A\t-1\nB\t-2\nC\t-3\n", "beams.tsv: 3 lines are not as many for each of 2"),
        ("A\t-1\nB\n", "beams.tsv:2: there is no tab"),
        ("A\t-1\nB\t-inf\n", "beams.tsv:2: -inf is not a finite number"),
    ] {
        desk.write("beams.tsv", beams);
        desk.refused("convert beams.tsv out.jsonl", 2, &[expected]);
    }
    desk.write("beams.tsv", BEAMS);
    desk.write("beams.manifest.json", "{\"text\": \"A\"}\n{}\n");
    desk.refused("convert beams.tsv out.jsonl", 2, &["beams.manifest.json:1: there is neither \"id\" nor"]);
}

#[test]
fn what_it_cannot_hold_is_refused() {
    let desk = Desk::new();
    let line = |id: &str, texts: &[&str]| {
        let hypotheses: Vec<_> = texts.iter().map(|text| json!({"text": text, "am": -1})).collect();
        json!({"id": id, "hyps": hypotheses}).to_string()
    };
    desk.write("in.jsonl", [line("u", &["A"]), line("v", &["A", "B"])].join("\n"));
    desk.refused("convert in.jsonl out.tsv", 2, &["utterance v has 2 hypotheses, those before 1"]);
    desk.write("in.jsonl", line("u", &["A\tB"]));
    desk.refused("convert in.jsonl out.tsv", 2, &["hyps[0].text has a tab"]);
    desk.write("in.jsonl", json!({"id": "u", "hyps": [{"text": "A"}]}).to_string());
    desk.refused("convert in.jsonl out.tsv", 2, &["has neither \"score\" nor \"am\""]);
}

#[test]
fn rescoring_puts_the_total_beside_the_text() {
    let desk = Desk::new();
    let two = lists(8, 60)
        .lines()
        .filter(|line| line.matches("\"text\"").count() == 2)
        .collect::<Vec<_>>()
        .join("\n");
    desk.write("in.jsonl", &two);
    desk.ok("convert in.jsonl beams.tsv");
    desk.ok("rescore --model base --adapter adapter --input beams.tsv --output rescored.tsv");
    let expected = parsed(&desk.ok("rescore --model base --adapter adapter --input beams.tsv"));
    let rescored = desk.read("rescored.tsv");
    let best: Vec<&str> = rescored.lines().step_by(2).collect();
    assert!(best.len() > 3);
    for (line, best) in expected.iter().zip(best) {
        let hypothesis = &line["hyps"][line["order"][0].as_u64().unwrap() as usize];
        assert_eq!(best, format!("{}\t{}", line["best"].as_str().unwrap(), hypothesis["total"]));
    }
}
