//! Several domains: `train --domain` gives the bytes of separate runs, and `evaluate --adapter-for` the errors of
//! separate evaluations.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use lorb_engine::card::open_adapter;
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::nbest::{Fields, read_all};
use lorb_engine::rescore::prune::Margin;
use lorb_engine::rescore::rescorer::Rescorer;
use lorb_engine::rescore::weights::Features;
use serde_json::{Value, json};
use support::cli::{Desk, lists, parsed};

/// What all runs of a test are given.
const OPTIONS: &str = "--threads 2 --batch-tokens 100 --lr 0.01 --valid 0.25";

/// A desk with the lists of three domains.
fn desk() -> Desk {
    let desk = Desk::new();
    for (name, seed, count) in
        [("legal.jsonl", 20, 60), ("news-1.jsonl", 21, 50), ("news-2.jsonl", 22, 30), ("test.jsonl", 23, 40)]
    {
        desk.write(name, lists(seed, count));
    }
    desk
}

const DOMAINS: &str = "--domain legal=legal.jsonl --domain news=news-1.jsonl,news-2.jsonl";

fn bytes(desk: &Desk, adapter: &str) -> Vec<u8> {
    fs::read(desk.path(adapter).join("adapter_model.safetensors")).unwrap()
}

/// The line of a table that begins with `name`, without it.
#[track_caller]
fn row<'t>(text: &'t str, name: &str) -> &'t str {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name:?} in {text}")).trim_start()
}

#[test]
fn domains_are_trained_as_each_would_be_alone() {
    let desk = desk();
    for (out, start) in [("fresh", ""), ("adapted", "--init-adapter adapter")] {
        let options = format!("train --model base {start} --epochs 2 --test test.jsonl {OPTIONS}");
        let together = desk.ok(&format!("{options} --out {out} {DOMAINS}"));
        for (name, files) in [("legal", "legal.jsonl"), ("news", "news-1.jsonl news-2.jsonl")] {
            let alone = desk.ok(&format!("{options} --out {out}-alone/{name} --train {files}"));
            assert!(bytes(&desk, &format!("{out}/{name}")) == bytes(&desk, &format!("{out}-alone/{name}")));
            for file in ["rescoring.json", "lorb.json", "adapter_config.json"] {
                let of = |out: &str| desk.read(&format!("{out}/{name}/{file}"));
                assert_eq!(of(out), of(&format!("{out}-alone")), "{file}");
            }
            for set in ["validation", "held out"] {
                assert_eq!(row(&together, &format!("{name} {set} ")), row(&alone, set));
            }
            assert!(together.contains(&format!("\nadapter: {out}/{name} (epoch ")), "{together}");
            let card = desk.read(&format!("{out}/{name}/README.md"));
            assert!(card.contains(&format!("\n# {name}\n")) && card.contains("--domain legal=legal.jsonl "));
            let report = desk.ok(&format!("report {out}/{name}"));
            assert_eq!(report, format!("{out}/{name}/report.html\n"));
        }
        assert!(bytes(&desk, &format!("{out}/legal")) != bytes(&desk, &format!("{out}/news")));
        assert!(together.contains("\ndomain news, 2 of 2\n"), "{together}");
        assert_eq!(together.matches("change against the first pass").count(), 1, "{together}");
    }
}

