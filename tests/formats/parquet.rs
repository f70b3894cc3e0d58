//! Parquet. tests/fixtures/parquet has files that pyarrow, pandas and Spark's layout gave (make.py).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use lorb_engine::text::hex;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::cli::{Desk, lists, parsed};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet").join(name)
}

/// What the files of pyarrow hold.
fn utterances() -> Vec<Value> {
    vec![
        json!({"id": "u-1", "ref": "THE CAT", "hyps": [{"text": "THE CAT", "am": -1.5, "lm": -2.25},
            {"text": "A \"CAT\"\n", "am": -2.0, "lm": -0.1}]}),
        json!({"id": "u-2", "hyps": [{"text": "", "am": -3.0, "lm": -7.5}]}),
        json!({"id": "ü 3", "ref": "", "hyps": [{"text": "É", "am": 1e-300, "lm": 0.0}]}),
    ]
}

/// `convert`, from a file that is not in the desk's folder.
fn converted(desk: &Desk, path: &Path) -> (Vec<Value>, String) {
    let ran = desk.run(&format!("convert {} -", path.display()));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    (parsed(&ran.stdout), ran.stderr)
}

#[test]
fn what_pyarrow_wrote_is_read() {
    let desk = Desk::new();
    for name in ["snappy.parquet", "gzip.parquet", "folder"] {
        assert_eq!(converted(&desk, &fixture(name)).0, utterances(), "{name}");
    }
}

#[test]
fn a_row_may_be_a_hypothesis() {
    let desk = Desk::new();
    let (lines, _) = converted(&desk, &fixture("flat.parquet"));
    assert_eq!(lines, utterances());
}

#[test]
fn what_no_field_can_hold_is_left_out_with_a_word() {
    let desk = Desk::new();
    let (lines, said) = converted(&desk, &fixture("odd.parquet"));
    // A category is a string, NaN is no number, and a column of nulls is none.
    assert_eq!(
        lines,
        [
            json!({"id": 1, "hyps": [{"text": "A", "am": -1.0}], "category": "x", "share": 0.5, "tags": ["a"]}),
            json!({"id": 2, "hyps": [{"text": "B", "am": -2.0}], "category": "y", "tags": []}),
        ]
    );
    let columns = "not read, as they are neither numbers, strings nor booleans: when (Timestamp(µs)), bytes (Binary), \
                   map (Map)\n";
    assert!(said.contains(columns), "{said}");
    let odd = fixture("odd.parquet");
    let ran = desk.run(&format!(
        "rescore --model base --adapter adapter --input {} --output out.parquet",
        odd.display()
    ));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains(columns), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot hold it: tags of 2 utterances"), "{}", ran.stderr);
}

#[test]
fn rescored_lists_come_back_in_their_new_order() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(11, 300));
    let ran = desk.run("convert in.jsonl in.parquet");
    assert!(ran.stderr.contains("dropped, as the format cannot hold it: x of "), "{}", ran.stderr);
    desk.ok("rescore --model base --adapter adapter --input in.parquet --output out.parquet");
    desk.ok("rescore --model base --adapter adapter --input in.jsonl --output out.csv --output-format csv");
    let lines = parsed(&desk.ok("convert out.parquet -"));
    for (line, before) in lines.iter().zip(parsed(&lists(11, 300))) {
        assert_eq!([&line["id"], &line["ref"], &line["speaker"]], [&before["id"], &before["ref"], &json!(7)]);
        let hyps = line["hyps"].as_array().unwrap();
        assert!(hyps.is_sorted_by_key(|h| -h["score"].as_f64().unwrap()), "{line}");
        assert_eq!(hyps.len(), before["hyps"].as_array().unwrap().len());
    }
    for (line, other) in lines.iter().zip(parsed(&desk.ok("convert out.csv -"))) {
        assert_eq!(line["hyps"], other["hyps"]);
    }
    desk.ok("evaluate in.parquet");
}

#[test]
fn values_that_a_column_cannot_hold_are_counted() {
    let desk = Desk::new();
    let lines = [
        json!({"id": "u", "n": 1, "hyps": [{"text": "A", "am": -1, "kind": "a"}]}),
        json!({"id": "v", "n": 1.5, "late": null, "hyps": [{"text": "A", "am": -1.5, "kind": 1}]}),
        json!({"id": "w", "n": "1", "list": [], "hyps": [{"text": "A", "am": 9007199254740993u64}]}),
    ];
    desk.write("in.jsonl", lines.map(|line| format!("{line}\n")).concat());
    let ran = desk.run("convert in.jsonl out.parquet");
    let lost =
        "cannot hold it: list of 1 utterances, n of 1 utterances, am of 1 hypotheses, kind of 1 hypotheses";
    assert!(ran.code == Some(0) && ran.stderr.contains(lost), "{}", ran.stderr);
    let back = parsed(&desk.ok("convert out.parquet -"));
    assert_eq!(back[1], json!({"id": "v", "n": 1.5, "hyps": [{"text": "A", "am": -1.5}]}));
    assert_eq!(back[2], json!({"id": "w", "hyps": [{"text": "A"}]}));
}

