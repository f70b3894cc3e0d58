//! The program as a service in a folder of its own, and what the tests ask of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::serve::OPENAPI;
use serde_json::{Value, json};

use crate::http::{Connection, Response, request};
use crate::support::cli::Desk;

pub struct Server {
    pub address: SocketAddr,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// `serve --model base` with more options, once it listens.
    pub fn start(desk: &Desk, options: &str) -> Server {
        // A busy machine is not what is tested, unless a test says so.
        let patience = if options.contains("--max-wait") { "" } else { "--max-wait 120000" };
        let mut command =
            desk.command(&format!("serve --model base --listen 127.0.0.1:0 {patience} {options}"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let address = loop {
            let line = lines.next().expect("it ended before it listened").unwrap();
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            log.lock().unwrap().push(line);
            if value["message"] == "listening" {
                break value["address"].as_str().unwrap().parse().unwrap();
            }
        };
        let kept = log.clone();
        let read = move || lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line));
        Server { address, child, log, reader: Some(std::thread::spawn(read)) }
    }

    /// On a connection of its own.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        self.ask_with(method, path, "", body)
    }

    #[track_caller]
    pub fn ask_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let response = Connection::open(self.address).exchange(&request(method, path, headers, body));
        response.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, "")
    }

    /// Rescores, with the request and its answer held against the description of the interface.
    #[track_caller]
    pub fn rescore(&self, ask: &Value) -> Value {
        let kind = if ask.get("hyps").is_some() { "AskedUtterance" } else { "Ask" };
        conforms(kind, ask);
        let response = self.ask("POST", "/v1/rescore", &ask.to_string());
        assert_eq!(response.status, 200, "{}", response.text());
        let answer = response.json();
        conforms("Answer", &answer);
        answer
    }

    /// The sum of a metric over all labels that contain `label`.
    pub fn figure(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").text();
        let of_name = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        };
        text.lines()
            .filter(of_name)
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Until the end of the guard nobody reads the log.
    pub fn hold_log(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit code, once it has ended.
    pub fn ended(&mut self, within: Duration) -> Option<i32> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Then the log is whole, too.
                self.reader.take().map(JoinHandle::join);
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end:\n{}", self.log());
    }

    /// Its peak memory in KiB.
    #[cfg(target_os = "linux")]
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails where `value` is not what the OpenAPI file calls `name`.
#[track_caller]
pub fn conforms(name: &str, value: &Value) {
    static API: OnceLock<Value> = OnceLock::new();
    let api = API.get_or_init(|| serde_json::from_str(OPENAPI).unwrap());
    let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": api["components"]});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path)).collect();
    assert!(errors.is_empty(), "not a {name}: {errors:?} in {value}");
}

/// Writes adapters of different values and, every other one, of another shape.
pub fn write_adapters(desk: &Desk, names: &[&str]) {
    for (i, name) in names.iter().enumerate() {
        write_adapter(&desk.path("base"), &desk.path("adapters").join(name), i);
    }
}

/// The adapter of number `i` as a PEFT folder.
pub fn write_adapter(base: &Path, folder: &Path, i: usize) {
    let rank = if i.is_multiple_of(2) { 4 } else { 6 };
    write_shaped(base, folder, i, LoraConfig { rank, ..LoraConfig::default() });
}

pub fn write_shaped(base: &Path, folder: &Path, i: usize, lora: LoraConfig) {
    let model = BaseModel::open(base).unwrap();
    let mut adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, None, i as u64).unwrap();
    let wave = |(k, v): (usize, &mut f32)| *v = (k as f32 * 0.7 + i as f32).sin() / 4.0;
    adapter.values.iter_mut().enumerate().for_each(wave);
    adapter.save(folder).unwrap();
}

/// Lines of lists as the utterances of a request.
pub fn utterances(lists: &str) -> Vec<Value> {
    let hypothesis = |h: &Value| json!({"text": h["text"], "am": h["am"], "lm": h["lm"]});
    let utterance = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let hyps: Vec<Value> = line["hyps"].as_array().unwrap().iter().map(hypothesis).collect();
        json!({"id": line["id"], "hyps": hyps})
    };
    lists.lines().map(utterance).collect()
}
