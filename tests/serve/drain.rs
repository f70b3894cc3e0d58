//! SIGTERM: what was accepted is answered, and then the program ends well.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Server, utterances, write_adapters};
use crate::http::{Connection, request};
use crate::support::cli::{Desk, lists};

#[test]
fn no_accepted_request_is_lost() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let mut server = Server::start(&desk, "--adapters adapters --cache-memory 0");
    let body = json!({"adapter": "a", "utterances": utterances(&lists(21, 30))}).to_string();
    let bytes = request("POST", "/v1/rescore", "Connection: close\r\n", &body);
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let address = server.address;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                // Each on a connection of its own, until there is no listener any more.
                while let Ok(mut connection) = Connection::try_open(address) {
                    match connection.exchange(&bytes) {
                        Some(response) => {
                            assert_eq!(response.status, 200, "{}", response.text());
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        // Connected to a listener that was closed before it looked: nothing was accepted.
                        None => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(20);
        while answered.load(Ordering::Relaxed) < 20 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        server.signal("-TERM");
    });
    assert_eq!(server.ended(Duration::from_secs(30)), Some(0), "{}", server.log());
    let (answered, refused) = (answered.into_inner(), refused.into_inner());
    // The service counts what it accepted, and its log has a line for each answer.
    let lines = server.log().matches("\"message\":\"answered\"").count();
    assert_eq!(lines, answered, "{refused} refused");
    assert!(answered >= 20 && refused <= 6, "{answered} answered, {refused} refused");
    assert!(server.log().contains("\"ended\""), "{}", server.log());
}

#[test]
fn a_request_that_is_under_way_is_finished_and_readiness_says_that_it_ends() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let mut server = Server::start(&desk, "--adapters adapters");
    let body = json!({"adapter": "a", "utterances": utterances(&lists(22, 3))}).to_string();
    let bytes = request("POST", "/v1/rescore", "", &body);
    let mut slow = Connection::open(server.address);
    slow.send(&bytes[..bytes.len() / 2]).unwrap();
    let mut ready = Connection::open(server.address);
    ready.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n").unwrap();
    // Both have arrived before the signal.
    assert_eq!(server.get("/readyz").json(), json!({"ready": true}));
    server.signal("-TERM");
    std::thread::sleep(Duration::from_millis(300));
    let ready = ready.exchange(b"\r\n").unwrap();
    assert_eq!((ready.status, ready.json()["ready"].clone()), (503, json!(false)));
    slow.send(&bytes[bytes.len() / 2..]).unwrap();
    assert_eq!(slow.receive().unwrap().status, 200);
    assert_eq!(server.ended(Duration::from_secs(30)), Some(0), "{}", server.log());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let mut server = Server::start(&desk, "--adapters adapters --read-timeout 600000");
    // Half a request holds up the end, for half a minute.
    let mut slow = Connection::open(server.address);
    slow.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n").unwrap();
    assert_eq!(server.get("/readyz").status, 200);
    let start = Instant::now();
    server.signal("-TERM");
    while !server.log().contains("SIGTERM") && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.signal("-INT");
    assert_eq!(server.ended(Duration::from_secs(25)), Some(130), "{}", server.log());
}
