//! Models and adapters of the Hugging Face Hub: from a cache, and from a server that imitates the Hub.

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod fake;
mod fetching;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::cli::{Desk, Ran, lists};

const RESCORE: &str = "rescore --model org/base --adapter org/adapter --input in.jsonl";

/// A desk with lists, and what rescoring them with the folders gives.
fn desk() -> (Desk, String) {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(1, 8));
    let expected = desk.ok("rescore --model base --adapter adapter --input in.jsonl");
    (desk, expected)
}

/// The program with these variables, and no others of the Hub's.
fn run(desk: &Desk, arguments: &str, variables: &[(&str, &str)]) -> Ran {
    let mut command: Command = desk.command(arguments);
    for name in [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "XDG_CACHE_HOME",
    ] {
        command.env_remove(name);
    }
    // No proxy stands between the program and this machine.
    command.env("NO_PROXY", "*").env("HOME", desk.path("home")).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Must end with this code and say all of `words`.
#[track_caller]
fn expect(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{}", ran.stderr);
    words.iter().for_each(|word| assert!(ran.stderr.contains(word), "{word:?} is not in: {}", ran.stderr));
}

/// All files below `dir` with their content, links followed; sorted.
fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(content(&path)),
            false => files.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn what_is_neither_a_folder_nor_an_id_is_refused() {
    let (desk, _) = desk();
    for name in ["nowhere", "no/such/folder", "/no/such", "../base", "org/name@", "org/na:me"] {
        let words = [name, "is neither a folder that exists nor an id on the Hugging Face Hub"];
        expect(&run(&desk, &format!("rescore --model {name} --input in.jsonl"), &[]), 2, &words);
        let adapter = format!("rescore --model base --adapter {name} --input in.jsonl");
        expect(&run(&desk, &adapter, &[]), 2, &words);
    }
}

#[test]
fn a_folder_that_exists_wins() {
    let (desk, expected) = desk();
    fs::create_dir(desk.path("org")).unwrap();
    fs::rename(desk.path("base"), desk.path("org/base")).unwrap();
    fs::rename(desk.path("adapter"), desk.path("org/adapter")).unwrap();
    let ran = run(&desk, RESCORE, &[("HF_ENDPOINT", "http://127.0.0.1:1")]);
    expect(&ran, 0, &[]);
    assert_eq!(ran.stdout, expected);
}
