//! Headless Chromium by its own protocol (Chrome DevTools), as much of it as a page's test needs.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

pub struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<std::net::TcpStream>>,
    next: u64,
    _profile: TempDir,
}

/// A browser of this machine: the one that CHROMIUM names, or one of the usual names.
fn program() -> Option<String> {
    let named = std::env::var("CHROMIUM").ok();
    let usual = ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"].map(String::from);
    let runs = |name: &String| {
        let version =
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    named.into_iter().chain(usual).find(runs)
}

impl Browser {
    /// `None`, with a word about it, where there is no browser.
    pub fn start() -> Option<Browser> {
        let Some(program) = program() else {
            println!("skipped: there is no chromium; install one, or name it in CHROMIUM");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url =
            lines.find_map(|l| l.strip_prefix("DevTools listening on ws://").map(String::from)).unwrap();
        // It must not wait for us to read what else it says.
        std::thread::spawn(move || lines.for_each(drop));
        let host = url.split('/').next().unwrap();
        let mut list = ureq::get(format!("http://{host}/json/list")).call().unwrap();
        let targets: Value = list.body_mut().read_json().unwrap();
        let page = targets.as_array().unwrap().iter().find(|t| t["type"] == "page").unwrap();
        let (socket, _) = tungstenite::connect(page["webSocketDebuggerUrl"].as_str().unwrap()).unwrap();
        Some(Browser { child, socket, next: 0, _profile: profile })
    }

    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let message = json!({"id": self.next, "method": method, "params": parameters}).to_string();
        self.socket.send(Message::text(message)).unwrap();
        loop {
            let message = self.socket.read().unwrap();
            let Ok(text) = message.to_text() else { continue };
            let value: Value = serde_json::from_str(text).unwrap_or_default();
            if value["id"] == self.next {
                assert!(value["error"].is_null(), "{method}: {value}");
                return value["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let end = Instant::now() + Duration::from_secs(120);
        while self.evaluate(expression) != true {
            if Instant::now() > end {
                panic!("never: {expression} in {}", self.evaluate("document.body.innerText"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn press(&mut self, key: &str, code: u32, modifiers: u32) {
        let text = if key == "Enter" && modifiers == 0 { "\r" } else { "" };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        let event = |kind: &str| json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers, "text": text});
        self.call("Input.dispatchKeyEvent", event(kind));
        self.call("Input.dispatchKeyEvent", event("keyUp"));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
