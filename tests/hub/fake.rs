//! A server that answers as the Hub does, as far as files are fetched, and remembers what it was asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

/// Repositories by "org/name", their commits by revision, and the files of each.
#[derive(Default)]
pub struct State {
    pub revisions: BTreeMap<(String, String), String>,
    pub files: BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>,
    /// Who has another one, or none, is refused.
    pub token: Option<String>,
    /// What the next downloads of weights are cut to.
    pub cut: Vec<usize>,
    /// Whether weights arrive with a byte changed.
    pub damaged: bool,
    /// The file that cannot be had.
    pub fails: Option<String>,
    /// How long weights take to arrive.
    pub delay: Duration,
    /// "path bytes" of each answer, in order.
    pub log: Vec<String>,
}

pub struct Hub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn start() -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Hub { address: listener.local_addr().unwrap(), state: Arc::default() };
        let (state, address) = (hub.state.clone(), hub.address);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                // Clients come and go as they like.
                std::thread::spawn(move || answer(&stream, &state, address));
            }
        });
        hub
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Publishes the files of `dir` as a commit that `revision` of `repository` is from now on.
    pub fn publish(&self, repository: &str, revision: &str, dir: &Path) {
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        };
        let files: BTreeMap<String, Vec<u8>> = fs::read_dir(dir).unwrap().map(read).collect();
        let commit = sha256(format!("{repository} {files:?}").as_bytes())[..40].to_string();
        let mut state = self.state();
        for revision in [revision, &commit] {
            state.revisions.insert((repository.into(), revision.into()), commit.clone());
        }
        state.files.insert((repository.into(), commit), files);
    }

    /// The paths that were asked for since the last call, with how many bytes each answer had.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Weights lie elsewhere, as large files do on the Hub.
fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors")
}

fn answer(stream: &TcpStream, state: &Mutex<State>, address: SocketAddr) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let mut state = state.lock().unwrap();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let token = state.token.as_ref().map(|token| format!("Bearer {token}"));
    let elsewhere = parts[0] == "elsewhere";
    let refused = !elsewhere && token.is_some() && headers.get("authorization") != token.as_ref();
    let fails = parts.last().is_some_and(|file| state.fails.as_deref() == Some(*file));
    let found = match parts[..] {
        _ if refused || fails => None,
        ["api", "models", organisation, name, "revision", revision] => {
            let repository = format!("{organisation}/{name}");
            let revision = revision.replace("%2F", "/");
            state.revisions.get(&(repository.clone(), revision)).map(|commit| {
                let names = state.files[&(repository, commit.clone())].keys();
                let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
                let body = json!({"sha": commit, "siblings": siblings}).to_string();
                ("200 OK", String::new(), body.into_bytes())
            })
        }
        ["elsewhere", organisation, name, commit, file] | [organisation, name, "resolve", commit, file] => {
            let files = state.files.get(&(format!("{organisation}/{name}"), commit.to_string()));
            files.and_then(|files| files.get(file)).map(|bytes| {
                let etag = sha256(bytes);
                // Git's own names have 40 digits.
                let (etag, weights) = if is_large(file) { (&etag[..], true) } else { (&etag[..40], false) };
                let described = format!("X-Repo-Commit: {commit}\r\n");
                if weights && !elsewhere {
                    let location =
                        format!("http://{address}/elsewhere/{organisation}/{name}/{commit}/{file}");
                    let more = format!("{described}X-Linked-Etag: \"{etag}\"\r\nLocation: {location}\r\n");
                    return ("302 Found", more, Vec::new());
                }
                let (start, end) = range(headers.get("range"), bytes.len());
                let size = bytes.len();
                let mut body = bytes[start..end].to_vec();
                if weights && state.damaged && body.len() > 1 {
                    *body.last_mut().unwrap() ^= 1;
                }
                let more = format!(
                    "{described}ETag: \"{etag}\"\r\nContent-Range: bytes {start}-{}/{size}\r\n",
                    end - 1
                );
                ("206 Partial Content", more, body)
            })
        }
        _ => None,
    };
    let (status, more, body) = match found {
        Some(found) => found,
        None if fails => ("500 Internal Server Error", String::new(), b"Try again".to_vec()),
        None if refused => ("401 Unauthorized", String::new(), b"Invalid credentials".to_vec()),
        None => ("404 Not Found", String::new(), b"Not Found".to_vec()),
    };
    let mut sent = body.len();
    if elsewhere && sent > 1 && !state.cut.is_empty() {
        sent = sent.min(state.cut.remove(0));
    }
    state.log.push(format!("{path} {sent}"));
    let delay = if elsewhere && sent > 1 { state.delay } else { Duration::ZERO };
    drop(state);
    std::thread::sleep(delay);
    let length = body.len();
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n")?;
    stream.write_all(&body[..sent])
}

/// Of "bytes=START-" or "bytes=START-LAST".
fn range(header: Option<&String>, size: usize) -> (usize, usize) {
    let (start, last) = header.and_then(|h| h.strip_prefix("bytes=")?.split_once('-')).expect("a range");
    (start.parse().unwrap(), last.parse().map_or(size, |last: usize| (last + 1).min(size)))
}
