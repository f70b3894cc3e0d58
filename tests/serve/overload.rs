//! Ten times what the service can do: it stays within its memory, those that it accepts do not wait longer for it,
//! and the others are told at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Server, write_adapters};
use crate::http::{Connection, Response, request};
use crate::support::WORDS;
use crate::support::cli::Desk;

/// A request that was not made before.
fn body(i: usize) -> String {
    let word = |k: usize| WORDS[(i * 31 + k * k * 7 + i / 45 * k) % WORDS.len()];
    let text = |h: usize| (0..20).map(|k| word(k + h)).collect::<Vec<_>>().join(" ");
    let hyps: Vec<_> = (0..10).map(|h| json!({"text": text(h), "am": 0})).collect();
    json!({"adapter": "a", "hyps": hyps}).to_string()
}

/// Sends requests one after the other on `connections` connections, each at its time where `rate` says so.
fn send(server: &Server, connections: usize, rate: Option<f64>, time: Duration) -> Vec<(Duration, Response)> {
    static NEXT_BODY: AtomicUsize = AtomicUsize::new(0);
    let (start, next, results) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut connection = Connection::open(server.address);
                let mut mine = Vec::new();
                loop {
                    let due = match rate {
                        Some(rate) => {
                            start
                                + Duration::from_secs_f64(next.fetch_add(1, Ordering::Relaxed) as f64 / rate)
                        }
                        None => Instant::now(),
                    };
                    if due.duration_since(start) >= time {
                        break;
                    }
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let sent = Instant::now();
                    let bytes =
                        request("POST", "/v1/rescore", "", &body(NEXT_BODY.fetch_add(1, Ordering::Relaxed)));
                    let response = connection.exchange(&bytes).expect("every request has an answer");
                    mine.push((sent.elapsed(), response));
                }
                results.lock().unwrap().append(&mut mine);
            });
        }
    });
    results.into_inner().unwrap()
}

/// Each of these tests would disturb the times of the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A base that takes a while, and an adapter.
fn with_some_work() -> Desk {
    let desk = Desk::new();
    let wide = crate::support::TinyBert { hidden: 128, layers: 4, intermediate: 512, ..Default::default() };
    std::fs::remove_dir_all(desk.path("base")).unwrap();
    crate::support::tiny_bert(&desk.path("base"), 3, &wide);
    write_adapters(&desk, &["a"]);
    desk
}

#[test]
fn ten_times_too_much_is_refused_at_once() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let desk = with_some_work();
    // Some 15 requests of 200 tokens may wait.
    let server = Server::start(
        &desk,
        "--adapters adapters --cache-memory 0 --queue-tokens 3300 --max-tokens 3300 --batch-tokens 440",
    );
    let second = Duration::from_secs(1);
    let capacity = send(&server, 4, None, 2 * second).len() as f64 / 2.0;
    #[cfg(target_os = "linux")]
    let before = server.peak_memory();
    let results = send(&server, 120, Some(10.0 * capacity), 4 * second);

    let (accepted, refused): (Vec<_>, Vec<_>) = results.iter().partition(|(_, r)| r.status == 200);
    assert!(refused.iter().all(|(_, r)| r.status == 503 && r.code() == "busy"), "{:?}", refused.first());
    assert!(refused.iter().all(|(_, r)| r.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1));
    let quantile = |of: &[&(Duration, Response)], q: f64| {
        let mut times: Vec<Duration> = of.iter().map(|(time, _)| *time).collect();
        times.sort();
        times[((times.len() - 1) as f64 * q) as usize]
    };
    println!(
        "capacity {capacity}/s; {} accepted (p95 {:?}), {} refused (p50 {:?})",
        accepted.len(),
        quantile(&accepted, 0.95),
        refused.len(),
        quantile(&refused, 0.5)
    );
    assert!(refused.len() > accepted.len(), "{} refused, {} accepted", refused.len(), accepted.len());
    // The machine may have been quicker when it was measured.
    let served = accepted.len() as f64 / 4.0;
    assert!(served > 0.1 * capacity, "{served}/s accepted of {capacity}/s");
    // What may wait is some 15 requests, and a batch is under way: that bounds their latency.
    let bound = Duration::from_secs_f64(4.0 * 20.0 / served);
    assert!(quantile(&accepted, 0.95) < bound, "{:?} of {bound:?}", quantile(&accepted, 0.95));
    assert!(quantile(&refused, 0.5) < quantile(&accepted, 0.5), "refusals are at once");
    #[cfg(target_os = "linux")]
    {
        let after = server.peak_memory();
        assert!(after < before + (32 << 10), "{before} KiB before, {after} KiB after");
    }
    // Afterwards all is as before.
    assert_eq!(server.get("/readyz").status, 200);
    assert!(send(&server, 1, None, second / 5).iter().all(|(_, r)| r.status == 200));
}

#[test]
fn what_would_come_too_late_is_not_computed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let desk = with_some_work();
    let server =
        Server::start(&desk, "--adapters adapters --cache-memory 0 --threads 1 --batch-tokens 100000");
    std::thread::scope(|scope| {
        // All of it is one batch, which is under way for a while.
        let text = |i: usize| {
            format!("{} {}", "the of and to in he she it was that".repeat(1 + i % 3), WORDS[i % 45])
        };
        let hyps: Vec<_> =
            (0..900).map(|i| json!({"text": format!("{} {}", text(i), WORDS[i / 45]), "am": 0})).collect();
        let long = json!({"adapter": "a", "hyps": hyps}).to_string();
        let server = &server;
        scope.spawn(move || assert_eq!(server.ask("POST", "/v1/rescore", &long).status, 200));
        while server.figure("lorb_stage_seconds_count", "stage=\"queue\"") < 1.0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let urgent =
            json!({"adapter": "a", "deadline_ms": 1, "hyps": [{"text": "late", "am": 0}]}).to_string();
        let late = server.ask("POST", "/v1/rescore", &urgent);
        assert_eq!((late.status, late.code().as_str()), (503, "deadline"), "{}", late.text());
    });
    let misses = server.figure("lorb_cache_misses_total", "");
    assert_eq!(server.figure("lorb_batch_rows_sum", ""), misses - 1.0);
}
