//! Load for a rescoring service: requests at random times (Poisson) that do not wait for its answers.
//!
//! ```text
//! cargo bench --bench load -- --address 127.0.0.1:8750 --lists lists.jsonl --rate 20 --seconds 30
//! ```
//!
//! A request's latency counts from the time that was drawn for it, not from when this program came to send it, so a
//! service that stalls cannot slow its own load down (Tene's coordinated omission, as in wrk2). No list is sent
//! twice: where they run out, the words of each turn by one. Prints one line of JSON.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:8750")]
    address: String,
    /// JSON lines of lists
    #[arg(long)]
    lists: String,
    /// Requests a second
    #[arg(long)]
    rate: f64,
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Seconds before, which do not count
    #[arg(long, default_value_t = 3.0)]
    warmup: f64,
    /// The adapters' names are PREFIX0, PREFIX1, …
    #[arg(long)]
    adapter_prefix: Option<String>,
    #[arg(long, default_value_t = 1)]
    adapters: usize,
    /// The k-th adapter is asked for in proportion to k^-ZIPF
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// The first list to send, so that runs one after the other send others
    #[arg(long, default_value_t = 0)]
    first: usize,
    #[arg(long, default_value_t = 128)]
    connections: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Of cargo bench.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Request {
    at: Duration,
    body: String,
}

struct Outcome {
    at: Duration,
    latency: Duration,
    /// How late it was sent.
    late: Duration,
    status: u16,
}

fn main() {
    let options = Options::parse();
    let requests = requests(&options);
    let (start, next) = (Instant::now() + Duration::from_millis(200), AtomicUsize::new(0));
    let outcomes: Mutex<Vec<Outcome>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.connections {
            scope.spawn(|| {
                let mut connection = None;
                let mut mine = Vec::new();
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let due = start + request.at;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let late = due.elapsed();
                    let status = exchange(&options.address, &mut connection, &request.body).unwrap_or(0);
                    mine.push(Outcome { at: request.at, latency: due.elapsed(), late, status });
                }
                outcomes.lock().expect("no thread panics").append(&mut mine);
            });
        }
    });
    let mut summary = summary(&options, outcomes.into_inner().expect("no thread panics"));
    summary["arrivals"] = requests.iter().map(|request| request.at.as_secs_f64()).collect();
    println!("{summary}");
}

/// A number from 0 to below 1.
fn unit(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn requests(options: &Options) -> Vec<Request> {
    let text = fs::read_to_string(&options.lists).expect("the lists can be read");
    let lists: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a list a line")).collect();
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut shares: Vec<f64> = (1..=options.adapters).map(|k| (k as f64).powf(-options.zipf)).collect();
    let all: f64 = shares.iter().sum();
    let mut sum = 0.0;
    shares.iter_mut().for_each(|share| {
        sum += *share / all;
        *share = sum;
    });
    let (mut at, mut requests) = (0.0, Vec::new());
    loop {
        at -= (1.0 - unit(&mut random)).ln() / options.rate;
        if at >= options.warmup + options.seconds {
            return requests;
        }
        let number = options.first + requests.len();
        let mut ask = asked(&lists[number % lists.len()], number / lists.len());
        if let Some(prefix) = &options.adapter_prefix {
            let drawn = unit(&mut random);
            let adapter = shares.partition_point(|&share| share <= drawn).min(options.adapters - 1);
            ask["adapter"] = format!("{prefix}{adapter}").into();
        }
        requests.push(Request { at: Duration::from_secs_f64(at), body: ask.to_string() });
    }
}

/// A list as a request, with the words of its hypotheses turned by `turn`.
fn asked(list: &Value, turn: usize) -> Value {
    let hypothesis = |h: &Value| {
        let mut words: Vec<&str> = h["text"].as_str().unwrap_or_default().split_whitespace().collect();
        let by = turn % words.len().max(1);
        words.rotate_left(by);
        let mut asked = json!({"text": words.join(" "), "am": h["am"]});
        if let Some(lm) = h.get("lm") {
            asked["lm"] = lm.clone();
        }
        asked
    };
    let hyps: Vec<Value> = list["hyps"].as_array().into_iter().flatten().map(hypothesis).collect();
    json!({"hyps": hyps})
}

/// Sends a request over the connection that was kept, or a new one: a service closes those that were idle for long.
fn exchange(address: &str, kept: &mut Option<BufReader<TcpStream>>, body: &str) -> std::io::Result<u16> {
    if let Some(mut connection) = kept.take()
        && let Ok(status) = ask(&mut connection, body)
    {
        *kept = Some(connection);
        return Ok(status);
    }
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut connection = BufReader::new(stream);
    let status = ask(&mut connection, body)?;
    *kept = Some(connection);
    Ok(status)
}

fn ask(connection: &mut BufReader<TcpStream>, body: &str) -> std::io::Result<u16> {
    let head = "POST /v1/rescore HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n";
    let bytes = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    connection.get_mut().write_all(bytes.as_bytes())?;
    let (mut status, mut length, mut line) = (0, 0, String::new());
    while connection.read_line(&mut line)? > 2 {
        if status == 0 {
            status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    if status == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    connection.read_exact(&mut vec![0; length])?;
    Ok(status)
}

fn summary(options: &Options, outcomes: Vec<Outcome>) -> Value {
    let counted: Vec<&Outcome> = outcomes.iter().filter(|o| o.at.as_secs_f64() >= options.warmup).collect();
    let good: Vec<&&Outcome> = counted.iter().filter(|o| o.status == 200).collect();
    let quantiles = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        let at = |q: f64| times.get(((times.len() as f64 * q).ceil() as usize).saturating_sub(1)).copied();
        [0.5, 0.95, 0.99].map(|q| at(q).map(|ms| (ms * 1e3).round() / 1e3))
    };
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let [p50, p95, p99] = quantiles(good.iter().map(|o| ms(&o.latency)).collect());
    let [_, _, late] = quantiles(counted.iter().map(|o| ms(&o.late)).collect());
    let last = good.iter().map(|o| (o.at + o.latency).as_secs_f64()).fold(options.warmup, f64::max);
    let throughput = good.len() as f64 / (last - options.warmup).max(1e-9);
    let latencies: Vec<f64> = good.iter().map(|o| ms(&o.latency)).collect();
    json!({
        "offered": options.rate, "sent": counted.len(), "answered": good.len(),
        "throughput": (throughput * 1e3).round() / 1e3,
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "sent_late_p99_ms": late,
        "latencies_ms": latencies,
    })
}
