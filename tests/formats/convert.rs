//! `convert`: what it says, what it refuses.

use serde_json::json;

use crate::support::cli::{Desk, lists, parsed};

#[test]
fn it_says_what_is_lost() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(1, 50));
    let ran = desk.run("convert in.jsonl decode --to espnet");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    assert!(ran.stderr.contains("converted 50 utterances, ") && ran.stderr.contains(" from jsonl to espnet"));
    assert!(ran.stderr.contains("ref of 50 utterances, speaker of 50 utterances, x of "), "{}", ran.stderr);
    let back = desk.run("convert decode -");
    assert!(!back.stderr.contains("dropped"), "{}", back.stderr);
    for (before, after) in parsed(&lists(1, 50)).iter().zip(parsed(&back.stdout)) {
        let mut before = before.clone();
        for name in ["ref", "speaker"] {
            before.as_object_mut().unwrap().remove(name);
        }
        for hypothesis in before["hyps"].as_array_mut().unwrap() {
            hypothesis.as_object_mut().unwrap().remove("x");
        }
        assert_eq!(before, after);
    }
}

#[test]
fn standard_streams_are_json_lines() {
    let desk = Desk::new();
    let text = lists(2, 5);
    assert_eq!(desk.run_with("convert - -", &text).stdout, text);
    desk.refused(
        "convert - out --to espnet --from espnet",
        2,
        &["espnet cannot come from the standard input"],
    );
    desk.write("in.jsonl", &text);
    desk.refused("convert in.jsonl - --to espnet", 2, &["espnet cannot go to the standard output"]);
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let desk = Desk::new();
    let line = |id: &str, text: &str| json!({"id": id, "hyps": [{"text": text, "am": -1}]}).to_string();
    desk.write("good", line("u", "A"));
    desk.refused("convert good out", 2, &["out does not tell a format", "--to"]);
    desk.refused("convert good out --to nbest", 2, &["expected one of jsonl"]);
    desk.refused("convert good base --to espnet", 2, &["base", "new name"]);
    desk.refused("convert base out.jsonl", 2, &["no lists of a known format", "1best_recog"]);
    desk.refused("convert good out.jsonl --ref missing", 2, &["missing"]);
    desk.refused("convert good out.jsonl --ctc-weight 1.5", 2, &["from 0 to 1"]);
    for (id, text, expected) in [
        ("u", "A\nB", "hyps[0].text has a line break"),
        ("u v", "A", "ids without spaces"),
        ("", "A", "ids without"),
    ] {
        desk.write("bad", line(id, text));
        desk.refused("convert bad out --to espnet", 2, &[expected]);
    }
    desk.write("bad", ["u", "v", "u"].map(|id| line(id, "A")).join("\n"));
    for format in ["espnet", "kaldi", "mlm"] {
        desk.refused(&format!("convert bad out --to {format}"), 2, &["utterance u comes twice"]);
    }
    desk.write("bad", [line("u", "A"), "{}".into()].join("\n"));
    desk.refused("convert bad out --to espnet", 2, &["bad:2: \"id\" is missing"]);
    desk.write("bad", "\n");
    desk.refused("convert bad out --to espnet", 2, &["there is no utterance"]);
}

#[test]
fn references_come_from_a_file() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(3, 2));
    desk.write("ref.trn", "IT WAS (u0)\nSHE (u1)\n");
    let lines = parsed(&desk.ok("convert in.jsonl - --ref ref.trn"));
    assert_eq!([&lines[0]["ref"], &lines[1]["ref"]], ["IT WAS", "SHE"]);
    desk.write("ref.trn", "IT WAS (u0)\n");
    assert_eq!(
        parsed(&desk.ok("convert in.jsonl - --ref ref.trn"))[1]["ref"],
        parsed(&lists(3, 2))[1]["ref"]
    );
    desk.ok("convert in.jsonl decode --to espnet");
    desk.refused(
        "convert decode out.jsonl --ref ref.trn",
        2,
        &["text:2: utterance u1 has no reference in ref.trn"],
    );
    desk.write("ref.trn", "IT WAS (u0)\nSHE (u1)\n");
    desk.ok("evaluate in.jsonl --ref ref.trn");
}
