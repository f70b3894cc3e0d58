//! `lorb-engine train` as a user runs it: it learns, it resumes to the same bytes after any end, and it
//! refuses what cannot work.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use lorb_engine::bert::tensors::Tensors;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;
use support::{TinyBert, tiny_bert};

/// A base and lists in a temporary folder.
struct Project {
    dir: tempfile::TempDir,
}

const WORDS: [&str; 8] = ["the", "of", "and", "to", "in", "he", "she", "was"];

impl Project {
    /// Lists in which the first pass prefers hypotheses with "whom", which nobody ever says: a model that
    /// reads the words can learn that.
    fn new() -> Project {
        let dir = tempfile::tempdir().unwrap();
        tiny_bert(&dir.path().join("base"), 1, &TinyBert::default());
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut lists = String::new();
        for u in 0..120 {
            let mut word = || WORDS[random.next_u32() as usize % WORDS.len()];
            let reference: Vec<&str> = (0..6).map(|_| word()).collect();
            let hyps: Vec<_> = (0..4)
                .map(|h| {
                    let mut words = reference.clone();
                    words[h + 1] = if h < 3 { "who" } else { words[h + 1] };
                    json!({"text": words.join(" "), "am": -(h as f64) / 2.0})
                })
                .collect();
            lists += &json!({"id": format!("u{u}"), "ref": reference.join(" "), "hyps": hyps}).to_string();
            lists.push('\n');
        }
        fs::write(dir.path().join("lists.jsonl"), lists).unwrap();
        Project { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Of its lists, so many, as another file.
    fn write_first(&self, count: usize, name: &str) {
        let lists = fs::read_to_string(self.path("lists.jsonl")).unwrap();
        let first: Vec<&str> = lists.lines().take(count).collect();
        fs::write(self.path(name), first.join("\n")).unwrap();
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorb-engine"));
        command
            .current_dir(self.dir.path())
            .args(["train", "--model", "base", "--train", "lists.jsonl", "--out", out])
            .args(more)
            .stdin(Stdio::null());
        let defaults = [
            ("--threads", "2"),
            ("--epochs", "3"),
            ("--batch-tokens", "100"),
            ("--lr", "0.01"),
            ("--head-lr", "0.01"),
        ];
        for (option, value) in defaults {
            if !more.contains(&option) {
                command.args([option, value]);
            }
        }
        command
    }

    /// Until a run that is under way has taken a step.
    fn wait_for_a_step(&self, out: &str) {
        let metrics = || fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap_or_default();
        for _ in 0..6000 {
            if metrics().contains("\"kind\":\"step\"") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it takes no step");
    }

    fn train(&self, out: &str, more: &[&str]) -> Output {
        self.command(out, more).output().unwrap()
    }

    fn json(&self, out: &str, file: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(out).join(file)).unwrap()).unwrap()
    }

    fn adapter(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("adapter_model.safetensors")).unwrap()
    }
}

#[cfg(unix)]
fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

fn refused(output: Output, parts: &[&str]) {
    let text = text(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn it_learns_and_writes_an_adapter() {
    let project = Project::new();
    let out = succeeded(project.train("out", &["--valid", "0.25"]));
    let line = out.lines().find_map(|l| l.strip_prefix("validation")).unwrap_or_else(|| panic!("{out}"));
    let percents: Vec<f64> = line.split('%').take(3).map(|p| p.trim().parse().unwrap()).collect();
    assert!(percents[2] < percents[0] / 2.0, "{line}");
    let files =
        ["adapter_config.json", "adapter_model.safetensors", "lorb.json", "rescoring.json", "README.md"];
    for file in files {
        assert!(project.path("out").join(file).is_file(), "{file} is missing");
    }
    let left = fs::read_dir(project.path("out")).unwrap();
    let left: Vec<_> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|n| n.starts_with('.') || n.starts_with("checkpoint")), "{left:?}");
}

