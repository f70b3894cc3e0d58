//! The metrics of a training run, which a killed run ends with too, and `report`, which shows them.

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::cli::{Desk, parsed};

const WORDS: [&str; 8] = ["the", "of", "and", "to", "in", "he", "she", "was"];
const TRAIN: &str = "train --model base --train lists.jsonl --valid 0.25 --test test.jsonl --threads 2 --epochs 4 \
     --batch-tokens 100 --lr 0.003 --head-lr 0.01 --ngram-order 0";
const EVIL: &str = "<script>document.title='run'</script>";

/// A desk with lists whose first pass prefers hypotheses with "who", which nobody says, and so can be learned.
fn desk() -> Desk {
    let desk = Desk::new();
    for (name, count, offset) in [("lists.jsonl", 120, 0), ("test.jsonl", 40, 1000)] {
        let line = |u: usize| {
            let reference: Vec<&str> = (0..6).map(|i| WORDS[(u * 7 + i * (u + 3)) % WORDS.len()]).collect();
            let hyps: Vec<Value> = (0..4)
                .map(|h| {
                    let mut words = reference.clone();
                    words[h + 1] = if h < 3 { "who" } else { words[h + 1] };
                    words.extend((h == 1).then_some(EVIL));
                    json!({"text": words.join(" "), "am": -(h as f64) / 2.0})
                })
                .collect();
            format!("{}\n", json!({"id": format!("<b>{u}"), "ref": reference.join(" "), "hyps": hyps}))
        };
        desk.write(name, (offset..offset + count).map(line).collect::<String>());
    }
    desk
}

/// The lines without times.
fn timeless(text: &str) -> Vec<Value> {
    let mut lines = parsed(text);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.remove("seconds");
        line.remove("started");
        if let Some(command) = line.get_mut("command") {
            *command = Value::Null;
        }
    }
    lines
}

