//! `rescore --server`: the same lines as without, from a service.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use lorb_engine::serve::{Ask, AskedHypothesis, AskedUtterance, Client};
use serde_json::json;

use crate::harness::{Server, write_adapters};
use crate::support::cli::{Desk, lists};

#[test]
fn the_lines_are_those_of_rescore() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    desk.write("in.jsonl", lists(51, 150));
    let server = Server::start(&desk, "--adapters adapters --device cpu");
    let url = format!("http://{}", server.address);
    let expected = desk.ok("rescore --model base --adapter adapters/a --input in.jsonl --device cpu");
    assert_eq!(desk.ok(&format!("rescore --server {url} --adapter a --input in.jsonl")), expected);
    let expected =
        desk.ok("rescore --model base --adapter adapters/a --input in.jsonl --beta 0.5 --device cpu");
    assert_eq!(
        desk.ok(&format!("rescore --server {url}/ --adapter a --input in.jsonl --beta 0.5")),
        expected
    );
}

#[test]
fn an_adapter_of_other_fields_is_not_asked_in_silence() {
    let desk = Desk::new();
    desk.write("in.jsonl", lists(54, 60).replace("\"am\"", "\"acoustic\""));
    let train = "train --model base --train in.jsonl --first-pass acoustic --rank 2 --epochs 1";
    desk.ok(&format!("{train} --out adapters/a --device cpu"));
    desk.write("both.jsonl", lists(55, 30).replace("\"am\"", "\"am\":-1,\"acoustic\""));
    let server = Server::start(&desk, "--adapters adapters --device cpu");
    let rescore = format!("rescore --server http://{} --adapter a --input both.jsonl", server.address);
    desk.refused(&rescore, 2, &["\"acoustic\"", "--first-pass acoustic"]);
    let expected = desk.ok("rescore --model base --adapter adapters/a --input both.jsonl --device cpu");
    assert_eq!(desk.ok(&format!("{rescore} --first-pass acoustic")), expected);
    desk.ok(&format!("{rescore} --first-pass am"));
}

#[test]
fn a_token_is_shown_and_what_is_too_much_at_once_is_cut() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    desk.write("token", "0123456789abcdef0123\n");
    desk.write("in.jsonl", lists(52, 300));
    let limits = "--queue-tokens 400 --max-tokens 400 --cache-memory 0";
    let server = Server::start(&desk, &format!("--adapters adapters --token-file token {limits}"));
    let url = format!("http://{}", server.address);
    let rescore = format!("rescore --server {url} --adapter a --input in.jsonl");
    desk.refused(&rescore, 1, &["401", "token"]);
    assert_eq!(desk.ok(&format!("{rescore} --token-file token")).lines().count(), 300);
}

#[test]
fn what_a_service_refuses_is_told() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    desk.write("in.jsonl", lists(53, 3));
    let server = Server::start(&desk, "--adapters adapters");
    let url = format!("http://{}", server.address);
    desk.refused(&format!("rescore --server {url} --adapter b --input in.jsonl"), 1, &["no adapter", "404"]);
    desk.refused(
        &format!("rescore --server {url} --adapter a --input in.jsonl --case lower"),
        2,
        &["--server"],
    );
    for option in ["--model base", "--threads 2", "--device cuda", "--dtype int8"] {
        let rescore = format!("rescore --server {url} {option} --input in.jsonl");
        desk.refused(&rescore, 2, &["--server"]);
    }
    drop(server);
    desk.refused(&format!("rescore --server {url} --adapter a --input in.jsonl"), 1, &["cannot be asked"]);
    desk.refused("rescore --server nonsense --input in.jsonl", 2, &["http://"]);
}

/// A service that answers in time where it is asked for at most `most` utterances; its address.
fn of_little_time(most: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            for line in stream.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
                let line = line.to_lowercase();
                length = line.strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let ask: Ask = serde_json::from_slice(&body).unwrap();
            let answered = |asked: &AskedUtterance| {
                json!({
                    "id": asked.id, "hyps": [], "order": [], "best": "", "confidence": 1, "confidence_scale": 1,
                    "weights": {"first_pass": 1, "lm": 0, "lorb": 1, "words": 0}, "fields": {"am": "am"},
                })
            };
            let (status, answer) = match ask.utterances.len() <= most {
                true => {
                    ("200 OK", json!({"utterances": ask.utterances.iter().map(answered).collect::<Vec<_>>()}))
                }
                false => ("503 Busy", json!({"error": {"code": "deadline", "message": "it passed"}})),
            };
            let (answer, head) = (answer.to_string(), "Retry-After: 0\r\nConnection: close\r\n");
            let length = answer.len();
            let answer = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n{answer}");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    format!("http://{address}")
}

#[test]
fn what_cannot_be_scored_in_time_is_cut_and_what_is_refused_for_ever_is_told() {
    let hyps = vec![AskedHypothesis { text: "a".into(), am: 0.0, lm: None }];
    let utterance =
        |i: usize| AskedUtterance { id: Some(i.to_string()), hyps: hyps.clone(), ..Default::default() };
    let ask = Ask { utterances: (0..7).map(utterance).collect(), ..Ask::default() };
    let answer = Client::new(&of_little_time(2), None).unwrap().rescore(&ask).unwrap();
    let ids: Vec<String> = answer.utterances.into_iter().map(|u| u.id.unwrap()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
    let error = Client::new(&of_little_time(0), None).unwrap().rescore(&ask).unwrap_err().to_string();
    assert!(error.contains("503 deadline: it passed"), "{error}");
}
