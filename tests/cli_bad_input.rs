//! Whatever is wrong, the program says where, exits with 2 for the user's mistakes and 1 for failures, and
//! leaves no file behind.

mod support;

use std::fs;

use support::cli::{Desk, lists, parsed, write_adapter};
use support::{TinyBert, tiny_bert};

const RESCORE: &str = "rescore --model base --adapter adapter";

const GOOD: &str = r#"{"id":"good","hyps":[{"text":"he was","am":-1.5},{"text":"she was","am":-2}]}"#;

const BAD: [(&str, &str); 10] = [
    ("{\"id\":", "broken JSON at column 6"),
    ("[1]", "expected an object, found a list"),
    (r#"{"id":"u","hyps":[]}"#, "\"hyps\" is empty"),
    (r#"{"id":"u"}"#, "\"hyps\" is missing"),
    (r#"{"id":"u","hyps":[{"text":"a","am":NaN}]}"#, "\"am\" is NaN, not a finite number"),
    (r#"{"id":"u","hyps":[{"text":"a","am":-Infinity}]}"#, "\"am\" is -Infinity, not a finite number"),
    (r#"{"id":"u","hyps":[{"text":"a","am":1e999}]}"#, "\"am\" is 1e999, not a finite number"),
    (r#"{"id":"u","hyps":[{"text":"a","score":1}]}"#, "hyps[0] has no \"am\"; it has \"text\", \"score\""),
    (
        r#"{"id":"u","hyps":[{"text":"a","am":"-1"}]}"#,
        "hyps[0].am: expected a number, found the string \"-1\"",
    ),
    (r#"{"id":"u","hyps":[{"text":7,"am":1}]}"#, "hyps[0].text: expected a string, found the number 7"),
];

#[test]
fn a_bad_line_is_named_and_no_file_is_left() {
    let desk = Desk::new();
    for (line, problem) in BAD {
        desk.write("in.jsonl", format!("{GOOD}\n\n{line}\n{GOOD}\n"));
        let place = "lorb-engine: in.jsonl:3: ";
        desk.refused(&format!("{RESCORE} --input in.jsonl --output out.jsonl"), 2, &[place, problem]);
        desk.refused(&format!("{RESCORE} --input in.jsonl --output out.gz"), 2, &[place, problem]);
    }
    let bytes = [GOOD.as_bytes(), b"\n{\"id\":\"\xff\",\"hyps\":[]}\n"].concat();
    desk.write("in.jsonl", bytes);
    desk.refused(
        &format!("{RESCORE} --input in.jsonl --output out"),
        2,
        &["in.jsonl:2: invalid UTF-8 at byte 7"],
    );
}

#[test]
fn an_older_output_is_kept_where_a_new_one_fails() {
    let desk = Desk::new();
    desk.write("in.jsonl", "bad");
    desk.write("out.jsonl", "precious");
    desk.refused(&format!("{RESCORE} --input in.jsonl --output out.jsonl"), 2, &["in.jsonl:1"]);
    assert_eq!(desk.read("out.jsonl"), "precious");
}

#[test]
fn the_standard_output_ends_after_the_last_whole_utterance() {
    let desk = Desk::new();
    let ran = desk.run_with(RESCORE, format!("{}{{\"id\"", lists(1, 100)));
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("lorb-engine: <stdin>:101: broken JSON"), "{}", ran.stderr);
    assert!(ran.stdout.ends_with('\n'));
    assert_eq!(parsed(&ran.stdout).len(), 100);
}

#[test]
fn bad_lines_can_be_skipped_and_are_kept() {
    let desk = Desk::new();
    let bad: Vec<&str> = BAD.iter().map(|(line, _)| *line).collect();
    let text: String = bad.iter().map(|line| format!("{GOOD}\n{line}\n")).collect();
    desk.write("in.jsonl", &text);
    let ran = desk.run(&format!("{RESCORE} --input in.jsonl --output out.jsonl --on-error skip"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(parsed(&desk.read("out.jsonl")).len(), BAD.len());
    assert_eq!(desk.read("out.jsonl.rejects").lines().collect::<Vec<_>>(), bad);
    for (i, (_, problem)) in BAD.iter().enumerate() {
        assert!(
            ran.stderr.contains(&format!("skipped: in.jsonl:{}: ", 2 * i + 2))
                && ran.stderr.contains(problem)
        );
    }
    let ran = desk.run_with(&format!("{RESCORE} --on-error skip --rejects bad.txt"), &text);
    assert_eq!((ran.code, ran.stdout), (Some(0), desk.read("out.jsonl")));
    assert_eq!(desk.read("bad.txt"), desk.read("out.jsonl.rejects"));

    // Only lines can be skipped, not what is wrong with a whole file.
    desk.write("empty", "");
    desk.refused(
        &format!("{RESCORE} --input empty --output o --on-error skip"),
        2,
        &["there is no utterance in it"],
    );
    desk.refused(&format!("{RESCORE} --on-error skip"), 2, &["--rejects"]);
    desk.refused(&format!("{RESCORE} --rejects r"), 2, &["--on-error skip"]);
    for rejects in ["r", "./r", "adapter/../r"] {
        let rescore = format!("{RESCORE} --output r --rejects {rejects} --on-error skip");
        desk.refused(&rescore, 2, &["the same file"]);
    }
}

#[test]
fn a_bad_file_is_named() {
    let desk = Desk::new();
    let zstd = zstd::encode_all(lists(1, 50).as_bytes(), 3).unwrap();
    desk.write("cut.zst", &zstd[..zstd.len() - 20]);
    desk.write("empty", "");
    desk.write("blank", "\n  \n");
    for (input, problem) in [
        ("cut.zst", "cut.zst: the compressed data is truncated"),
        ("empty", "empty: there is no utterance in it"),
        ("blank", "blank: there is no utterance in it"),
        ("absent", "absent: cannot open it"),
        ("base", "base: the folder holds no lists of a known format"),
    ] {
        desk.refused(&format!("{RESCORE} --input {input} --output out"), 2, &[problem]);
    }
    assert_eq!(desk.run(RESCORE).code, Some(2), "nothing on the standard input");
}

#[test]
fn a_bad_model_is_named_with_its_tensor() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    // Each case gets a base of its own, which is then damaged.
    let refused = |options: TinyBert, damage: &dyn Fn(&std::path::Path), words: &[&str]| {
        let base = desk.path("bad");
        tiny_bert(&base, 3, &options);
        damage(&base);
        desk.refused("rescore --model bad --adapter adapter --input in.jsonl --output out", 2, words);
        fs::remove_dir_all(base).unwrap();
    };
    let edit = |from: &'static str, to: &'static str| {
        move |base: &std::path::Path| {
            let path = base.join("config.json");
            fs::write(&path, fs::read_to_string(&path).unwrap().replace(from, to)).unwrap();
        }
    };
    let cut = |base: &std::path::Path| {
        let path = base.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let same = TinyBert::default;
    refused(same(), &cut, &["bad/model.safetensors: not a whole safetensors file"]);
    refused(same(), &edit("\"bert\"", "\"roberta\""), &["bad/config.json: model_type is roberta"]);
    refused(
        same(),
        &edit("\"intermediate_size\":64", "\"intermediate_size\":63"),
        &["tensor encoder.layer.0.output.dense.weight", "expected shape [32, 63], found shape [32, 64]"],
    );
    refused(
        same(),
        &|base| {
            fs::write(base.join("vocab.txt"), format!("{}\nmore\n", support::vocabulary().join("\n")))
                .unwrap()
        },
        &["bad/vocab.txt: its largest token is 101, but the model has 101 tokens"],
    );
    refused(
        same(),
        &|base| fs::remove_file(base.join("vocab.txt")).unwrap(),
        &["neither tokenizer.json nor vocab.txt"],
    );
    refused(
        same(),
        &|base| fs::remove_file(base.join("model.safetensors")).unwrap(),
        &["it has no model.safetensors"],
    );
    // An adapter of a wider base, and of one that only has other weights.
    let wide = TinyBert { hidden: 48, ..same() };
    refused(wide, &|_| {}, &["lora_A.weight", "expected shape [4, 48], found shape [4, 32]"]);
    tiny_bert(&desk.path("other"), 4, &same());
    let other = "rescore --model other --adapter adapter --input in.jsonl --output out";
    desk.refused(other, 2, &["adapter: the adapter was trained on another base"]);
    desk.refused(
        "rescore --model base --input in.jsonl --output out",
        2,
        &["base: the model has no head of one score"],
    );
    desk.refused("rescore --input in.jsonl --output out", 2, &["--model"]);
}

#[test]
fn a_bad_adapter_is_named() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    let refused = |file: &str, content: &dyn Fn(Vec<u8>) -> Vec<u8>, words: &[&str]| {
        let path = desk.path("adapter").join(file);
        let bytes = fs::read(&path).unwrap_or_default();
        fs::write(&path, content(bytes)).unwrap();
        desk.refused(&format!("{RESCORE} --input in.jsonl --output out"), 2, words);
        fs::remove_dir_all(desk.path("adapter")).unwrap();
        write_adapter(&desk.path("base"), &desk.path("adapter"));
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 3].to_vec();
    refused(
        "adapter_model.safetensors",
        &cut,
        &["adapter/adapter_model.safetensors: not a whole safetensors file"],
    );
    refused("adapter_config.json", &cut, &["adapter/adapter_config.json", "EOF"]);
    refused(
        "adapter_config.json",
        &|_| b"{\"peft_type\":\"IA3\"}".to_vec(),
        &["adapter/adapter_config.json"],
    );
    refused("lorb.json", &cut, &["adapter/lorb.json: not an adapter's card"]);
    refused("rescoring.json", &|_| b"{}".to_vec(), &["adapter/rescoring.json: missing field"]);
    fs::remove_file(desk.path("adapter/adapter_model.safetensors")).unwrap();
    desk.refused(
        &format!("{RESCORE} --input in.jsonl --output out"),
        2,
        &["adapter_model.safetensors: cannot read it"],
    );
}

#[test]
fn an_output_that_cannot_be_written_is_refused_at_once() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    desk.write("file", "");
    for output in ["no/such/out", "base", "file/out"] {
        desk.refused(
            &format!("{RESCORE} --input in.jsonl --output {output}"),
            2,
            &[&format!("{output}: cannot")],
        );
    }
    desk.write("more.jsonl", lists(2, 20));
    fs::create_dir(desk.path("adapter/rescoring.json")).unwrap();
    desk.refused(
        "evaluate --model base --adapter adapter --tune in.jsonl more.jsonl",
        2,
        &["adapter/rescoring.json"],
    );
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_a_failure_that_leaves_no_half_file() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(3, 400));
    let before = desk.names();
    // The shell's limit on the size of a file, in blocks of 512 bytes, fails as a full disk does: a write
    // returns an error, once the signal that comes with it is ignored.
    for command in [
        "rescore --model base --adapter adapter --input in.jsonl --output out.jsonl",
        "rescore --model base --adapter adapter --input in.jsonl --output out.zst",
        "merge --model base --adapter adapter --output merged",
    ] {
        let ran = desk.shell(&format!("trap '' XFSZ; ulimit -f 16; exec \"$LORB\" {command}"));
        assert_eq!(ran.code, Some(1), "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains(": cannot "), "{}", ran.stderr);
        assert_eq!(desk.names(), before, "{command}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_a_failure_and_stays_a_device() {
    use std::os::unix::fs::FileTypeExt;
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    for command in [
        "rescore --model base --adapter adapter --input in.jsonl >/dev/full",
        "rescore --model base --adapter adapter --input in.jsonl --output /dev/full",
        "inspect base >/dev/full",
    ] {
        let ran = desk.shell(&format!("\"$LORB\" {command}"));
        assert_eq!(ran.code, Some(1), "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains("cannot write it: No space left"), "{}", ran.stderr);
    }
    assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    let ran = desk.shell(
        "\"$LORB\" rescore --model base --adapter adapter --input in.jsonl --output /dev/stdout 2>/dev/full",
    );
    assert_eq!((ran.code, parsed(&ran.stdout).len()), (Some(0), 1));
}
