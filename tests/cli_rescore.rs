//! `rescore`: whatever the files, the threads and the neighbours, the same scores in the same order.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::WORDS;
use support::cli::{Desk, lists, parsed};

const RESCORE: &str = "rescore --model base --adapter adapter";

fn scores(line: &Value, key: &str) -> Vec<f64> {
    line["hyps"].as_array().unwrap().iter().map(|h| h[key].as_f64().unwrap()).collect()
}

#[test]
fn every_field_is_kept_and_the_scores_are_added() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(1, 200));
    let ran = desk.run(&format!("{RESCORE} --input in.jsonl --output out.jsonl"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    assert!(
        ran.stderr.contains("weights: first pass 1, lm 0, n-gram 0, lorb 2, words 0 (those of training"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("rescored 200 utterances, ") && ran.stderr.contains("(0 cut at 64 tokens)"));

    let (before, after) = (parsed(&lists(1, 200)), parsed(&desk.read("out.jsonl")));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(
            [&before["id"], &before["ref"], &before["speaker"]],
            [&after["id"], &after["ref"], &after["speaker"]]
        );
        let (am, lorb, total) = (scores(after, "am"), scores(after, "lorb"), scores(after, "total"));
        for (i, hypothesis) in before["hyps"].as_array().unwrap().iter().enumerate() {
            let rescored = &after["hyps"][i];
            hypothesis.as_object().unwrap().iter().for_each(|(key, value)| assert_eq!(&rescored[key], value));
            assert_eq!(total[i], am[i] + 2.0 * lorb[i]);
        }
        let order: Vec<usize> = serde_json::from_value(after["order"].clone()).unwrap();
        assert!(order.windows(2).all(|w| total[w[0]] >= total[w[1]]) && order.len() == total.len());
        assert_eq!(after["best"], after["hyps"][order[0]]["text"]);
        let posterior = 1.0 / total.iter().map(|t| (t - total[order[0]]).exp()).sum::<f64>();
        assert!((after["confidence"].as_f64().unwrap() - posterior).abs() < 1e-12);
    }
    let spread = after
        .iter()
        .flat_map(|line| scores(line, "lorb"))
        .fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
    assert!(spread.1 - spread.0 > 0.05, "the adapter tells hypotheses apart: {spread:?}");
}

#[test]
fn pipes_and_compressed_files_give_the_same() {
    let desk = Desk::new();
    let text = lists(2, 100);
    desk.write("in.jsonl", &text);
    desk.write("in.zst", zstd::encode_all(text.as_bytes(), 3).unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    gzip.write_all(text.as_bytes()).unwrap();
    desk.write("in.gz", gzip.finish().unwrap());

    let expected = desk.ok(&format!("{RESCORE} --input in.jsonl"));
    assert_eq!(desk.run_with(RESCORE, &text).stdout, expected);
    assert_eq!(
        desk.run_with(&format!("{RESCORE} --input - --output -"), fs::read(desk.path("in.gz")).unwrap())
            .stdout,
        expected
    );
    desk.ok(&format!("{RESCORE} --input in.zst --output out.gz"));
    desk.ok(&format!("{RESCORE} --input in.gz --output out.zst"));
    let mut unzipped = String::new();
    let gzip = fs::File::open(desk.path("out.gz")).unwrap();
    flate2::read::GzDecoder::new(gzip).read_to_string(&mut unzipped).unwrap();
    assert_eq!(unzipped, expected);
    let zstd = zstd::decode_all(&fs::read(desk.path("out.zst")).unwrap()[..]).unwrap();
    assert_eq!(String::from_utf8(zstd).unwrap(), expected);
}

#[test]
fn a_score_depends_on_its_text_alone() {
    let desk = Desk::new();
    let text = lists(3, 150);
    desk.write("in.jsonl", &text);
    let together = desk.ok(&format!("{RESCORE} --input in.jsonl --threads 1"));
    assert_eq!(desk.ok(&format!("{RESCORE} --input in.jsonl --threads 3")), together);
    for (line, expected) in text.lines().zip(together.lines()).step_by(30) {
        assert_eq!(desk.run_with(RESCORE, line).stdout.trim_end(), expected);
    }
    let twice = json!({"id": 1, "hyps": [{"text": "he was", "am": 0}, {"text": "she", "am": 0}, {"text": " he  was ", "am": 0}]});
    let lorb = scores(&parsed(&desk.run_with(RESCORE, twice.to_string()).stdout)[0], "lorb");
    assert!(lorb[0] == lorb[2] && lorb[0] != lorb[1], "{lorb:?}");
}

#[test]
fn lists_of_any_length_and_texts_of_any_kind_are_fine() {
    let desk = Desk::new();
    let hypothesis = |text: &str| json!({"text": text, "am": -1});
    let many: Vec<Value> =
        (0..1000).map(|i| hypothesis(&[WORDS[i % 45], WORDS[i / 45], "the"].join(" "))).collect();
    let odd = [
        "",
        " ",
        "你好 мир",
        "🦀\u{200d}🦀",
        "\u{0}\u{1b}\u{feff}",
        "e\u{301}\u{202e}abc",
        "[CLS] [SEP] ##s",
        "\u{fffd}\u{10ffff}",
    ];
    let texts = [
        json!({"id": "one", "hyps": [hypothesis("the")]}),
        json!({"id": "many", "hyps": many}),
        json!({"id": "long", "hyps": [hypothesis(&"he was ".repeat(2500)), hypothesis("the")]}),
        json!({"id": "öd\u{2028}", "hyps": odd.map(hypothesis)}),
    ];
    let ran = desk.run_with(RESCORE, texts.map(|line| line.to_string()).join("\n"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("4 utterances, 1011 hypotheses (1 cut at 64 tokens)"), "{}", ran.stderr);
    let lines = parsed(&ran.stdout);
    assert_eq!((&lines[0]["order"], &lines[0]["confidence"]), (&json!([0]), &json!(1.0)));
    assert_eq!(lines[1]["order"].as_array().unwrap().len(), 1000);
    assert_eq!(lines[2]["hyps"][0]["text"], "he was ".repeat(2500));
    let kept: Vec<&str> =
        lines[3]["hyps"].as_array().unwrap().iter().map(|h| h["text"].as_str().unwrap()).collect();
    assert_eq!(kept, odd);
}

#[test]
fn beta_can_be_given() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(4, 20));
    let out = desk.ok(&format!("{RESCORE} --input in.jsonl --beta 0"));
    parsed(&out).iter().for_each(|line| assert_eq!(scores(line, "total"), scores(line, "am")));
    desk.refused(&format!("{RESCORE} --input in.jsonl --beta NaN"), 2, &["--beta", "expected a number"]);
}

#[test]
fn words_or_characters_are_counted_as_the_adapter_s_unit_says() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(4, 20));
    for (unit, of) in [
        ("word", (|text| text.split(' ').count()) as fn(&str) -> usize),
        ("char", |text| text.chars().filter(|c| *c != ' ').count()),
    ] {
        let rescoring = json!({
            "weights": {"first_pass": 1.0, "lm": 0.0, "lorb": 0.0, "words": -0.25},
            "confidence_scale": 1.0,
            "fields": {"first_pass": "am", "lm": "lm", "lm_required": false},
            "normalise": {},
            "unit": unit,
            "tuned_on": [],
        });
        desk.write("adapter/rescoring.json", rescoring.to_string());
        for line in parsed(&desk.ok(&format!("{RESCORE} --input in.jsonl"))) {
            let (am, total) = (scores(&line, "am"), scores(&line, "total"));
            for (i, hypothesis) in line["hyps"].as_array().unwrap().iter().enumerate() {
                assert_eq!(total[i], am[i] - 0.25 * of(hypothesis["text"].as_str().unwrap()) as f64);
            }
        }
    }
}