#[test]
fn what_is_wrong_is_named_with_file_and_row() {
    let desk = Desk::new();
    for (name, expected) in [
        ("infinite.parquet", "infinite.parquet:2: hyps[1].am: -inf is not a finite number"),
        ("empty_list.parquet", "empty_list.parquet:2: \"hyps\" is empty"),
        ("no_id.parquet", "no_id.parquet:1: \"id\" is missing"),
        ("flat_rank.parquet", "flat_rank.parquet:3: expected rank 2 of utterance u, found 3"),
        ("flat_null.parquet", "flat_null.parquet:2: text: expected a string, found null"),
        (
            "other.parquet",
            "other.parquet: its columns are not those of lists; give it the columns id and hyps",
        ),
        ("brotli.parquet", "brotli.parquet: it is compressed with BROTLI"),
        ("no_rows.parquet", "there is no utterance in it"),
    ] {
        let path = fixture(name);
        desk.refused(&format!("convert {} out.jsonl", path.display()), 2, &[expected]);
    }
    desk.write("in.jsonl", lists(1, 3));
    desk.refused("convert in.jsonl out.parquet.gz", 2, &["out.parquet.gz: Parquet is compressed within"]);
    desk.refused("convert in.jsonl out.jsonl --from parquet", 2, &["in.jsonl: it is not Parquet"]);
    desk.refused("convert in.jsonl - --to parquet", 2, &["parquet cannot go to the standard output"]);
    fs::create_dir(desk.path("folder")).unwrap();
    desk.refused("convert folder out.jsonl --from parquet", 2, &["there is no .parquet file in it"]);
    fs::copy(fixture("snappy.parquet"), desk.path("folder/part-0.parquet")).unwrap();
    fs::copy(fixture("flat.parquet"), desk.path("folder/part-1.parquet")).unwrap();
    desk.refused("convert folder out.jsonl", 2, &["part-1.parquet: a row of it is not what one of"]);
    // Rows are numbered by file.
    fs::copy(fixture("infinite.parquet"), desk.path("folder/part-1.parquet")).unwrap();
    desk.refused("convert folder out.jsonl", 2, &["part-1.parquet:2: hyps[1].am: -inf"]);
}

#[test]
fn truncated_and_damaged_files_are_refused_or_read_but_never_a_failure() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(13, 12));
    desk.ok("convert in.jsonl whole.parquet");
    let whole = fs::read(desk.path("whole.parquet")).unwrap();
    let length = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
    let footer = whole.len() - 8 - length(&whole[whole.len() - 8..whole.len() - 4]);
    let mut damaged: Vec<Vec<u8>> = (4..whole.len()).step_by(97).map(|end| whole[..end].to_vec()).collect();
    for at in (footer..whole.len()).step_by(3).chain((4..footer).step_by(31)) {
        for bits in [0x01, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= bits;
            damaged.push(bytes);
        }
    }
    for bytes in damaged {
        desk.write("in.parquet", &bytes);
        let ran = desk.run("convert in.parquet out.jsonl --from parquet");
        match ran.code {
            Some(0) => fs::remove_file(desk.path("out.jsonl")).unwrap(),
            code => {
                assert_eq!(code, Some(2), "{}", ran.stderr);
                assert!(ran.stderr.starts_with("lorb-engine: in.parquet"), "{}", ran.stderr);
            }
        }
    }
    desk.write("in.parquet", &whole[..whole.len() - 20]);
    desk.refused("convert in.parquet out.jsonl", 2, &["truncated or damaged", "the first 0 rows"]);
    assert!(!desk.names().iter().any(|name| name.starts_with(".lorb-")), "{:?}", desk.names());
}

#[test]
fn a_large_file_is_written_in_parts() {
    let desk = Desk::new();
    // Digests, since what repeats itself is compressed to nothing.
    let digest = |i: u32| hex(&Sha256::digest(i.to_le_bytes()));
    let text = |of: u32| (0..1 << 14).map(|i| digest(of << 14 | i)).collect::<String>();
    let lines = (0..12).map(|i| json!({"id": i.to_string(), "hyps": [{"text": text(i)}]}).to_string() + "\n");
    desk.write("in.jsonl", lines.collect::<String>());
    desk.ok("convert in.jsonl out.parquet");
    let file = SerializedFileReader::new(File::open(desk.path("out.parquet")).unwrap()).unwrap();
    let rows: Vec<i64> = file.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert!(rows.len() > 1 && rows.iter().sum::<i64>() == 12, "{rows:?}");
}
