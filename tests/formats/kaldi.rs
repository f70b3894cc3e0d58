//! N-best folders of Kaldi.

use std::fs;
use std::io::Write;
use std::path::Path;

use lorb_engine::nbest::{Fields, read_all};
use serde_json::json;

use crate::support::cli::{Desk, parsed};

const SMALL: [(&str, &str); 3] = [
    ("text", "u-x-1 A B\nu-x-10 C\nu-x-2\nv-1 D\n"),
    ("ac_cost", "u-x-1 1.5\nu-x-10 3.5\nu-x-2 2.5\nv-1 -1e1\n"),
    ("lm_cost", "u-x-1 9\nu-x-10 7\nu-x-2 8\nv-1 6\n"),
];

fn folder(dir: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}

#[test]
fn costs_are_negated_and_hypotheses_sorted_by_number() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), &SMALL);
    let lists = read_all(&[dir.path()], &Fields::default()).unwrap();
    let scores: Vec<_> = lists
        .iter()
        .flat_map(|u| u.hypotheses.iter().map(|h| (&u.id[..], &h.text[..], h.first_pass, h.lm.unwrap())))
        .collect();
    assert_eq!(
        scores,
        [
            ("u-x", "A B", -1.5, -9.0),
            ("u-x", "", -2.5, -8.0),
            ("u-x", "C", -3.5, -7.0),
            ("v", "D", 10.0, -6.0)
        ]
    );

    for (name, content) in SMALL {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(content.as_bytes()).unwrap();
        fs::remove_file(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(format!("{name}.gz")), gzip.finish().unwrap()).unwrap();
    }
    assert_eq!(read_all(&[dir.path()], &Fields::default()).unwrap(), lists);
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    for (name, content, expected) in [
        ("text", "u A\n", "text:1: expected an id, a hyphen and a number from 1, found u"),
        ("text", "u-x-1 A\nu-x-1 B\n", "text:2: u-x-1 comes twice"),
        ("text", "u-x-10 A\n", "ac_cost:1: expected u-x-10, found u-x-1"),
        ("ac_cost", "u-x-1 1\n", "ac_cost:1: expected u-x-10, found the end"),
        ("ac_cost", "u-x-1 x\n", "ac_cost:1: expected a number, found \"x\""),
        ("lm_cost", "u-x-1 9\nu-x-10 7\nu-x-2 8\nv-1 6\nw-1 1\n", "lm_cost:5: w-1 is not in text"),
        ("lm_cost.gz", "", "lm_cost.gz: there are two of it"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), &SMALL);
        folder(dir.path(), &[(name, content)]);
        let error = read_all(&[dir.path()], &Fields::default()).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(expected), "{content:?}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), &[("text", "u-2 A\n"), ("ac_cost", "u-2 1\n")]);
    let error = read_all(&[dir.path()], &Fields::default()).unwrap_err().to_string();
    assert!(error.contains("text:1: u has no hypothesis u-1 here, but u-2"), "{error}");
}

#[test]
fn a_folder_that_may_be_two_things_is_not_guessed_at() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("nbest/1best_recog")).unwrap();
    folder(&desk.path("nbest"), &SMALL);
    desk.refused("convert nbest out.jsonl", 2, &["any of espnet, kaldi", "--from"]);
    let lines = parsed(&desk.ok("convert nbest - --from kaldi"));
    assert_eq!(lines[1], json!({"id": "v", "hyps": [{"text": "D", "am": 10.0, "lm": -6.0}]}));
}

#[test]
fn rescoring_writes_costs_in_the_new_order() {
    let desk = Desk::new();
    desk.write("in.jsonl", crate::support::cli::lists(6, 30));
    desk.ok("convert in.jsonl nbest --to kaldi");
    desk.ok("rescore --model base --adapter adapter --input nbest --output rescored");
    let expected = parsed(&desk.ok("rescore --model base --adapter adapter --input in.jsonl"));
    let back = parsed(&desk.ok("convert rescored -"));
    for (line, back) in expected.iter().zip(&back) {
        for (i, hypothesis) in line["order"].as_array().unwrap().iter().zip(back["hyps"].as_array().unwrap())
        {
            let before = &line["hyps"][i.as_u64().unwrap() as usize];
            for (name, from) in
                [("text", "text"), ("am", "am"), ("lm", "lm"), ("score", "total"), ("lorb", "lorb")]
            {
                assert_eq!(hypothesis[name], before[from]);
            }
        }
    }
    desk.write(
        "bad.jsonl",
        [
            json!({"id": "u", "hyps": [{"text": "A", "am": -1, "lm": -2}]}),
            json!({"id": "v", "hyps": [{"text": "A", "am": -1}]}),
        ]
        .map(|line| line.to_string())
        .join("\n"),
    );
    desk.refused("convert bad.jsonl out --to kaldi", 2, &["utterance v: hyps[0] has no \"lm\""]);
}
