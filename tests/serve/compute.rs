//! A compute thread that ends or hangs: said, nobody waits for it in vain, and the service ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lorb_engine::Error;
use lorb_engine::rescore::scorer::Bank;
use lorb_engine::serve::{Limits, Score};
use serde_json::json;

use crate::embedded::Embedded;
use crate::http::{Connection, Response};

fn ask(service: &Embedded) -> Response {
    // More than a request may wait for anything.
    let deadline_ms = 600_000;
    let hyps = json!([{"text": "the of", "am": 0}, {"text": "of the", "am": 0}]);
    let body = json!({"adapter": "a", "deadline_ms": deadline_ms, "hyps": hyps});
    service.ask("POST", "/v1/rescore", &body.to_string())
}

/// The last of `times` requests is the one that fails: the service says why and ends with it.
fn fails(times: usize, reason: &str, score: impl FnOnce(Arc<Bank>) -> Box<Score>) {
    let limits = Limits { max_wait: Duration::from_secs(60), ..Limits::default() };
    let service = Embedded::start(limits, score);
    // Under way while it ends, so that it has an answer all the same.
    let mut ready = Connection::open(service.address);
    ready.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n").unwrap();
    let responses: Vec<Response> = (0..times).map(|_| ask(&service)).collect();
    let (failed, good) = responses.split_last().unwrap();
    assert!(good.iter().all(|response| response.status == 200));
    assert_eq!((failed.status, failed.code().as_str()), (503, "unavailable"));
    let ready = ready.exchange(b"\r\n").unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.json()["reason"].as_str().unwrap().contains(reason), "{}", ready.text());
    let error = service.ended().unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(matches!(&error, Error::Device(message) if message.contains(reason)), "{error}");
}

#[test]
fn a_panic_ends_the_service() {
    let calls = Arc::new(AtomicUsize::new(0));
    fails(2, "scoring panicked", |bank| {
        Box::new(move |asked| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => bank.scores(asked),
            _ => panic!("killed by the test"),
        })
    });
}

#[test]
fn a_device_that_fails_ends_the_service() {
    fails(1, "it burns", |_| Box::new(|_| Err(Error::Device("it burns".into()))));
}

#[test]
fn a_batch_that_hangs_holds_nobody_beyond_the_deadline() {
    let limits = Limits {
        max_wait: Duration::from_millis(1500),
        drain: Duration::from_millis(500),
        ..Limits::default()
    };
    let hang = Duration::from_secs(120);
    let service = Embedded::start(limits, |_| {
        Box::new(move |asked| {
            std::thread::sleep(hang);
            Ok(vec![0.0; asked.len()])
        })
    });
    let start = Instant::now();
    let response = ask(&service);
    assert_eq!((response.status, response.code().as_str()), (503, "deadline"));
    assert!(start.elapsed() > Duration::from_millis(1500));
    let error = service.stop().unwrap_err();
    assert!(matches!(&error, Error::Interrupted(message) if message.contains("batch")), "{error}");
    assert!(start.elapsed() < hang, "the batch is not waited for");
}
