//! `rescore --server`: the same lines as without, from a service.

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
