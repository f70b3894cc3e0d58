//! The program itself, run on a small model in a folder of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lorb_engine::card::Card;
use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::Fields;
use lorb_engine::nbest::normalise::{NormaliseOptions, Unit};
use lorb_engine::nbest::sample::Sample;
use lorb_engine::rescore::weights::Weights;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::{TinyBert, WORDS, tiny_bert};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lorb-engine");

/// A folder with a base in `base` and an adapter of it in `adapter`.
pub struct Desk {
    dir: TempDir,
}

/// What a run of the program left.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Desk {
    pub fn new() -> Desk {
        let desk = Desk { dir: tempdir().unwrap() };
        tiny_bert(&desk.path("base"), 3, &TinyBert::default());
        write_adapter(&desk.path("base"), &desk.path("adapter"));
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The names in the folder, also of hidden files, sorted.
    pub fn names(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(self.dir.path()).unwrap().map(name).collect();
        names.sort();
        names
    }

    /// The program with these arguments, separated by spaces, in the folder.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.dir.path()).args(arguments.split_whitespace());
        command
    }

    pub fn run(&self, arguments: &str) -> Ran {
        self.run_with(arguments, "")
    }

    /// With `stdin` on the standard input.
    pub fn run_with(&self, arguments: &str, stdin: impl AsRef<[u8]>) -> Ran {
        feed(&mut self.command(arguments), stdin.as_ref())
    }

    /// Must succeed; gives the standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &str) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.stderr);
        ran.stdout
    }

    /// Must succeed; the most memory that it took, in KiB.
    #[cfg(target_os = "linux")]
    pub fn peak(&self, arguments: &str) -> u64 {
        let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        loop {
            // A zombie has no memory any more, and no line about it.
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.map_or(peak, |kib| kib.trim_end_matches("kB").trim().parse().unwrap());
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{arguments}");
                return peak;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Must fail with this code, say all of `words`, and leave the folder as it was.
    #[track_caller]
    pub fn refused(&self, arguments: &str, code: i32, words: &[&str]) -> Ran {
        let before = self.names();
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(code), "{arguments}: {}", ran.stderr);
        words.iter().for_each(|w| assert!(ran.stderr.contains(w), "{w:?} is not in: {}", ran.stderr));
        assert_eq!(self.names(), before, "{arguments}");
        ran
    }

    /// Runs `script` in a shell in the folder; `$LORB` is the program.
    pub fn shell(&self, script: &str) -> Ran {
        let mut shell = Command::new("sh");
        shell.current_dir(self.dir.path()).env("LORB", PROGRAM).args([OsStr::new("-c"), script.as_ref()]);
        feed(&mut shell, b"")
    }
}

fn feed(command: &mut Command, stdin: &[u8]) -> Ran {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // It may end without having read everything.
    let feeder = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// An adapter with a card; its B is not zero, so that it changes the scores.
pub fn write_adapter(base: &Path, dir: &Path) {
    let model = BaseModel::open(base).unwrap();
    let lora = LoraConfig { rank: 4, ..Default::default() };
    let mut adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, None, 5).unwrap();
    adapter.values.iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 * 0.7).sin() / 4.0);
    adapter.save(dir).unwrap();
    let card = Card {
        base: model.name.clone(),
        fingerprint: model.checkpoint.fingerprint(&model.config).unwrap(),
        fields: Fields::default(),
        normalise: NormaliseOptions::default(),
        unit: Unit::Word,
        training_weights: Weights { lorb: 2.0, ..Weights::default() },
        trained_on: Sample::default(),
    };
    card.save(dir).unwrap();
}

/// `count` lines of lists with references, of up to 6 hypotheses with the scores am and lm.
pub fn lists(seed: u64, count: usize) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |below: usize| random.next_u32() as usize % below;
    let mut text = String::new();
    for id in 0..count {
        let length = 1 + draw(9);
        let words: Vec<&str> = (0..length).map(|_| WORDS[draw(WORDS.len())]).collect();
        let hypotheses: Vec<Value> = (0..1 + draw(6))
            .map(|_| {
                let mut words = words.clone();
                let errors = draw(3);
                (0..errors).for_each(|_| words[draw(length)] = WORDS[draw(WORDS.len())]);
                let am = -((draw(400) + 60 * errors) as f64) / 100.0;
                json!({"text": words.join(" "), "am": am, "lm": -(draw(4000) as f64) / 100.0, "x": [1]})
            })
            .collect();
        let line = json!({"id": format!("u{id}"), "speaker": 7, "ref": words.join(" "), "hyps": hypotheses});
        text += &format!("{line}\n");
    }
    text
}

/// Lines as JSON values.
pub fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
