//! 100,000 requests that are wrong in every way: no panic, and no failure that is the service's own.

use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::harness::{Server, write_adapters};
use crate::http::{Connection, request};
use crate::support::cli::Desk;

const REQUESTS: usize = 100_000;
const THREADS: usize = 4;

/// Any JSON, with the names that the service knows among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<f64>().prop_map(|x| json!(x)),
        any::<i64>().prop_map(|x| json!(x)),
        any::<u64>().prop_map(|x| json!(x)),
        Just(json!(1e308)),
        Just(json!(-0.0)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number,
        any::<String>().prop_map(Value::String),
        "[a-z ]{0,30}".prop_map(Value::String),
    ];
    let key = prop_oneof![
        4 => prop::sample::select(vec!["utterances", "hyps", "text", "am", "lm", "adapter", "weights", "deadline_ms", "id", "lorb"])
            .prop_map(String::from),
        1 => any::<String>(),
    ];
    leaf.prop_recursive(5, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A request that would be good, with something of any kind in one place.
fn nearly_good() -> impl Strategy<Value = Value> {
    let place = prop::sample::select(vec![
        "/utterances",
        "/utterances/0",
        "/utterances/0/hyps",
        "/utterances/0/hyps/0",
        "/utterances/0/hyps/0/text",
        "/utterances/0/hyps/1/am",
        "/utterances/0/hyps/1/lm",
        "/adapter",
        "/weights",
        "/weights/lorb",
        "/deadline_ms",
        "/utterances/0/adapter",
        "/utterances/0/id",
    ]);
    (place, any_json()).prop_map(|(place, value)| {
        let mut ask = json!({
            "adapter": "a", "weights": {"lorb": 1.0}, "deadline_ms": 1000,
            "utterances": [{"id": "u", "adapter": "a", "hyps": [{"text": "a", "am": 1, "lm": 1}, {"text": "b", "am": 1, "lm": 2}]}],
        });
        *ask.pointer_mut(place).unwrap() = value;
        ask
    })
}

/// The bytes of a request.
fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let post = |body: &str| request("POST", "/v1/rescore", "", body);
    let json = prop_oneof![any_json(), nearly_good()].prop_map(|value| value.to_string());
    let broken =
        (nearly_good(), any::<prop::sample::Index>(), any::<Vec<u8>>()).prop_map(|(value, at, bytes)| {
            let mut text = value.to_string().into_bytes();
            let at = at.index(text.len());
            text.splice(at..(at + bytes.len() / 2).min(text.len()), bytes);
            String::from_utf8_lossy(&text).into_owned()
        });
    let deep = (1usize..3000).prop_map(|n| format!("{{\"hyps\":{}", "[".repeat(n)));
    let path = prop_oneof![
        "/v1/adapters/[a-zA-Z0-9%./_~-]{0,40}",
        "/v1/(rescore|adapters)[?/][a-z=&%0-9]{0,20}",
        "/[!-~]{0,40}",
    ];
    let method =
        prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]);
    let header = "[A-Za-z-]{1,12}: [ -~]{0,40}";
    prop_oneof![
        6 => json.prop_map(move |body| post(&body)),
        3 => broken.prop_map(move |body| post(&body)),
        1 => deep.prop_map(move |body| post(&body)),
        3 => (method, path, header).prop_map(|(method, path, header)| request(method, &path, &format!("{header}\r\n"), "")),
        1 => prop::collection::vec(any::<u8>(), 1..200),
    ]
}

#[test]
fn none_of_them_breaks_anything() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters --read-timeout 200");
    let counts: Mutex<BTreeMap<u16, usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (server, counts) = (&server, &counts);
            scope.spawn(move || {
                let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[thread as u8; 32]);
                let mut runner = TestRunner::new_with_rng(Config::default(), rng);
                let strategy = any_request();
                let mut connection = Connection::open(server.address);
                let mut mine: BTreeMap<u16, usize> = BTreeMap::new();
                for _ in 0..REQUESTS / THREADS {
                    let bytes = strategy.new_tree(&mut runner).unwrap().current();
                    let head = bytes.starts_with(b"HEAD");
                    let answer =
                        if connection.send(&bytes).is_ok() && !head { connection.receive() } else { None };
                    let status = answer.as_ref().map_or(0, |a| a.status);
                    assert!(status < 500 || status == 503, "{status} to {}", String::from_utf8_lossy(&bytes));
                    *mine.entry(status).or_default() += 1;
                    // What is no HTTP ends its connection.
                    if answer.is_none_or(|a| {
                        a.header("connection") == Some("close") || a.status == 400 || a.status == 408
                    }) {
                        connection = Connection::open(server.address);
                    }
                }
                let mut counts = counts.lock().unwrap();
                mine.into_iter().for_each(|(status, n)| *counts.entry(status).or_default() += n);
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    println!("answers by status (0: the connection was closed): {counts:?}");
    assert_eq!(counts.values().sum::<usize>(), REQUESTS);
    assert!(counts[&422] > REQUESTS / 10 && counts[&400] > REQUESTS / 20 && counts[&200] > 0, "{counts:?}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(server.figure("lorb_requests_total", "status=\"500\""), 0.0);
    let good = json!({"adapter": "a", "hyps": [{"text": "still here", "am": 0}]});
    assert_eq!(server.rescore(&good)["utterances"][0]["best"], "still here");
}
