//! What is fetched, how often, and what goes wrong.

use std::fs;
use std::time::Duration;

use lorb_engine::bert::tensors::Tensors;
use serde_json::{Map, json};

use crate::fake::Hub;
use crate::support::cli::Desk;
use crate::support::{bytes, write_safetensors};
use crate::{RESCORE, desk, expect, run};

/// A Hub with base and adapter, and files that nobody needs.
fn hub(desk: &Desk) -> Hub {
    for file in ["base/README.md", "base/pytorch_model.bin", "adapter/optimizer.pt"] {
        desk.write(file, "not needed");
    }
    let hub = Hub::start();
    hub.publish("org/base", "main", &desk.path("base"));
    hub.publish("org/adapter", "main", &desk.path("adapter"));
    hub
}

/// What is needed of both.
const NEEDED: [&str; 6] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "lorb.json",
    "model.safetensors",
    "vocab.txt",
];

/// The files whose content was sent, sorted, without the bytes that only ask for the size.
fn downloads(asked: &[String]) -> Vec<&str> {
    let parts = asked.iter().filter(|a| !a.starts_with("/api/")).map(|a| a.rsplit_once(' ').unwrap());
    let sent = parts.filter(|(_, n)| n.parse::<usize>().unwrap() > 1);
    let mut files: Vec<&str> = sent.map(|(p, _)| p.rsplit('/').next().unwrap()).collect();
    files.sort_unstable();
    files
}

