//! Clients that do not take their answers, and what requests hold while they are read and answered.

use std::time::{Duration, Instant};

use lorb_engine::serve::Limits;
use serde_json::json;

use crate::embedded::Embedded;
use crate::harness::{Server, write_adapters};
use crate::http::{Connection, request};
use crate::support::cli::Desk;

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether `is_so` within a time that a busy machine keeps, too.
fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn whoever_takes_no_answer_is_given_up() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters --max-connections 1 --read-timeout 500");
    let is_free = || {
        let answer = Connection::open(server.address).exchange(&request("GET", "/healthz", "", ""));
        answer.is_some_and(|answer| answer.status == 200)
    };
    // More than the buffers of both ends take.
    let mut stuck = Connection::open(server.address);
    stuck.send(&request("GET", "/openapi.json", "", "").repeat(2000)).unwrap();
    assert!(soon(is_free), "its place is never free again");
}

fn limits() -> Limits {
    let (max_wait, read_timeout) = (Duration::from_secs(60), Duration::from_secs(60));
    Limits { requests: 1, max_wait, read_timeout, ..Limits::default() }
}

fn small() -> Vec<u8> {
    request(
        "POST",
        "/v1/rescore",
        "",
        &json!({"adapter": "a", "hyps": [{"text": "the", "am": 0}]}).to_string(),
    )
}

#[test]
fn a_request_keeps_its_place_until_its_answer_is_taken() {
    let service = Embedded::start(Limits { body_bytes: 8 << 20, ..limits() }, |_| {
        Box::new(|asked| Ok(vec![0.5; asked.len()]))
    });
    // An answer of some 9 MB, which no socket buffers.
    let hyps = vec![json!({"text": "the", "am": 0}); 400];
    let ask = json!({"adapter": "a", "utterances": vec![json!({"hyps": hyps}); 160]}).to_string();
    let mut first = Connection::open_narrow(service.address);
    first.send(&request("POST", "/v1/rescore?explain=1", "", &ask)).unwrap();
    first.stream().peek(&mut [0]).unwrap();
    let refused = Connection::open(service.address).exchange(&small()).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "busy"));
    assert!(refused.text().contains("too many requests are under way"), "{}", refused.text());
    let answer = first.receive().unwrap();
    assert!(answer.status == 200 && answer.body.len() > 8 << 20, "{} bytes", answer.body.len());
    assert!(soon(|| Connection::open(service.address).exchange(&small()).unwrap().status == 200));
    drop(first);
    service.stop().unwrap();
}

#[test]
fn bodies_that_are_being_read_are_bounded_together() {
    let limits = Limits { body_bytes: 64 << 10, ..limits() };
    let service = Embedded::start(limits, |bank| Box::new(move |asked| bank.scores(asked)));
    let body =
        json!({"adapter": "a", "hyps": [{"text": "the", "am": 0}], "id": "x".repeat(40_000)}).to_string();
    let bytes = request("POST", "/v1/rescore", "", &body);
    let ask = || Connection::open(service.address).exchange(&bytes).unwrap();
    let (most, rest) = bytes.split_at(bytes.len() - 10);
    // Once most of it was read, there is no room for another of its size, but for a small one. Where the other was
    // quicker, it is the slow one that is refused.
    let mut found = None;
    assert!(soon(|| {
        let mut slow = Connection::open(service.address);
        slow.send(most).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        found = Some((slow, ask())).filter(|(_, answer)| answer.status == 503);
        found.is_some()
    }));
    let (mut slow, refused) = found.unwrap();
    assert_eq!(refused.code(), "busy");
    assert!(refused.text().contains("bodies"), "{}", refused.text());
    assert_eq!(Connection::open(service.address).exchange(&small()).unwrap().status, 200);
    assert_eq!(slow.exchange(rest).unwrap().status, 200);
    assert!(soon(|| ask().status == 200));
    drop(slow);
    service.stop().unwrap();
}

/// The worst of a megabyte: what is none of a request's, and what is short in JSON and not in memory.
#[cfg(target_os = "linux")]
#[test]
fn a_body_takes_few_times_its_bytes_in_memory() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters");
    let before = server.peak_memory();
    let filled = |start: &str, item: &str, end: &str| {
        let items = vec![item; ((1 << 20) - start.len() - end.len()) / (item.len() + 1)];
        format!("{start}{}{end}", items.join(","))
    };
    for (body, field) in [
        (filled("{\"utterances\":[", "0", "]}"), "utterances[0]"),
        (filled("{\"x\":[", "{}", "]}"), "x"),
        (filled("{\"hyps\":[", "{\"text\":\"\",\"am\":0}", "]}"), "hyps"),
        (filled("{\"utterances\":[", "{\"hyps\":[]}", "]}"), "utterances"),
    ] {
        let refused = server.ask("POST", "/v1/rescore", &body);
        assert!([413, 422].contains(&refused.status), "{}", refused.text());
        assert_eq!(refused.field(), field);
        let after = server.peak_memory();
        println!("{field}: {before} KiB before, {after} KiB after");
        assert!(after < before + (24 << 10), "{field}: {before} KiB before, {after} KiB after");
    }
}

#[test]
fn the_time_to_send_a_body_is_not_taken_from_the_time_to_score_it() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters --max-wait 2000");
    let send = |ask: serde_json::Value| {
        let bytes = request("POST", "/v1/rescore", "", &ask.to_string());
        let mut connection = Connection::open(server.address);
        let (most, rest) = bytes.split_at(bytes.len() - 10);
        connection.send(most).unwrap();
        (connection, rest.to_vec())
    };
    let hyps = |text| json!([{"text": text, "am": 0}]);
    let (mut slow, rest) = send(json!({"adapter": "a", "hyps": hyps("the of")}));
    let (mut urgent, urgent_rest) = send(json!({"adapter": "a", "deadline_ms": 100, "hyps": hyps("of the")}));
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(slow.exchange(&rest).unwrap().status, 200);
    // The client's own deadline is from the arrival of its request.
    assert_eq!(urgent.exchange(&urgent_rest).unwrap().code(), "deadline");
}

#[test]
fn a_client_that_still_sends_reads_why_it_is_refused() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters --max-body 16");
    // Within what is read past.
    let text = "x".repeat(3 << 20);
    let mut connection = Connection::open(server.address);
    let chunked = "POST /v1/rescore HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    connection.send(format!("{chunked}{:x}\r\n{text}\r\n0\r\n\r\n", text.len()).as_bytes()).unwrap();
    assert_eq!(connection.receive().unwrap().status, 413);
    // All of it was read: the connection is as good as before.
    assert_eq!(connection.exchange(&request("GET", "/healthz", "", "")).unwrap().status, 200);
}