#[test]
fn it_learns_where_the_first_pass_prefers_nothing() {
    let project = Project::new();
    let mut lists = fs::read_to_string(project.path("lists.jsonl")).unwrap();
    for score in ["-0.0", "-0.5", "-1.0", "-1.5"] {
        lists = lists.replace(&format!("\"am\":{score}"), "\"am\":-0.1");
    }
    fs::write(project.path("lists.jsonl"), lists).unwrap();
    project.write_first(120, "all.jsonl");
    for count in [120, 24] {
        project.write_first(count, "lists.jsonl");
        let said = succeeded(project.train("out", &["--valid", "0.25", "--epochs", "6"]));
        assert!(said.contains("first-pass scores count 1.000"), "{said}");
        let row = said.lines().find(|line| line.starts_with("validation")).unwrap();
        let [first_pass, _, rescored, _] = numbers(row)[..] else { panic!("{row}") };
        let [first_pass, rescored] = [first_pass, rescored].map(|wer| wer.parse::<f64>().unwrap());
        assert!(rescored < first_pass / 2.0, "{row}");
        assert!(project.json("out", "rescoring.json")["weights"]["lorb"].as_f64().unwrap() > 0.0);
        let mut evaluate = Command::new(env!("CARGO_BIN_EXE_lorb-engine"));
        evaluate.current_dir(project.dir.path()).args(["evaluate", "--model", "base", "--adapter", "out"]);
        evaluate.args(["--tune", "lists.jsonl", "--prune", "auto", "all.jsonl", "--json"]);
        let evaluated = evaluate.output().unwrap();
        assert!(evaluated.status.success(), "{}", text(&evaluated));
        let evaluated: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
        assert!(evaluated["weights"]["lorb"].as_f64().unwrap() > 0.0, "{evaluated}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let project = Project::new();
    for (out, seed, threads) in [("a", "7", "2"), ("b", "7", "2"), ("c", "8", "2")] {
        succeeded(project.train(out, &["--seed", seed, "--threads", threads]));
    }
    assert!(project.adapter("a") == project.adapter("b"));
    assert!(project.adapter("a") != project.adapter("c"));
}

#[test]
fn killed_again_and_again_it_ends_with_the_same_bytes() {
    let project = Project::new();
    let long = ["--epochs", "12", "--dropout", "0.1"];
    succeeded(project.train("whole", &long));
    let mut kills = 0;
    // Delays that fall in loading, training, validation and saving alike.
    for delay in (20..400).step_by(19) {
        let arguments = [&long[..], &["--resume", "--checkpoint-every", "0"]].concat();
        let mut child = project
            .command("killed", &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills >= 5, "only {kills} kills hit a run that was under way");
    let out = succeeded(project.train("killed", &[&long[..], &["--resume"]].concat()));
    assert!(project.adapter("whole") == project.adapter("killed"), "{out}");
    let file = |out: &str, name: &str| fs::read_to_string(project.path(out).join(name)).unwrap();
    assert_eq!(file("whole", "rescoring.json"), file("killed", "rescoring.json"));
    assert_eq!(
        file("whole", "README.md").replace("whole", "killed"),
        file("killed", "README.md").replace("--checkpoint-every 0 ", "")
    );
}

#[test]
#[cfg(unix)]
fn a_signal_saves_and_says_how_to_go_on() {
    let project = Project::new();
    let long = ["--epochs", "200"];
    for signal in ["TERM", "INT"] {
        let out = format!("out-{signal}");
        let child =
            project.command(&out, &long).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        project.wait_for_a_step(&out);
        send(signal, &child);
        let stopped = child.wait_with_output().unwrap();
        assert_eq!(stopped.status.code(), Some(1), "{}", text(&stopped));
        assert!(text(&stopped).contains("--resume"), "{}", text(&stopped));
        refused(project.train(&out, &long), &["unfinished run", "--resume"]);
        refused(project.train(&out, &["--epochs", "200", "--resume", "--rank", "4"]), &["--rank 8, not 4"]);
        let isa =
            project.command(&out, &["--epochs", "200", "--resume"]).env("LORB_ISA", "portable").output();
        refused(isa.unwrap(), &["instruction set", "portable"]);
        let lists = fs::read_to_string(project.path("lists.jsonl")).unwrap();
        fs::write(project.path("other.jsonl"), lists.replace("\"am\":-0.5", "\"am\":-0.6")).unwrap();
        let mut other = Command::new(env!("CARGO_BIN_EXE_lorb-engine"));
        other.current_dir(project.dir.path()).args(["train", "--model", "base", "--train", "other.jsonl"]);
        other.args(["--out", &out, "--threads", "2", "--batch-tokens", "100", "--lr", "0.01"]);
        other.args(["--head-lr", "0.01", "--epochs", "200", "--resume", "--first-pass-weight", "1"]);
        refused(other.output().unwrap(), &["the run was started with"]);
    }
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_it_at_once_and_leaves_nothing_half_written() {
    let project = Project::new();
    // Steps that take long.
    let lists = fs::read_to_string(project.path("lists.jsonl")).unwrap();
    fs::write(project.path("lists.jsonl"), lists.repeat(20)).unwrap();
    let long = ["--epochs", "200", "--batch-tokens", "1000000", "--profile", "trace.json"];
    for (signals, code) in [(["INT", "TERM"], 143), (["TERM", "INT"], 130)] {
        let signalled = || {
            let mut child =
                project.command("out", &long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            project.wait_for_a_step("out");
            for signal in signals {
                send(signal, &child);
                // Two that come together come in any order.
                std::thread::sleep(Duration::from_millis(20));
            }
            let code = child.wait().unwrap().code();
            // Where the step under way ended in between, the first was all that it took.
            if code == Some(1) {
                fs::remove_dir_all(project.path("out")).unwrap();
            }
            code
        };
        let ended = (0..20).map(|_| signalled()).find(|&ended| ended != Some(1));
        assert_eq!(ended, Some(Some(code)));
        let left = fs::read_dir(project.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["base", "lists.jsonl", "out"]);
        fs::remove_dir_all(project.path("out")).unwrap();
    }
}

#[test]
fn a_finished_run_is_not_run_again() {
    let project = Project::new();
    succeeded(project.train("out", &[]));
    let before = project.adapter("out");
    let card = || fs::read(project.path("out/README.md")).unwrap();
    let card_before = card();
    let again = succeeded(project.train("out", &["--resume"]));
    assert!(again.contains("nothing is left to do"), "{again}");
    assert!(before == project.adapter("out"));
    assert_eq!(card_before, card());
}

#[test]
fn a_model_card_tells_what_was_done() {
    let project = Project::new();
    project.write_first(30, "held out.jsonl");
    let said = succeeded(project.train("an adapter", &["--test", "held out.jsonl", "--valid", "0.25"]));
    let card = fs::read_to_string(project.path("an adapter/README.md")).unwrap();
    assert!(card.starts_with("---\nlibrary_name: peft\n") && card.matches("---\n").count() == 2, "{card}");
    for (name, row) in [("validation", "| validation |"), ("held out", "| held out |")] {
        let printed = said.lines().find(|line| line.starts_with(name)).unwrap();
        let written = card.lines().find(|line| line.starts_with(row)).unwrap();
        assert_eq!(numbers(printed), numbers(written), "{written}");
    }
    for words in [
        "\n- Base: `base`\n",
        "\n- Lists to train on: `lists.jsonl` (90 utterances)\n",
        "\n- Lists to choose epoch and weights on: 0.25 of the training lists, seed 1 (30 utterances)\n",
        "\n- Held out: `held out.jsonl` (30 utterances)\n",
        "lorb-engine train --model base --train lists.jsonl --out 'an adapter' --test 'held out.jsonl'",
        "lorb-engine rescore --model base --adapter 'an adapter' --input",
        "PeftModel.from_pretrained(base, \"an adapter\")",
        "\n| batch-tokens | `100` |\n",
    ] {
        assert!(card.contains(words), "{words:?} is not in: {card}");
    }
    let weights = said.lines().find_map(|line| line.strip_prefix("weights: ")).unwrap();
    let weights = weights.trim_end_matches(", tuned on the validation lists");
    assert!(card.contains(&format!("\n- Weights of the scores: {weights}\n")), "{card}");
    // Neither base nor licence is known.
    assert!(!card.contains("\nbase_model:") && !card.contains("license"), "{card}");
}

/// The four percentages of a line of the table.
fn numbers(line: &str) -> Vec<&str> {
    line.split('%').take(4).map(|part| part.split_whitespace().last().unwrap_or_default()).collect()
}

#[test]
fn an_adapter_can_be_trained_on() {
    let project = Project::new();
    succeeded(project.train("first", &["--rank", "4", "--targets", "all"]));
    let out = succeeded(project.train("second", &["--init-adapter", "first", "--epochs", "1"]));
    assert!(out.contains("trained"), "{out}");
    assert!(project.adapter("first") != project.adapter("second"));
    refused(project.train("third", &["--init-adapter", "first", "--rank", "4"]), &["--rank"]);
    refused(project.train("third", &["--init-adapter", "nowhere"]), &["nowhere"]);
    refused(project.train("first", &["--init-adapter", "./first"]), &["--out first", "starts from"]);
    // What was trained is told of, not what would have been without it.
    let card = fs::read_to_string(project.path("second/README.md")).unwrap();
    assert!(card.contains("\n| rank | `4` |\n") && card.contains("\n| lr | `0.01` |\n"), "{card}");
}

#[test]
fn what_is_trained_on_starts_as_it_was() {
    let project = Project::new();
    succeeded(project.train("first", &["--dropout", "0.2"]));
    let still = ["--init-adapter", "first", "--epochs", "1", "--lr", "1e-9", "--head-lr", "1e-9"];
    succeeded(project.train("second", &still));
    let beta = |out: &str| project.json(out, "lorb.json")["training_weights"]["lorb"].as_f64().unwrap();
    assert!((beta("first") - 1.0).abs() > 1e-3, "it is learned: {}", beta("first"));
    assert!((beta("first") - beta("second")).abs() < 1e-6, "{} {}", beta("first"), beta("second"));
    // Dropout is no part of an adapter, but of a run.
    let dropout = |out: &str| project.json(out, "adapter_config.json")["lora_dropout"].clone();
    assert_eq!([dropout("first"), dropout("second")], [json!(0.2), json!(0.0)]);
    let classifier = |out: &str| {
        let tensors = Tensors::open(project.path(out).join("adapter_model.safetensors")).unwrap();
        let name = "base_model.model.classifier.weight";
        let shape = tensors.shape(name).unwrap().to_vec();
        tensors.f32(name, &shape, "").unwrap().to_vec()
    };
    let mut moved = classifier("first").into_iter().zip(classifier("second")).map(|(a, b)| (a - b).abs());
    assert!(moved.all(|moved| moved < 1e-6));
}

#[test]
fn to_tune_on_what_it_was_trained_on_is_warned_of() {
    let project = Project::new();
    let lists = fs::read_to_string(project.path("lists.jsonl")).unwrap();
    let named = |initial: &str| lists.replace("\"u", &format!("\"{initial}"));
    project.write_first(60, "half.jsonl");
    for (name, initial) in [("first.jsonl", "u"), ("others.jsonl", "v"), ("test.jsonl", "w")] {
        fs::write(project.path(name), named(initial)).unwrap();
    }
    succeeded(project.train("first", &["--valid", "0.2", "--epochs", "1"]));
    fs::write(project.path("lists.jsonl"), named("v")).unwrap();
    succeeded(project.train("second", &["--init-adapter", "first", "--epochs", "1"]));
    let warned = |adapter: &str, tune: &str| {
        let arguments = ["evaluate", "--model", "base", "--adapter", adapter, "--tune", tune, "test.jsonl"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorb-engine"));
        let said = succeeded(command.current_dir(project.dir.path()).args(arguments).output().unwrap());
        said.contains(&format!("warning: {tune} has utterances that the adapter was trained on"))
    };
    assert!(warned("first", "first.jsonl") && warned("first", "half.jsonl"));
    assert!(!warned("first", "others.jsonl"));
    // What it started from was trained, too.
    assert!(warned("second", "others.jsonl") && warned("second", "first.jsonl"));
}

#[test]
fn the_weights_of_the_loss_are_those_that_were_given() {
    let project = Project::new();
    let lists = fs::read_to_string(project.path("lists.jsonl")).unwrap();
    fs::write(project.path("lists.jsonl"), lists.replace("{\"text\"", "{\"lm\":-2,\"text\"")).unwrap();
    let given = ["--first-pass-weight", "0.25", "--lm-weight", "0.5", "--beta", "2", "--epochs", "1"];
    succeeded(project.train("out", &given));
    let weights = &project.json("out", "lorb.json")["training_weights"];
    let found = ["first_pass", "lm", "lorb"].map(|name| weights[name].as_f64().unwrap());
    assert_eq!(found, [0.25, 0.125, 2.0]);
}

#[test]
fn what_is_saved_beside_an_adapter_is_what_tuning_finds() {
    let project = Project::new();
    project.write_first(30, "valid.jsonl");
    succeeded(project.train("out", &["--valid", "valid.jsonl", "--epochs", "1"]));
    let trained = project.json("out", "rescoring.json");
    let mut evaluate = Command::new(env!("CARGO_BIN_EXE_lorb-engine"));
    evaluate.current_dir(project.dir.path()).args(["evaluate", "--model", "base", "--adapter", "out"]);
    succeeded(evaluate.args(["--tune", "valid.jsonl", "lists.jsonl"]).output().unwrap());
    assert_eq!(project.json("out", "rescoring.json"), trained);
    assert_ne!(trained["confidence_scale"], 1.0);
}

#[test]
fn a_run_that_begins_forgets_the_one_before() {
    let project = Project::new();
    succeeded(project.train("out", &["--epochs", "1"]));
    let metrics = || fs::read_to_string(project.path("out/metrics.jsonl")).unwrap();
    assert!(metrics().contains("\"kind\":\"result\"") && project.path("out/run.json").exists());
    let mut child = project
        .command("out", &["--epochs", "500"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while metrics().contains("\"kind\":\"result\"") {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!project.path("out/run.json").exists());
}

#[test]
fn a_finished_run_stays_as_it_is_where_another_cannot_start() {
    let project = Project::new();
    succeeded(project.train("out", &[]));
    let content =
        || ["run.json", "metrics.jsonl", "lorb.json"].map(|f| fs::read(project.path("out").join(f)).ok());
    let before = content();
    let same = r#"{"id": "a", "ref": "the", "hyps": [{"text": "of", "am": 0}, {"text": "to", "am": -1}]}"#;
    fs::write(project.path("same.jsonl"), format!("{same}\n{same}\n")).unwrap();
    let lists = fs::read(project.path("lists.jsonl")).unwrap();
    fs::copy(project.path("same.jsonl"), project.path("lists.jsonl")).unwrap();
    refused(project.train("out", &["--valid", "0.5"]), &["nothing to learn"]);
    assert!(content() == before);

    // Other references make another n-gram model, though not another adapter.
    let changed = String::from_utf8(lists.clone()).unwrap().replace("was", "says");
    fs::write(project.path("lists.jsonl"), changed).unwrap();
    refused(project.train("out", &["--resume"]), &["lists of digest"]);
    fs::write(project.path("lists.jsonl"), lists).unwrap();
    // The same weights in two heads are another model, and so are others.
    let config = fs::read_to_string(project.path("base/config.json")).unwrap();
    let two_heads = config.replace("\"num_attention_heads\":4", "\"num_attention_heads\":2");
    assert_ne!(two_heads, config);
    fs::write(project.path("base/config.json"), two_heads).unwrap();
    refused(project.train("out", &["--resume"]), &["a model of digest"]);
    tiny_bert(&project.path("base"), 2, &TinyBert::default());
    refused(project.train("out", &["--resume"]), &["a model of digest"]);
}

#[cfg(target_os = "linux")]
#[test]
fn nobody_needs_to_read_what_it_says() {
    let project = Project::new();
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert!(project.command("out", &[]).stderr(full()).status().unwrap().success());
    assert!(project.path("out/rescoring.json").is_file());
}

#[test]
fn a_fresh_head_starts_at_a_fit_to_the_errors_whatever_beta_is() {
    let project = Project::new();
    let first = |beta: &str| {
        let still = ["--epochs", "1", "--lr", "1e-9", "--head-lr", "1e-9", "--beta", beta];
        succeeded(project.train(beta, &still));
        let metrics = fs::read_to_string(project.path(beta).join("metrics.jsonl")).unwrap();
        let mut lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let step = lines.find(|line| line["kind"] == "step").unwrap();
        ["mwer", "mwer_without"].map(|loss| step[loss].as_f64().unwrap())
    };
    let [with, without] = first("1");
    assert!(with < without - 0.02, "{with} {without}");
    let [of_another, _] = first("4");
    assert!((with - of_another).abs() < 1e-4, "{with} {of_another}");
}

#[test]
fn every_target_and_setting_trains() {
    let project = Project::new();
    for more in [
        &["--targets", "none"][..],
        &["--targets", "output.dense", "--beta", "0.5"],
        &["--targets", "all", "--dropout", "0.2", "--corr-weight", "0"],
        &["--targets", "key,attention.output.dense", "--lm-weight", "0.5", "--hyps", "2"],
        &["--unit", "char", "--case", "upper", "--first-pass-weight", "0.3"],
    ] {
        succeeded(project.train("out", &[more, &["--epochs", "1"]].concat()));
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let project = Project::new();
    let lists = fs::read_to_string(project.path("lists.jsonl")).unwrap();
    let write = |name: &str, text: &str| fs::write(project.path(name), text).unwrap();
    write("noref.jsonl", &lists.replacen("\"ref\"", "\"spoken\"", 1));
    write("broken.jsonl", &format!("{}\n{{\"id\": 3,", lists.lines().next().unwrap()));
    write("empty.jsonl", "");
    let same = r#"{"id": "a", "ref": "the", "hyps": [{"text": "of", "am": 0}, {"text": "to", "am": -1}]}"#;
    write("same.jsonl", &format!("{same}\n{same}\n"));
    let run = |train: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorb-engine"));
        command
            .current_dir(project.dir.path())
            .args(["train", "--model", "base", "--train", train, "--out", "o"]);
        command.args(more).output().unwrap()
    };
    refused(run("noref.jsonl", &[]), &["noref.jsonl:1", "no reference"]);
    refused(run("broken.jsonl", &[]), &["broken.jsonl:2"]);
    refused(run("empty.jsonl", &[]), &["empty.jsonl"]);
    refused(run("nowhere.jsonl", &[]), &["nowhere.jsonl"]);
    refused(run("same.jsonl", &["--valid", "0.5"]), &["nothing to learn"]);
    refused(run("lists.jsonl", &["--valid", "nowhere.jsonl"]), &["nowhere.jsonl"]);
    refused(run("lists.jsonl", &["--valid", "1.5"]), &["--valid", "1.5", "a fraction between 0 and 1"]);
    for option in ["--test", "--valid"] {
        refused(run("lists.jsonl", &[option, "./lists.jsonl"]), &[option, "trained on"]);
    }
    fs::copy(project.path("lists.jsonl"), project.path("more.jsonl")).unwrap();
    let chosen_on = run("lists.jsonl", &["--valid", "more.jsonl", "--test", "same.jsonl", "./more.jsonl"]);
    refused(chosen_on, &["--test ./more.jsonl", "--valid"]);
    refused(run("lists.jsonl", &["--lr=-0.1"]), &["--lr -0.1:"]);
    refused(run("lists.jsonl", &["--rank", "0"]), &["rank 0"]);
    refused(run("lists.jsonl", &["--beta", "often"]), &["often"]);
    refused(run("lists.jsonl", &["--targets", "querry"]), &["querry"]);
    refused(run("lists.jsonl", &["--device", "cpu", "--dtype", "int8"]), &["int8", "train with f32 or bf16"]);
    refused(run("lists.jsonl", &["--first-pass", "acoustic"]), &["acoustic", "am"]);
    refused(project.train("lists.jsonl", &[]), &["lists.jsonl"]);
    let isa = Command::new(env!("CARGO_BIN_EXE_lorb-engine"))
        .current_dir(project.dir.path())
        .args(["train", "--model", "base", "--train", "lists.jsonl", "--out", "o"])
        .env("LORB_ISA", "sse9")
        .output();
    refused(isa.unwrap(), &["sse9", "avx2"]);
    // With the embedded lists too, those to measure on are those that were named.
    let embedded = Command::new(env!("CARGO_BIN_EXE_lorb-engine"))
        .current_dir(project.dir.path())
        .args(["train", "--test", "nowhere.jsonl", "--out", "o"])
        .output();
    refused(embedded.unwrap(), &["nowhere.jsonl"]);
    assert!(!Path::new(&project.path("o")).join("adapter_config.json").exists());
}