#[test]
#[cfg(unix)]
fn a_stopped_run_goes_on_with_the_domain_that_is_unfinished() {
    let desk = desk();
    let train = |out: &str| {
        format!(
            "train --model base --epochs 30 {OPTIONS} {DOMAINS} --domain more=legal.jsonl,news-2.jsonl --out {out}"
        )
    };
    desk.ok(&train("whole"));
    let mut command = desk.command(&format!("{} --checkpoint-every 0", train("out")));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = || {
        let metrics = fs::read_to_string(desk.path("out/news/metrics.jsonl")).unwrap_or_default();
        metrics.contains(r#""kind":"step""#)
    };
    for _ in 0..6000 {
        if begun() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let stopped = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    assert!(said.contains("saved in out/news; the same command with --resume goes on"), "{said}");
    let adapter = |name: &str| desk.path(&format!("out/{name}/adapter_model.safetensors"));
    assert!(adapter("legal").exists() && !adapter("news").exists() && !adapter("more").exists());
    let finished = fs::metadata(adapter("legal")).unwrap().modified().unwrap();

    desk.refused(&train("out"), 2, &["out/news holds an unfinished run", "--resume"]);
    let ran = desk.run(&format!("{} --resume", train("out")));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("finished out/legal: nothing is left to do"), "{}", ran.stdout);
    assert_eq!(ran.stderr.matches("resumed after step ").count(), 1, "{}", ran.stderr);
    assert_eq!(fs::metadata(adapter("legal")).unwrap().modified().unwrap(), finished);
    let again = desk.ok(&format!("{} --resume", train("out")));
    for name in ["legal", "news", "more"] {
        assert!(bytes(&desk, &format!("out/{name}")) == bytes(&desk, &format!("whole/{name}")), "{name}");
        let name = format!("{name} validation ");
        assert_eq!(row(&ran.stdout, &name), row(&again, &name));
    }
}

#[test]
fn domains_that_cannot_be_trained_are_refused() {
    let desk = desk();
    for (domains, words) in [
        ("--domain legal.jsonl", &["NAME=FILE", "found no \"=\""][..]),
        ("--domain legal=", &["a file without a name"]),
        ("--domain legal=legal.jsonl,", &["a file without a name"]),
        ("--domain ../legal=legal.jsonl", &["\"../legal\"", "a name has letters"]),
        ("--domain =legal.jsonl", &["the name \"\""]),
        ("--domain legal=legal.jsonl --domain legal=news-1.jsonl", &["--domain legal", "has this name"]),
        ("--domain legal=legal.jsonl --domain LEGAL=news-1.jsonl", &["--domain LEGAL", "has this name"]),
        ("--domain legal=legal.jsonl --train news-1.jsonl", &["--domain", "--train"]),
        ("--domain legal=legal.jsonl --valid news-1.jsonl", &["--valid news-1.jsonl", "fraction"]),
        (
            "--domain adapter=legal.jsonl --init-adapter adapter --out .",
            &["--domain adapter", "another --out"],
        ),
    ] {
        desk.refused(&format!("train --model base {domains}"), 2, words);
    }
    desk.refused("train --domain legal=legal.jsonl", 2, &["--model"]);
    // What is wrong with the last domain is known before the first is trained.
    for last in ["nowhere.jsonl", "base/config.json"] {
        let ran = desk.run(&format!("train --model base --domain a=legal.jsonl --domain b={last} --out out"));
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(last), "{}", ran.stderr);
        assert!(!desk.path("out/a/metrics.jsonl").exists());
    }
}

/// A desk with adapters for two domains and one of another rank for all others; with mixed lists, and with those of
/// each adapter alone.
fn mixed_desk() -> Desk {
    let desk = desk();
    desk.ok(&format!("train --model base --epochs 1 {OPTIONS} {DOMAINS} --out adapters"));
    for (role, seed, count) in [("test", 30, 150), ("dev", 31, 180)] {
        let (mut mixed, mut parts) = (String::new(), [const { String::new() }; 3]);
        for (i, mut line) in parsed(&lists(seed, count)).into_iter().enumerate() {
            let part = [0, 1, 1, 2, 0, 2][i % 6];
            let domain = [json!("legal"), json!("news"), json!(null)][part].clone();
            line["domain"] = if i % 12 == 3 { json!("sports") } else { domain };
            mixed += &format!("{line}\n");
            parts[part] += &format!("{line}\n");
        }
        desk.write(&format!("{role}.jsonl"), mixed);
        for (name, part) in ["legal", "news", "others"].into_iter().zip(parts) {
            desk.write(&format!("{role}-{name}.jsonl"), part);
        }
    }
    desk
}

