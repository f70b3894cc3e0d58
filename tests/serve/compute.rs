//! A compute thread that ends or hangs: said, and nobody waits for it in vain. Only here the service is not the
//! program but its library, since the program's thread does not end by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lorb_engine::Error;
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::model::BaseModel;
use lorb_engine::rescore::scorer::Bank;
use lorb_engine::serve::{Config, Limits, Score, Service, bind, serve};
use serde_json::json;

use crate::harness::write_adapters;
use crate::http::{Connection, Response, request};
use crate::support::cli::Desk;

/// Asks a service, whose scores come from `score`, a few times, and for its readiness after the last.
fn ask(score: impl FnOnce(Arc<Bank>) -> Box<Score>, times: usize) -> (Vec<Response>, Response) {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let config = Config {
        adapters: Some(desk.path("adapters")),
        adapter_bytes: 1 << 20,
        cache_bytes: 0,
        token: None,
        admin_token: None,
        log_text: false,
        limits: Limits { max_wait: Duration::from_millis(1500), ..Limits::default() },
    };
    let device = AnyDevice::Cpu(Cpu::new(Isa::available()[0]));
    let model = BaseModel::open(&desk.path("base")).unwrap();
    let (service, thread) = Service::start_with(device, model, config, score).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(bind("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = runtime.spawn(serve(service.clone(), listener, async { drop(stopped.await) }));
    let body = json!({"adapter": "a", "hyps": [{"text": "the of", "am": 0}, {"text": "of the", "am": 0}]});
    let bytes = request("POST", "/v1/rescore", "Connection: close\r\n", &body.to_string());
    let responses = (0..times).map(|_| Connection::open(address).exchange(&bytes).unwrap()).collect();
    let close = request("GET", "/readyz", "Connection: close\r\n", "");
    let ready = Connection::open(address).exchange(&close).unwrap();
    stop.send(()).unwrap();
    assert!(runtime.block_on(served).unwrap());
    service.close();
    // It ends, however it was treated; where a batch hangs, that is not to be waited for.
    if responses_ended(&thread) {
        thread.join().unwrap();
    }
    (responses, ready)
}

fn responses_ended(thread: &std::thread::JoinHandle<()>) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while !thread.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    thread.is_finished()
}

#[test]
fn a_panic_is_reported_as_unready() {
    let calls = Arc::new(AtomicUsize::new(0));
    let score = |bank: Arc<Bank>| -> Box<Score> {
        Box::new(move |asked| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => bank.scores(asked),
            _ => panic!("killed by the test"),
        })
    };
    let (responses, ready) = ask(score, 4);
    let statuses: Vec<u16> = responses.iter().map(|r| r.status).collect();
    assert_eq!(statuses, [200, 503, 503, 503]);
    assert_eq!(responses[3].code(), "unavailable");
    assert_eq!((ready.status, ready.json()["reason"].as_str().unwrap()), (503, "scoring panicked"));
}

#[test]
fn a_device_that_fails_is_reported_as_unready() {
    let score = |_| -> Box<Score> { Box::new(|_| Err(Error::Device("it burns".into()))) };
    let (responses, ready) = ask(score, 2);
    assert!(responses.iter().all(|r| r.status == 503 && r.code() == "unavailable"));
    assert!(ready.json()["reason"].as_str().unwrap().contains("it burns"));
}

#[test]
fn a_batch_that_hangs_holds_nobody_beyond_the_deadline() {
    let score = |_| -> Box<Score> {
        Box::new(|asked| {
            std::thread::sleep(Duration::from_millis(4000));
            Ok(vec![0.0; asked.len()])
        })
    };
    let start = Instant::now();
    let (responses, _) = ask(score, 1);
    assert_eq!((responses[0].status, responses[0].code().as_str()), (503, "deadline"));
    assert!(start.elapsed() > Duration::from_millis(1500));
}
