//! The protocol of benches/alternate.py, and what a round answers.

use std::io::BufRead;
use std::time::Instant;

use lorb_engine::Result;
use lorb_engine::profile::Work;
use serde_json::{Map, Value, json};

/// One timed piece of work.
pub struct Call {
    pub tokens: usize,
    pub seconds: f64,
}

impl Call {
    /// Times `work` on so many tokens.
    pub fn timed(tokens: usize, work: impl FnOnce() -> Result<()>) -> Result<Call> {
        let start = Instant::now();
        work()?;
        Ok(Call { tokens, seconds: start.elapsed().as_secs_f64() })
    }
}

/// Answers each "go" with what `round` says.
pub fn serve(mut round: impl FnMut() -> Result<Map<String, Value>>) -> Result<()> {
    for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
        match line.as_str() {
            "quit" => break,
            "go" => println!("{}", Value::Object(round()?)),
            _ => {}
        }
    }
    Ok(())
}

/// What is said of calls: their times one by one, and what they come to.
pub fn answer(contender: &str, calls: &[Call]) -> Map<String, Value> {
    let tokens: usize = calls.iter().map(|c| c.tokens).sum();
    let mut sorted: Vec<f64> = calls.iter().map(|c| c.seconds).collect();
    sorted.sort_by(f64::total_cmp);
    let total: f64 = sorted.iter().sum();
    let percentile = |p: f64| 1e3 * sorted[(p * (sorted.len() - 1) as f64).round() as usize];
    object(json!({
        "contender": contender,
        "tokens_per_s": (tokens as f64 / total).round(),
        "p50_ms": percentile(0.5),
        "p95_ms": percentile(0.95),
        "peak_rss_mb": peak_rss_mb(),
        "seconds": calls.iter().map(|c| c.seconds).collect::<Vec<_>>(),
        "tokens": calls.iter().map(|c| c.tokens).collect::<Vec<_>>(),
    }))
}

/// What cannot be avoided in each call.
pub fn floors(floors: &[Work]) -> Map<String, Value> {
    object(json!({
        "floor_flop": floors.iter().map(|f| f.flop).collect::<Vec<_>>(),
        "floor_bytes": floors.iter().map(|f| f.bytes).collect::<Vec<_>>(),
    }))
}

pub fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { unreachable!("only objects are given") };
    object
}

/// VmHWM of /proc/self/status; none elsewhere.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