const MIXED: &str =
    "evaluate --model base --adapter-for legal=adapters/legal --adapter-for news=adapters/news";

/// The domains of mixed lists, with their adapters.
const PARTS: [(&str, &str); 3] =
    [("legal", "adapters/legal"), ("news", "adapters/news"), ("others", "adapter")];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The errors of a system, of all kinds.
fn errors(counts: &Value, system: &str) -> [u64; 3] {
    ["substitutions", "deletions", "insertions"].map(|kind| counts["systems"][system][kind].as_u64().unwrap())
}

#[test]
fn mixed_lists_are_evaluated_as_their_parts_are() {
    let desk = mixed_desk();
    let mixed = json(&desk.ok(&format!("{MIXED} --adapter adapter test.jsonl --json")));
    let total = &mixed["files"][0];
    let mut sums = (0, [[0; 3]; 3]);
    for (i, (name, adapter)) in PARTS.into_iter().enumerate() {
        let part = &mixed["domains"][i];
        let alone =
            json(&desk.ok(&format!("evaluate --model base --adapter {adapter} test-{name}.jsonl --json")));
        for key in ["utterances", "hypotheses", "reference_units", "systems", "changes"] {
            assert_eq!(part[key], alone["files"][0][key], "{key} of {name}");
        }
        for key in ["weights", "weights_from", "confidence_scale"] {
            assert_eq!(part[key], alone[key], "{key} of {name}");
            assert_eq!(alone["domains"], json!([]));
        }
        assert_eq!(
            (&part["domain"], &part["adapter"]),
            (&[json!("legal"), json!("news"), json!(null)][i], &json!(adapter))
        );
        sums.0 += part["utterances"].as_u64().unwrap();
        for (sum, system) in sums.1.iter_mut().zip(["first_pass", "rescored", "oracle"]) {
            sum.iter_mut().zip(errors(part, system)).for_each(|(sum, errors)| *sum += errors);
        }
    }
    assert_eq!(total["utterances"], sums.0);
    assert_eq!(["first_pass", "rescored", "oracle"].map(|system| errors(total, system)), sums.1);
    assert_eq!(mixed["weights"], Value::Null);
    // Another adapter would have chosen otherwise.
    let wrong = json(&desk.ok("evaluate --model base --adapter adapter test-news.jsonl --json"));
    assert_ne!(wrong["files"][0]["systems"]["rescored"], mixed["domains"][1]["systems"]["rescored"]);

    let text = desk.ok(&format!("{MIXED} --adapter adapter test.jsonl legal.jsonl"));
    for words in [
        "domain legal: adapters/legal\n  weights: first pass 1, ",
        "other domains: adapter\n  weights: first pass 1, ",
        "\nall 2 files: 210 utterances, ",
        "\ndomain legal: 50 utterances, ",
        "\ndomain news: 50 utterances, ",
        // Those of legal.jsonl have no domain.
        "\nother domains: 110 utterances, ",
    ] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

#[test]
fn a_score_is_the_same_to_the_bit_whatever_scores_beside_it() {
    let desk = mixed_desk();
    let base = desk.path("base");
    let (model, device) =
        (|| BaseModel::open(&base).unwrap(), || AnyDevice::Cpu(Cpu::new(Isa::detect().unwrap())));
    let normaliser = Normaliser::new(&NormaliseOptions::default()).unwrap();
    let adapters = PARTS.map(|(_, adapter)| open_adapter(&desk.path(adapter), &model()).unwrap().0);
    let all: Vec<_> = adapters.iter().collect();
    let utterances = read_all(&[desk.path("test.jsonl")], &Fields::default()).unwrap();
    let numbers: Vec<usize> = (0..utterances.len()).map(|i| [0, 1, 1, 2, 0, 2][i % 6]).collect();
    let together = Rescorer::of_adapters(device(), model(), &all, normaliser.clone(), Unit::Word).unwrap();
    let together = together.score_by(&utterances, &numbers).unwrap().features;
    for (number, adapter) in adapters.iter().enumerate() {
        let alone = Rescorer::new(device(), model(), adapter, normaliser.clone(), Unit::Word).unwrap();
        let alone = alone.score(&utterances, Margin::NONE).unwrap().features;
        let others = numbers.iter().zip(&together).zip(&alone).filter(|((n, _), _)| **n != number);
        assert!(others.clone().count() > 0 && others.clone().all(|((_, a), b)| a != b));
        for ((n, together), alone) in numbers.iter().zip(&together).zip(&alone) {
            if *n == number {
                let bits = |features: &[Option<Features>]| -> Vec<u64> {
                    features.iter().flatten().map(|f| f.lorb.to_bits()).collect()
                };
                assert_eq!(bits(together), bits(alone));
            }
        }
    }
}

#[test]
fn weights_are_tuned_by_domain_and_saved_beside_each_adapter() {
    let desk = mixed_desk();
    desk.shell("mkdir alone && cp -r adapters/legal adapters/news alone && cp -r adapter alone/others");
    let mixed = json(&desk.ok(&format!("{MIXED} --adapter adapter --tune dev.jsonl test.jsonl --json")));
    for (i, (name, adapter)) in PARTS.into_iter().enumerate() {
        let alone = json(&desk.ok(&format!(
            "evaluate --model base --adapter alone/{name} --tune dev-{name}.jsonl test-{name}.jsonl --json"
        )));
        let part = &mixed["domains"][i];
        for key in ["weights", "weights_without_lorb", "confidence_scale"] {
            assert_eq!(part[key], alone[key], "{key} of {name}");
        }
        assert_eq!(part["systems"], alone["files"][0]["systems"]);
        assert_eq!(part["saved_to"], json!(format!("{adapter}/rescoring.json")));
        let (mut saved, mut saved_alone) = (
            json(&desk.read(&format!("{adapter}/rescoring.json"))),
            json(&desk.read(&format!("alone/{name}/rescoring.json"))),
        );
        assert_eq!(saved["tuned_on"][0]["list"], "dev.jsonl");
        assert_eq!(saved["tuned_on"][0]["utterances"], 60);
        for saved in [&mut saved, &mut saved_alone] {
            saved["tuned_on"] = Value::Null;
        }
        assert_eq!(saved, saved_alone);
    }
    // What was saved is used.
    let again = json(&desk.ok(&format!("{MIXED} --adapter adapter test.jsonl --json")));
    let rescored = |report: &Value| errors(&report["files"][0], "rescored");
    assert_eq!(rescored(&again), rescored(&mixed));

    let before = desk.read("adapters/legal/rescoring.json");
    let one_missing = format!("{MIXED} --adapter-for law=adapter --tune legal-tagged.jsonl test.jsonl");
    desk.write("legal-tagged.jsonl", desk.read("dev-legal.jsonl") + &desk.read("dev-news.jsonl"));
    desk.refused(&one_missing, 2, &["--tune", "domain law", "adapter"]);
    let twice = format!("{MIXED} --adapter ./adapters/legal --tune dev.jsonl test.jsonl");
    desk.refused(&twice, 2, &["domain legal", "other domains", "adapters of their own"]);
    assert_eq!(desk.read("adapters/legal/rescoring.json"), before);
}

#[test]
fn tables_have_domains_too() {
    let desk = mixed_desk();
    let mut table = String::from("id,text,am,lm,ref,domain\n");
    for line in parsed(&desk.read("test.jsonl")).into_iter().filter(|line| line["domain"].is_string()) {
        for hypothesis in line["hyps"].as_array().unwrap() {
            let (text, am, lm) = (&hypothesis["text"], &hypothesis["am"], &hypothesis["lm"]);
            let cells = [&line["id"], text, am, lm, &line["ref"], &line["domain"]];
            let cells = cells.map(|cell| cell.as_str().map_or_else(|| cell.to_string(), String::from));
            table += &(cells.join(",") + "\n");
        }
    }
    desk.write("test.csv", table);
    let of =
        |file: &str| json(&desk.ok(&format!("{MIXED} --adapter adapter {file} --json")))["domains"].clone();
    let (table, lines) = (of("test.csv"), of("test.jsonl"));
    for i in [0, 1] {
        assert_eq!(table[i]["systems"], lines[i]["systems"]);
    }
    assert_eq!(table[0]["utterances"], 50);
}

#[test]
fn domains_that_cannot_be_evaluated_are_refused() {
    let desk = mixed_desk();
    let unknown =
        ["test.jsonl:4: utterance u3: its domain is \"sports\"", "\"legal\", \"news\"", "--adapter DIR"];
    desk.refused(&format!("{MIXED} test.jsonl"), 2, &unknown);
    let none = ["legal.jsonl:1: utterance u0: it has no \"domain\"", "\"legal\", \"news\""];
    desk.refused(&format!("{MIXED} legal.jsonl"), 2, &none);
    desk.write("list.jsonl", r#"{"id":"u","ref":"a","domain":["a"],"hyps":[{"text":"a","am":0,"lm":0}]}"#);
    let list = ["list.jsonl:1: utterance u: domain: expected a string, found [\"a\"]"];
    desk.refused(&format!("{MIXED} --adapter adapter list.jsonl"), 2, &list);
    for (more, words) in [
        ("--adapter-for legal", &["expected DOMAIN=DIR or DOMAIN=ID"][..]),
        ("--adapter-for =adapter", &["expected DOMAIN=DIR"]),
        ("--adapter-for sports=", &["expected DOMAIN=DIR"]),
        ("--adapter-for legal=adapter", &["--adapter-for legal", "already"]),
        ("--adapter-for sports=nowhere", &["nowhere"]),
        ("--prune 2", &["--prune", "--adapter-for"]),
    ] {
        desk.refused(&format!("{MIXED} {more} test.jsonl"), 2, words);
    }
    desk.refused("evaluate --adapter-for legal=adapter test.jsonl", 2, &["--model"]);

    let saved = json(&desk.read("adapters/news/rescoring.json"));
    for (option, place, of_legal, of_news) in [
        ("first-pass", "/fields/first_pass", "\"am\"", "\"lm\""),
        ("lm", "/fields/lm", "\"lm\"", "\"am\""),
        ("noise", "/normalise/noise", "null", "\"<.*>\""),
        ("fillers", "/normalise/fillers", "[]", "[\"uh\"]"),
        ("unit", "/unit", "\"word\"", "\"char\""),
        ("case", "/normalise/case", "\"keep\"", "\"lower\""),
    ] {
        let mut other = saved.clone();
        *other.pointer_mut(place).unwrap() = json(of_news);
        desk.write("adapters/news/rescoring.json", other.to_string());
        let differ = format!("--{option} is {of_legal} for the one, {of_news} for the other");
        let words = ["adapters/legal and adapters/news", &differ];
        desk.refused(&format!("{MIXED} --adapter adapter test.jsonl"), 2, &words);
    }
    desk.ok(&format!("{MIXED} --adapter adapter --case lower test.jsonl"));

    // A language model that counts for one of them must be there for all.
    for (name, weight) in [("legal", 0.0), ("news", 0.5)] {
        let mut counts = saved.clone();
        counts["weights"]["lm"] = json!(weight);
        desk.write(&format!("adapters/{name}/rescoring.json"), counts.to_string());
    }
    desk.write("no-lm.jsonl", desk.read("test.jsonl").replace("\"lm\"", "\"other\""));
    let missing = ["no-lm.jsonl:1: hyps[0] has no \"lm\""];
    desk.refused(&format!("{MIXED} --adapter adapter no-lm.jsonl"), 2, &missing);
}
