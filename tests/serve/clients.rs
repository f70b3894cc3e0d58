//! Clients that are slow, go away, or close their half of the connection.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use lorb_engine::serve::Limits;
use serde_json::json;

use crate::harness::{Server, utterances, write_adapters};
use crate::http::{Connection, request};
use crate::support::cli::{Desk, lists};

fn body() -> String {
    json!({"adapter": "a", "utterances": utterances(&lists(31, 5))}).to_string()
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters");
    let mut connection = Connection::open(server.address);
    connection.send(&request("POST", "/v1/rescore", "", &body())).unwrap();
    connection.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.receive().unwrap().status, 200);
    // One that closed in the middle of its request, and one that said nothing at all, cost nothing.
    for part in [0, 40, 200] {
        let mut connection = Connection::open(server.address);
        connection.send(&request("POST", "/v1/rescore", "", &body())[..part]).unwrap();
        connection.stream().shutdown(Shutdown::Both).unwrap();
    }
    assert_eq!(server.ask("POST", "/v1/rescore", &body()).status, 200);
}

#[test]
fn slow_clients_are_given_up_and_hold_up_nobody() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters --read-timeout 4000");
    let bytes = request("POST", "/v1/rescore", "", &body());
    let start = Instant::now();
    // In the body more of them than requests may be under way, and as many in the head.
    let slow = 2 * (Limits::default().requests + 10);
    let open = |i: usize| {
        let mut connection = Connection::open(server.address);
        let part = if i.is_multiple_of(2) { 30 } else { bytes.len() - 20 };
        connection.send(&bytes[..part]).unwrap();
        connection
    };
    let mut slow: Vec<Connection> = (0..slow).map(open).collect();
    assert_eq!(server.ask("POST", "/v1/rescore", &body()).status, 200);
    for (i, connection) in slow.iter_mut().enumerate() {
        let answer = connection.receive();
        match i % 2 {
            0 => assert!(answer.is_none_or(|a| a.status == 408), "a head that never ends"),
            _ => assert_eq!(answer.unwrap().code(), "slow"),
        }
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    // A byte now and then is as slow.
    let mut drip = Connection::open(server.address);
    for byte in &bytes[..90] {
        if drip.stream().write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(drip.receive().is_none_or(|a| a.status == 408));
}

#[test]
fn connections_beyond_the_limit_are_refused_at_once() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters --max-connections 3");
    let mut held: Vec<Connection> = (0..3).map(|_| Connection::open(server.address)).collect();
    for connection in &mut held {
        assert_eq!(connection.exchange(&request("GET", "/healthz", "", "")).unwrap().status, 200);
    }
    let refused = Connection::open(server.address).receive().unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    drop(held);
    let end = Instant::now() + Duration::from_secs(10);
    while Connection::open(server.address)
        .exchange(&request("GET", "/healthz", "", ""))
        .is_none_or(|r| r.status != 200)
    {
        assert!(Instant::now() < end, "the places of those who left are free again");
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters");
    let log = server.hold_log();
    // Several times what a pipe takes (64 KiB), at more than 100 bytes a line.
    let mut connection = Connection::open(server.address);
    for i in 0..3000 {
        let response = connection.exchange(&request("POST", "/v1/rescore", "", "{}"));
        assert_eq!(response.unwrap_or_else(|| panic!("no answer to request {i}")).status, 422);
    }
    drop(log);
}