#[test]
fn what_is_needed_is_fetched_once() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    let url = hub.url();
    let variables = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    let ran = run(&desk, RESCORE, &variables);
    expect(&ran, 0, &["fetching org/base: model.safetensors, ", "fetching org/adapter: lorb.json, "]);
    assert_eq!(ran.stdout, expected);
    assert_eq!(downloads(&hub.asked()), NEEDED);

    let again = run(&desk, RESCORE, &variables);
    expect(&again, 0, &[]);
    assert!(!again.stderr.contains("fetching"), "{}", again.stderr);
    let asked = hub.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().all(|a| a.starts_with("/api/models/org/")), "{asked:?}");
    let offline = run(&desk, RESCORE, &[("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "1")]);
    assert!(!offline.stderr.contains("does not tell"), "{}", offline.stderr);
    assert_eq!((again.stdout, offline.stdout), (expected.clone(), expected));

    // A commit that leaves the weights alone: what it shares is not fetched again.
    desk.write("adapter/lorb.json", desk.read("adapter/lorb.json").replace("\"lorb\": 2.0", "\"lorb\": 3.0"));
    hub.publish("org/adapter", "main", &desk.path("adapter"));
    let moved = run(&desk, RESCORE, &variables);
    expect(&moved, 0, &["lorb 3"]);
    assert_eq!(downloads(&hub.asked()), ["lorb.json"]);
}

#[test]
fn a_revision_is_fetched_beside_the_others() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    desk.write("adapter/lorb.json", desk.read("adapter/lorb.json").replace("\"lorb\": 2.0", "\"lorb\": 5.0"));
    hub.publish("org/adapter", "refs/pr/1", &desk.path("adapter"));
    let url = hub.url();
    let variables = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    let request = RESCORE.replace("org/adapter", "org/adapter@refs/pr/1");
    expect(&run(&desk, &request, &variables), 0, &["fetching org/adapter@refs/pr/1: lorb.json", "lorb 5"]);
    let main = run(&desk, RESCORE, &variables);
    assert_eq!(main.stdout, expected);
    let offline = [("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "yes")];
    expect(&run(&desk, &request, &offline), 0, &["lorb 5"]);
    let unknown = RESCORE.replace("org/adapter", "org/adapter@v9");
    expect(
        &run(&desk, &unknown, &variables),
        2,
        &["org/adapter@v9: ", "no such repository, or not this revision"],
    );
}

#[test]
fn shards_are_fetched_by_their_index() {
    let (desk, expected) = desk();
    let tensors = Tensors::open(desk.path("base/model.safetensors")).unwrap();
    let names: Vec<&str> = tensors.names().collect();
    let mut map = Map::new();
    for (i, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let file = format!("model-{i}.safetensors");
        let shard = names.iter().map(|&name| {
            map.insert(name.into(), json!(file));
            let shape = tensors.shape(name).unwrap().to_vec();
            let values = tensors.f32(name, &shape, "").unwrap();
            (name.to_string(), shape, bytes(&values, safetensors::Dtype::F32))
        });
        let shard: Vec<_> = shard.collect();
        write_safetensors(&desk.path("base").join(&file), safetensors::Dtype::F32, &shard);
    }
    desk.write("base/model.safetensors.index.json", json!({"weight_map": map}).to_string());
    desk.write("base/model-2.safetensors", "of another format");
    fs::remove_file(desk.path("base/model.safetensors")).unwrap();
    let hub = hub(&desk);
    let url = hub.url();
    let ran = run(&desk, RESCORE, &[("HF_HOME", "hf"), ("HF_ENDPOINT", &url)]);
    expect(&ran, 0, &["model-0.safetensors", "model-1.safetensors"]);
    assert_eq!(ran.stdout, expected);
    assert!(!downloads(&hub.asked()).contains(&"model-2.safetensors"));
    let offline = [("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "1")];
    assert_eq!(run(&desk, RESCORE, &offline).stdout, expected);
}

#[test]
fn a_token_opens_what_is_private() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    hub.state().token = Some("hf_secret".into());
    let url = hub.url();
    let place = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    let with = |more: &[(&str, &str)]| run(&desk, RESCORE, &[&place[..], more].concat());
    expect(&with(&[]), 2, &["org/base: ", "refused with 401", "private or gated", "set HF_TOKEN"]);
    let wrong = with(&[("HF_TOKEN", "hf_other")]);
    expect(&wrong, 2, &["refused with 401", "the token that is set may not read it"]);
    assert!(!wrong.stderr.contains("hf_other"), "{}", wrong.stderr);
    assert_eq!(with(&[("HF_TOKEN", "hf_secret")]).stdout, expected);
    // As its login leaves it.
    desk.write("hf/token", "hf_secret\n");
    assert_eq!(with(&[]).stdout, expected);
    expect(&with(&[("HF_TOKEN", "hf_other")]), 2, &["refused with 401"]);
    desk.write("elsewhere", "hf_other");
    expect(&with(&[("HF_TOKEN_PATH", "elsewhere")]), 2, &["refused with 401"]);
}

#[test]
fn what_is_not_there_is_not_found() {
    let (desk, _) = desk();
    let hub = hub(&desk);
    let url = hub.url();
    let place = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    let other = RESCORE.replace("org/base", "org/absent");
    expect(&run(&desk, &other, &place), 2, &["org/absent: no such folder here", "no such repository"]);
    let swapped = RESCORE.replace("org/base", "org/adapter");
    expect(&run(&desk, &swapped, &place), 2, &["org/adapter: ", "it has no config.json", "give a BERT"]);
    let swapped = RESCORE.replace("org/adapter", "org/base");
    expect(&run(&desk, &swapped, &place), 2, &["org/base: ", "it has no adapter_config.json", "PEFT"]);
    assert!(!desk.path("hf/hub/models--org--absent").exists());
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    let url = hub.url();
    let place = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    hub.state().cut = vec![1000; 2];
    let ran = run(&desk, RESCORE, &place);
    expect(&ran, 0, &[]);
    assert_eq!(ran.stdout, expected);

    // More often than it is tried at once.
    fs::remove_dir_all(desk.path("hf")).unwrap();
    hub.state().cut = vec![1000; 9];
    hub.asked();
    expect(&run(&desk, RESCORE, &place), 1, &["org/base: ", "cannot fetch it from http://127.0.0.1"]);
    let first = downloads(&hub.asked()).iter().filter(|file| **file == "model.safetensors").count();
    hub.state().cut.clear();
    assert_eq!(run(&desk, RESCORE, &place).stdout, expected);
    let size = fs::metadata(desk.path("base/model.safetensors")).unwrap().len() as usize;
    let rest = format!("model.safetensors {}", size - 1000 * first);
    let asked = hub.asked();
    assert!(asked.iter().any(|a| a.ends_with(&rest)), "{rest}: {asked:?}");
}

#[test]
fn what_broke_off_is_not_taken_as_whole() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    let url = hub.url();
    let place = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    let commit = hub.state().revisions[&("org/adapter".into(), "main".into())].clone();
    // A commit names its snapshot itself: no reference to it has to be there.
    let request = RESCORE.replace("org/adapter", &format!("org/adapter@{commit}"));
    // The adapter would score without it, with other weights.
    hub.state().fails = Some("lorb.json".into());
    expect(&run(&desk, &request, &place), 1, &["org/adapter@", "cannot fetch it"]);
    let offline = [("HF_HOME", "hf"), ("HF_HUB_OFFLINE", "1")];
    expect(&run(&desk, &request, &offline), 2, &["org/adapter@", "is not in the cache"]);
    hub.state().fails = None;
    assert_eq!(run(&desk, &request, &place).stdout, expected);
    assert_eq!(run(&desk, &request, &offline).stdout, expected);
}

#[test]
fn several_processes_fetch_it_once() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    let url = hub.url();
    let place = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    // Longer than hf-hub waits for a lock.
    hub.state().delay = Duration::from_secs(7);
    std::thread::scope(|scope| {
        let all = [(); 3].map(|()| scope.spawn(|| run(&desk, RESCORE, &place)));
        for ran in all.map(|thread| thread.join().unwrap()) {
            expect(&ran, 0, &[]);
            assert_eq!(ran.stdout, expected);
        }
    });
    assert_eq!(downloads(&hub.asked()), NEEDED);
}

#[test]
fn a_killed_download_that_was_complete_is_no_obstacle() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    let url = hub.url();
    let place = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    expect(&run(&desk, RESCORE, &place), 0, &[]);
    let folder = desk.path("hf/hub/models--org--base");
    let blobs = fs::read_dir(folder.join("blobs")).unwrap().map(|e| e.unwrap().path());
    let weights = blobs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::rename(&weights, weights.with_extension("part")).unwrap();
    fs::remove_dir_all(folder.join("snapshots")).unwrap();
    assert_eq!(run(&desk, RESCORE, &place).stdout, expected);
}

#[test]
fn damage_is_noticed_and_not_kept() {
    let (desk, expected) = desk();
    let hub = hub(&desk);
    let url = hub.url();
    let place = [("HF_HOME", "hf"), ("HF_ENDPOINT", url.as_str())];
    hub.state().damaged = true;
    expect(&run(&desk, RESCORE, &place), 1, &["org/base: ", "model.safetensors arrived damaged"]);
    hub.state().damaged = false;
    assert_eq!(run(&desk, RESCORE, &place).stdout, expected);
}