#[test]
fn weights_of_fewer_bits_change_the_scores_a_little() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(3, 20));
    let score = |more: &str| -> Vec<f64> {
        let lists = parsed(&desk.ok(&format!("{RESCORE} --device cpu --input in.jsonl {more}")));
        lists.iter().flat_map(|list| scores(list, "lorb")).collect()
    };
    let exact = score("");
    assert_eq!(exact, score("--dtype f32"));
    let spread = exact.iter().map(|x| (x - exact[0]).abs()).fold(0.0, f64::max);
    for (dtype, most) in [("bf16", 0.05), ("int8", 0.3)] {
        let rounded = score(&format!("--dtype {dtype}"));
        let difference = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(difference > 0.0 && difference < most * spread, "{dtype}: {difference} of {spread}");
        assert_eq!(rounded, score(&format!("--dtype {dtype} --threads 1")));
    }
    desk.refused(&format!("{RESCORE} --input in.jsonl --dtype int4"), 2, &["f32, bf16 or int8"]);
    desk.refused(
        &format!("{RESCORE} --input in.jsonl --dtype int8 --device cuda"),
        2,
        &["int8 is for the CPU"],
    );
}

#[test]
fn what_trails_too_far_is_not_scored_and_the_rest_is_as_without() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(8, 100));
    let full = desk.ok(&format!("{RESCORE} --input in.jsonl"));
    let ran = desk.run(&format!("{RESCORE} --input in.jsonl --output pruned.jsonl --prune 1.5"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let (mut scored, mut skipped) = (0, 0);
    for (full, pruned) in parsed(&full).iter().zip(&parsed(&desk.read("pruned.jsonl"))) {
        let am = scores(full, "am");
        let best = am.iter().copied().fold(f64::MIN, f64::max);
        let far: Vec<usize> = (0..am.len()).filter(|&i| best - am[i] > 1.5).collect();
        assert_eq!(pruned.get("pruned"), (!far.is_empty()).then(|| json!(far)).as_ref());
        let hypotheses = full["hyps"].as_array().unwrap().iter().zip(pruned["hyps"].as_array().unwrap());
        for (i, (full, pruned)) in hypotheses.enumerate() {
            let mut expected = full.as_object().unwrap().clone();
            if far.contains(&i) {
                expected.retain(|key, _| !["lorb", "total"].contains(&&key[..]));
            }
            assert_eq!(pruned.as_object().unwrap(), &expected);
        }
        let order: Vec<usize> = serde_json::from_value(pruned["order"].clone()).unwrap();
        let of_full: Vec<usize> = serde_json::from_value(full["order"].clone()).unwrap();
        let near = of_full.into_iter().filter(|i| !far.contains(i));
        assert!(order[..am.len() - far.len()].iter().copied().eq(near), "{order:?}");
        assert!(order[am.len() - far.len()..].is_sorted_by(|&i, &j| am[i] >= am[j]), "{order:?}");
        assert_eq!(pruned["best"], pruned["hyps"][order[0]]["text"]);
        (scored, skipped) = (scored + am.len() - far.len(), skipped + far.len());
    }
    assert!(scored > 50 && skipped > 50, "{scored} {skipped}");
    let said = format!("pruned {skipped} of {} hypotheses, more than 1.5 below", scored + skipped);
    assert!(ran.stderr.contains(&said) && ran.stderr.contains(&format!(", {scored} hypotheses (0 cut")));

    assert_eq!(desk.ok(&format!("{RESCORE} --input in.jsonl --prune 1e9")), full);
    desk.ok(&format!("{RESCORE} --input pruned.jsonl --output again.jsonl"));
    assert_eq!(parsed(&desk.read("again.jsonl")), parsed(&full), "no trace of the pruning stays");
    for margin in ["NaN", "-1", "inf", "much"] {
        let refused = format!("{RESCORE} --input in.jsonl --prune {margin}");
        desk.refused(&refused, 2, &["--prune", "expected a number from 0"]);
    }
}

#[test]
fn a_margin_of_0_keeps_the_best_and_its_equals() {
    let desk = Desk::new();
    let hypothesis = |text: &str, am: f64| json!({"text": text, "am": am});
    let tied =
        json!({"id": 1, "hyps": [hypothesis("he", -1.0), hypothesis("it", -1.5), hypothesis("she", -1.0)]});
    let one = json!({"id": 2, "hyps": [hypothesis("he", -1.0)]});
    let lines = parsed(&desk.run_with(&format!("{RESCORE} --prune 0"), format!("{tied}\n{one}")).stdout);
    assert_eq!((&lines[0]["pruned"], &lines[0]["order"][2]), (&json!([1]), &json!(1)));
    assert_eq!((lines[1].get("pruned"), &lines[1]["confidence"]), (None, &json!(1.0)));
}

#[test]
fn one_utterance_does_not_wait_for_the_next() {
    let desk = Desk::new();
    let mut command = desk.command(RESCORE);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for line in lists(5, 3).lines() {
        writeln!(stdin, "{line}").unwrap();
        let mut answer = String::new();
        stdout.read_line(&mut answer).unwrap();
        assert_eq!(parsed(&answer)[0]["id"], parsed(line)[0]["id"]);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(6, 3000));
    let ran = desk.shell(
        "{ $LORB rescore --model base --adapter adapter --input in.jsonl; echo $? >code; } | head -n 1",
    );
    assert_eq!((ran.stdout.lines().count(), desk.read("code").trim()), (1, "0"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("lorb-engine:"), "{}", ran.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_list() {
    let desk = Desk::new();
    let peak = |count: usize| {
        desk.write("in.jsonl", lists(7, count));
        let mut command: Command =
            desk.command(&format!("{RESCORE} --input in.jsonl --output out.jsonl --threads 2"));
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        while child.try_wait().unwrap().is_none() {
            // A zombie has no memory any more, and no line about it.
            let status = fs::read_to_string(&status).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.map_or(peak, |kib| kib.trim_end_matches("kB").trim().parse().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(desk.read("out.jsonl").lines().count(), count);
        peak
    };
    let (short, long): (u64, u64) = (peak(2000), peak(20_000));
    eprintln!("peak memory: {short} KiB for 2,000 utterances, {long} KiB for 20,000");
    assert!(long < short + (6 << 10), "{short} KiB for 2,000 utterances, {long} KiB for 20,000");
}

#[cfg(unix)]
#[test]
fn interrupted_it_leaves_nothing() {
    use std::os::fd::OwnedFd;

    let desk = Desk::new();
    let before = desk.names();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        // A pipe that nobody closes: it waits for more lists.
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut command = desk.command("rescore --model base --adapter adapter --output out.jsonl");
        let mut child = command.stdin(OwnedFd::from(reader)).spawn().unwrap();
        while desk.names() == before {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        desk.shell(&format!("kill -{signal} {}", child.id()));
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(desk.names(), before);
    }
}
