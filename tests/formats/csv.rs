//! CSV.

use serde_json::json;

use crate::support::cli::{Desk, lists, parsed};

#[test]
fn columns_are_fields() {
    let desk = Desk::new();
    let table = "\u{feff}text,am,id,ref,speaker,empty\r\n\"A, \"\"B\"\"\n\",-1.5,u,R,s,\r\nC,-2,u,R,7,\r\nD,-3,v,,s,x\r\n";
    desk.write("in.csv", table);
    let lines = parsed(&desk.ok("convert in.csv -"));
    assert_eq!(
        lines,
        [
            json!({"id": "u", "ref": "R", "hyps": [{"text": "A, \"B\"\n", "am": -1.5, "speaker": "s"},
            {"text": "C", "am": -2.0, "speaker": 7.0}]}),
            json!({"id": "v", "ref": "", "hyps": [{"text": "D", "am": -3.0, "speaker": "s", "empty": "x"}]}),
        ]
    );
    desk.write("in.jsonl", lists(4, 3));
    let ran = desk.run("convert in.jsonl out.csv");
    assert!(ran.stderr.contains("dropped, as the format cannot hold it: speaker of 3 utterances, x of "));
    assert!(desk.read("out.csv").starts_with("id,rank,text,am,lm,x,ref\nu0,1,"));
    desk.ok("rescore --model base --adapter adapter --input out.csv --output rescored.csv");
    let ran = desk.run("rescore --model base --adapter adapter --input out.csv --output rescored.jsonl");
    assert!(ran.stderr.contains("rescored.jsonl will be csv"), "{}", ran.stderr);
    assert!(desk.read("rescored.csv").starts_with("id,rank,text,am,lm,lorb,score,ref\nu0,1,"));
}

#[test]
fn whole_numbers_keep_all_of_their_digits() {
    let desk = Desk::new();
    let fields = r#""start_ns": 9007199254740993, "below": -9007199254740993, "am": -1e300"#;
    desk.write("in.jsonl", format!("{{\"id\": \"u\", \"hyps\": [{{\"text\": \"A\", {fields}}}]}}\n"));
    desk.ok("convert in.jsonl there.csv");
    assert_eq!(parsed(&desk.ok("convert there.csv -")), parsed(&desk.read("in.jsonl")));
}

#[test]
fn a_text_that_would_come_back_as_a_number_is_told_of() {
    let desk = Desk::new();
    desk.write("in.jsonl", r#"{"id": "u", "hyps": [{"text": "A", "speaker": "007", "take": "1a"}]}"#);
    let ran = desk.run("convert in.jsonl out.csv");
    assert!(ran.stderr.contains("cannot hold it: speaker of 1 hypotheses\n"), "{}", ran.stderr);
    let back = parsed(&desk.ok("convert out.csv -"));
    assert_eq!(back, [json!({"id": "u", "hyps": [{"text": "A", "take": "1a"}]})]);
}

#[test]
fn a_first_rank_begins_an_utterance_whatever_its_id() {
    let desk = Desk::new();
    desk.write("in.csv", "id,rank,text\nu,1,A\nu,2,B\nu,1,C\n");
    let texts: Vec<usize> = parsed(&desk.ok("convert in.csv -"))
        .iter()
        .map(|line| line["hyps"].as_array().unwrap().len())
        .collect();
    assert_eq!(texts, [2, 1]);
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    let desk = Desk::new();
    for (table, expected) in [
        ("id,am\nu,-1\n", "in.csv:1: there is no column text"),
        ("id,text,id\nu,A,u\n", "in.csv:1: there are two columns \"id\""),
        ("id,text\nu,A\nv\n", "in.csv:3: expected 2 columns as in the header, found 1"),
        ("id,rank,text\nu,1,\"A\n\"\nu,3,B\n", "in.csv:4: expected rank 2 of utterance u, found 3"),
        ("id,rank,text\nu,x,A\n", "in.csv:2: expected a rank, found \"x\""),
        ("id,text\n", "there is no utterance"),
        ("", "in.csv:1: there is no column id"),
    ] {
        desk.write("in.csv", table);
        desk.refused("convert in.csv out.jsonl --from csv", 2, &[expected]);
    }
    desk.write("in.csv", b"id,text\nu,\xff\n");
    desk.refused("convert in.csv out.jsonl", 2, &["in.csv:2: invalid UTF-8 in column 2"]);
    desk.write("in.csv", "id,text,am\nu,A,-inf\n");
    desk.refused(
        "evaluate in.csv",
        2,
        &["in.csv:2: hyps[0].am: expected a number, found the string \"-inf\""],
    );
    let line = |id: &str| json!({"id": id, "hyps": [{"text": "A"}]});
    let mut first = line("u");
    first["ref"] = json!("A");
    desk.write("in.jsonl", format!("{first}\n{}\n", line("v")));
    desk.refused("convert in.jsonl out.csv", 2, &["utterance v has no reference, as those before have"]);
}