#[test]
fn metrics_say_what_a_run_was_and_did() {
    let desk = desk();
    let printed = desk.ok(&format!("{TRAIN} --out run"));
    let lines = parsed(&desk.read("run/metrics.jsonl"));
    let of = |kind: &str| lines.iter().filter(|l| l["kind"] == kind).collect::<Vec<_>>();

    let run = &lines[0];
    assert_eq!(
        (run["kind"].as_str(), run["version"].as_str()),
        (Some("run"), Some(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(run["command"], format!("lorb-engine {TRAIN} --out run"));
    assert_eq!(
        (&run["threads"], &run["options"]["epochs"], &run["base"]),
        (&2.into(), &4.into(), &"base".into())
    );
    let lists = json!([
        {"role": "training", "name": "lists.jsonl", "utterances": 90, "hypotheses": 360},
        {"role": "validation", "name": "0.25 of the training lists, seed 1", "utterances": 30, "hypotheses": 120},
        {"role": "held out", "name": "test.jsonl", "utterances": 40, "hypotheses": 160},
    ]);
    assert_eq!(run["lists"], lists);

    let steps = of("step");
    assert!(steps.iter().zip(1..).all(|(s, i)| s["step"] == i && s["steps"] == steps.len()), "{steps:?}");
    let tenths = |s: &Value| (s["lr"].as_f64().unwrap() * 1e6).round();
    assert!(steps.iter().any(|s| tenths(s) == 3_000.0) && tenths(steps[steps.len() - 1]) < 1_000.0);
    let validations = of("validation");
    assert_eq!(validations.iter().map(|v| v["epoch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for v in &validations {
        let percent = 100.0 * v["errors"].as_f64().unwrap() / v["reference_units"].as_f64().unwrap();
        assert!((v["wer"].as_f64().unwrap() - percent).abs() < 1e-9, "{v}");
        let last = steps.iter().rfind(|s| s["epoch"] == v["epoch"]).unwrap();
        assert_eq!(v["step"], last["step"]);
    }

    let result = &lines[lines.len() - 1];
    assert_eq!(
        result["weights"],
        serde_json::from_str::<Value>(&desk.read("run/rescoring.json")).unwrap()["weights"]
    );
    assert_eq!((&result["epochs"], &result["sets"][1]["name"]), (&4.into(), &"held out".into()));
    let kept = validations.iter().find(|v| v["epoch"] == result["epoch"]).unwrap();
    assert_eq!(kept["errors"], result["sets"][0]["errors"]["rescored"]);
    // The held-out lists are scored as evaluate scores them.
    let evaluated: Value =
        serde_json::from_str(&desk.ok("evaluate --model base --adapter run test.jsonl --json")).unwrap();
    let errors = |system: &str| {
        let s = &evaluated["files"][0]["systems"][system];
        ["substitutions", "deletions", "insertions"].iter().map(|k| s[k].as_u64().unwrap()).sum::<u64>()
    };
    let held_out = &result["sets"][1]["errors"];
    for (ours, theirs) in [("first_pass", "first_pass"), ("rescored", "rescored"), ("oracle", "oracle")] {
        assert_eq!(held_out[ours], errors(theirs), "{ours}");
    }
    assert!(printed.contains("held out"), "{printed}");
    let examples = result["sets"][1]["examples"].as_array().unwrap();
    assert!(!examples.is_empty() && examples.len() <= 10, "{examples:?}");
}

#[test]
fn a_killed_run_ends_with_the_same_lines() {
    let desk = desk();
    let long = format!("{TRAIN} --epochs 2 --checkpoint-every 0").replace("--epochs 4 ", "");
    desk.ok(&format!("{long} --out whole"));
    let mut kills = 0;
    for delay in (30..500).step_by(31) {
        let mut command = desk.command(&format!("{long} --out killed --resume"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills >= 3, "only {kills} kills hit a run that was under way");
    desk.ok(&format!("{long} --out killed --resume"));
    assert_eq!(timeless(&desk.read("whole/metrics.jsonl")), timeless(&desk.read("killed/metrics.jsonl")));
}

#[test]
fn patience_ends_a_run_early_and_keeps_the_best() {
    let desk = desk();
    let train = TRAIN.replace("--epochs 4", "--epochs 40");
    let printed = desk.ok(&format!("{train} --patience 2 --out early"));
    let lines = parsed(&desk.read("early/metrics.jsonl"));
    let best: Vec<bool> =
        lines.iter().filter(|l| l["kind"] == "validation").map(|l| l["best"].as_bool().unwrap()).collect();
    assert!(best.len() < 40 && best.ends_with(&[true, false, false]), "{best:?}");
    assert!(!best[..best.len() - 1].windows(2).any(|w| w == [false, false]), "{best:?}");
    assert!(
        printed.contains(&format!("(epoch {} of 40, stopped after {}", best.len() - 2, best.len())),
        "{printed}"
    );
    desk.refused(&format!("{TRAIN} --patience 0 --out none"), 2, &["--patience 0"]);
}

#[test]
fn the_page_says_what_the_metrics_do() {
    let desk = desk();
    desk.ok(&format!("{TRAIN} --out run"));
    assert_eq!(desk.ok("report run"), "run/report.html\n");
    let page = desk.read("run/report.html");
    desk.ok("report run --out other.html");
    assert_eq!(desk.read("other.html"), page);
    let result = parsed(&desk.read("run/metrics.jsonl")).pop().unwrap();
    for set in result["sets"].as_array().unwrap() {
        let percent =
            100.0 * set["errors"]["rescored"].as_f64().unwrap() / set["reference_units"].as_f64().unwrap();
        assert!(page.contains(&format!("<td>{percent:.2} %</td>")), "{percent}");
        for list in set["examples"].as_array().unwrap() {
            let errors = |place: &str| -> u64 {
                let hypotheses = list["hypotheses"].as_array().unwrap();
                hypotheses.iter().find(|h| h[place] == 1).unwrap()["errors"].as_u64().unwrap()
            };
            let (before, after) = (errors("before"), errors("after"));
            let class = if after < before { "good" } else { "bad" };
            assert!(
                page.contains(&format!("<span class=\"{class}\">{before} → {after} errors</span>")),
                "{list}"
            );
        }
    }
    for part in [
        "finished",
        "lorb-engine train --model base",
        "class=\"sub\"",
        "&lt;script&gt;",
        "&lt;b&gt;",
        "<polyline",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    for part in ["<script", "<b>", "src=", "href=", "url("] {
        assert!(!page.contains(part), "{part} is in the page");
    }
}

#[test]
fn an_unfinished_run_has_a_page_at_any_moment() {
    let desk = desk();
    desk.ok(&format!("{TRAIN} --out run"));
    let whole = desk.read("run/metrics.jsonl");
    let lines = whole.lines().count();
    for kept in [1, 2, 3, lines / 2, lines - 1] {
        let text: String = whole.split_inclusive('\n').take(kept).collect();
        // And half of the line after.
        let torn = whole.split_inclusive('\n').nth(kept).unwrap();
        desk.write("run/metrics.jsonl", text + &torn[..torn.len() / 2]);
        desk.ok("report run");
        assert!(desk.read("run/report.html").contains("unfinished"), "{kept} lines");
    }
    desk.write("run/metrics.jsonl", whole.replacen("\"kind\":\"step\"", "\"kind\":\"hop\"", 1));
    desk.refused("report run", 2, &["metrics.jsonl", "line 2", "hop"]);
    desk.refused("report base", 2, &["base", "no metrics.jsonl", "--out"]);
    desk.refused("report nowhere", 2, &["nowhere"]);
}

fn write_metrics(desk: &Desk, lines: &[Value]) {
    desk.write("run/metrics.jsonl", lines.iter().map(|line| format!("{line}\n")).collect::<String>());
}

#[test]
fn an_unfinished_run_shows_its_best_epoch() {
    let desk = desk();
    desk.ok(&format!("{TRAIN} --out run"));
    let mut lines = parsed(&desk.read("run/metrics.jsonl"));
    lines.pop();
    for line in lines.iter_mut().filter(|line| line["kind"] == "validation") {
        line["best"] = json!(line["epoch"].as_u64() <= Some(2));
    }
    write_metrics(&desk, &lines);
    desk.ok("report run");
    assert!(desk.read("run/report.html").contains("after epoch 2, the best so far"));
}

#[test]
fn every_curve_shows_its_own_numbers() {
    let desk = desk();
    desk.ok(&format!("{TRAIN} --out run"));
    let lines = parsed(&desk.read("run/metrics.jsonl"));
    let page = |lines: &[Value]| {
        write_metrics(&desk, lines);
        desk.ok("report run");
        desk.read("run/report.html")
    };
    let whole = page(&lines);
    for (kind, value) in [
        ("step", "mwer"),
        ("step", "mwer_without"),
        ("step", "correlation"),
        ("step", "gradient_norm"),
        ("step", "lr"),
        ("validation", "expected"),
        ("validation", "expected_without"),
        ("validation", "errors"),
    ] {
        let mut changed = lines.clone();
        let line = changed.iter_mut().rfind(|line| line["kind"] == kind).unwrap();
        line[value] = match line[value].as_u64() {
            Some(number) => json!(number + 9),
            None => json!(line[value].as_f64().unwrap() + 9.0),
        };
        assert_ne!(page(&changed), whole, "{value}");
    }
}

#[test]
fn the_page_fits_a_phone_and_runs_nothing() {
    let Some(mut browser) = browser::Browser::start() else { return };
    let desk = desk();
    desk.ok(&format!("{TRAIN} --out run"));
    desk.ok("report run");
    let url = format!("file://{}", fs::canonicalize(desk.path("run/report.html")).unwrap().display());
    for (width, mobile) in [(360, true), (1280, false)] {
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile});
        browser.call("Emulation.setDeviceMetricsOverride", size);
        browser.call("Page.navigate", json!({"url": url}));
        browser
            .wait_for("document.readyState == 'complete' && document.querySelectorAll('figure').length >= 4");
        assert_eq!(browser.evaluate("document.title"), "Training of run");
        let widest = browser.evaluate("document.documentElement.scrollWidth");
        assert!(widest.as_u64() <= Some(width), "{widest} of {width}");
        assert_eq!(browser.evaluate("document.scripts.length"), 0);
        assert_eq!(browser.evaluate("document.body.innerText.includes('<script>')"), true);
    }
    // A curve has another colour in the dark than on paper.
    let curve = "getComputedStyle(document.querySelector('figure polyline')).stroke";
    let mut in_scheme = |features: Value, media: &str| {
        browser.call("Emulation.setEmulatedMedia", json!({"features": features, "media": media}));
        (browser.evaluate(curve), browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    };
    let dark = json!([{"name": "prefers-color-scheme", "value": "dark"}]);
    let light = in_scheme(json!([{"name": "prefers-color-scheme", "value": "light"}]), "");
    let in_the_dark = in_scheme(dark.clone(), "");
    assert!(light.0 != in_the_dark.0 && light.1 != in_the_dark.1, "{light:?} {in_the_dark:?}");
    assert_eq!(in_scheme(dark, "print"), light);
}
