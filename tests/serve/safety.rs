//! What a client may do, and what it may not.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, conforms, utterances, write_adapters};
use crate::http::{Connection, request};
use crate::support::bert_with_half_a_head;
use crate::support::cli::{Desk, lists};

fn start(options: &str) -> (Desk, Server) {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, &format!("--adapters adapters {options}"));
    (desk, server)
}

fn good() -> Value {
    json!({"adapter": "a", "hyps": [{"text": "the of", "am": -1.5}]})
}

#[test]
fn a_refusal_names_the_field() {
    let (_desk, server) = start("--max-hypotheses 3 --max-tokens 200 --max-body 16");
    let refused = |body: &Value, status: u16, field: &str| {
        let response = server.ask("POST", "/v1/rescore", &body.to_string());
        assert_eq!((response.status, response.field().as_str()), (status, field), "{}", response.text());
        conforms("Problem", &response.json());
    };
    let with = |field: &str, value: Value| {
        let mut ask = good();
        ask[field] = value;
        ask
    };
    let hyps = |hyps: Value| json!({"adapter": "a", "utterances": [good(), {"hyps": hyps}]});
    refused(&json!([]), 422, "(the body)");
    refused(&json!({}), 422, "(the body)");
    refused(&json!({"utterances": []}), 422, "utterances");
    refused(&with("adapter", json!(7)), 422, "adapter");
    refused(&with("adaptor", json!("a")), 422, "adaptor");
    refused(&with("weights", json!({"lorb": "much"})), 422, "weights.lorb");
    refused(&with("weights", json!({"lm": 1.0})), 422, "hyps[0].lm");
    refused(&with("weights", json!({"words": 1e308})), 422, "hyps[0]");
    refused(&with("deadline_ms", json!(0)), 422, "deadline_ms");
    refused(&with("deadline_ms", json!(-1)), 422, "deadline_ms");
    refused(&hyps(json!([])), 422, "utterances[1].hyps");
    refused(&hyps(json!([{"am": 1}])), 422, "utterances[1].hyps[0]");
    refused(&hyps(json!([{"text": "a", "am": 1}, {"text": 1, "am": 1}])), 422, "utterances[1].hyps[1].text");
    refused(
        &hyps(json!([{"text": "a", "am": 1, "lm": 1}, {"text": "b", "am": 1}])),
        422,
        "utterances[1].hyps[1].lm",
    );
    let many = vec![json!({"text": "a", "am": 1}); 4];
    refused(&hyps(json!(many)), 413, "utterances[1].hyps");
    let long: Vec<Value> = ["the", "of", "and"]
        .map(|w| json!({"text": w.to_string() + &" to in he".repeat(40), "am": 1}))
        .into();
    refused(&json!({"adapter": "a", "utterances": [{"hyps": long}, {"hyps": long}]}), 413, "utterances");
    refused(&json!({"adapter": "a", "hyps": [{"text": "x".repeat(20_000), "am": 1}]}), 413, "");

    let response = server.ask("POST", "/v1/rescore", "{\"hyps\": [");
    assert_eq!((response.status, response.code().as_str()), (400, "not_json"));
    let plain =
        b"POST /v1/rescore HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(Connection::open(server.address).exchange(plain).unwrap().status, 415);
    assert_eq!(server.ask("POST", "/v1/rescore?explain=2", &good().to_string()).field(), "explain");
    assert_eq!((server.get("/v1/rescore").status, server.get("/v2").status), (405, 404));
    assert_eq!(server.rescore(&good())["utterances"].as_array().unwrap().len(), 1);
}

#[test]
fn names_cannot_leave_the_directory() {
    let (desk, server) = start("");
    // The adapter beside the directory is a good one, but nobody reaches it.
    std::os::unix::fs::symlink(desk.path("adapter"), desk.path("adapters/link")).unwrap();
    let absolute = desk.path("adapter");
    for name in
        ["../adapter", "a/../../adapter", "link", "", ".", "..", absolute.to_str().unwrap(), "a\0", "a/"]
    {
        let mut ask = good();
        ask["adapter"] = name.into();
        let response = server.ask("POST", "/v1/rescore", &ask.to_string());
        assert!([404, 422].contains(&response.status), "{name:?}: {}", response.text());
        assert_eq!(response.field(), "adapter");
    }
    let listed = server.get("/v1/adapters").json();
    let names: Vec<&str> =
        listed["adapters"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a"], "what cannot be loaded is not listed");
    for path in ["..%2fadapter", "%2e%2e%2fadapter", "link", "a%2f..%2f..%2fadapter", "%00"] {
        for method in ["PUT", "DELETE"] {
            let status = server.ask(method, &format!("/v1/adapters/{path}"), "").status;
            assert!([404, 422].contains(&status), "{method} {path}: {status}");
        }
    }
}

#[test]
fn tokens_guard_scoring_and_administration() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let (score, admin) = ("score-0123456789abcdef", "admin-0123456789abcdef");
    desk.write("token", format!("{score}\n"));
    desk.write("admin", format!("{admin}\n"));
    let server = Server::start(&desk, "--adapters adapters --token-file token --admin-token-file admin");
    let ask = |method: &str, path: &str, token: &str, body: &str| {
        let header =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        server.ask_with(method, path, &header, body).status
    };
    let body = good().to_string();
    for (token, scores, administers) in
        [("", 401, 401), (score, 200, 401), (admin, 401, 200), ("wrong", 401, 401)]
    {
        assert_eq!(ask("POST", "/v1/rescore", token, &body), scores, "{token}");
        assert_eq!(ask("GET", "/v1/adapters", token, ""), scores, "{token}");
        assert_eq!(ask("PUT", "/v1/adapters/a", token, ""), administers, "{token}");
        assert_eq!(ask("DELETE", "/v1/adapters/a", token, ""), administers, "{token}");
    }
    for open in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/"] {
        assert_eq!(ask("GET", open, "", ""), 200, "{open}");
    }
    let refused = server.ask("POST", "/v1/rescore", &body);
    assert_eq!(
        (refused.code().as_str(), refused.header("www-authenticate")),
        ("unauthorized", Some("Bearer"))
    );
    desk.write("short", "abc\n");
    desk.refused("serve --model base --adapters adapters --token-file short", 2, &["short", "too short"]);
}

#[test]
fn requests_have_ids_and_the_log_has_no_text_unless_asked() {
    for (option, has_text) in [("", false), ("--log-text", true)] {
        let (_desk, mut server) = start(option);
        let ask =
            json!({"adapter": "a", "id": "u-17", "hyps": [{"text": "secret words", "am": 0}]}).to_string();
        let answered = server.ask_with("POST", "/v1/rescore", "X-Request-Id: mine-42\r\n", &ask);
        assert_eq!(answered.header("x-request-id"), Some("mine-42"));
        let [a, b] = [0, 1].map(|_| server.get("/healthz").header("x-request-id").unwrap().to_string());
        assert_ne!(a, b);
        server.ask("POST", "/v1/rescore", &ask.replace("\"am\":0", "\"am\":\"secret\""));
        server.get("/healthz");
        // The log is written beside the answers; at the end it is whole.
        server.signal("-TERM");
        assert_eq!(server.ended(Duration::from_secs(30)), Some(0));
        let log = server.log();
        assert!(log.contains("mine-42"), "{log}");
        assert_eq!(log.contains("secret"), has_text, "{log}");
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().any(|line| line["message"] == "answered" && line["request"] == "mine-42"));
    }
}

#[test]
fn the_description_of_the_interface_is_served_and_whole() {
    let (_desk, server) = start("");
    let api = server.get("/openapi.json").json();
    assert_eq!(api["openapi"], "3.1.0");
    // Every route that it describes is there, and takes the method.
    for (path, methods) in api["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let response = server.ask(&method.to_uppercase(), &path.replace("{name}", "nobody"), "");
            assert!(!["no_route", "no_method"].contains(&code(&response.body).as_str()), "{method} {path}");
            let described = &methods[method]["responses"][response.status.to_string()];
            assert!(described.is_object(), "{method} {path} answers {}", response.status);
            let schema = &described["content"]["application/json"]["schema"]["$ref"];
            if let Some(name) = schema.as_str().and_then(|name| name.rsplit('/').next()) {
                conforms(name, &response.json());
            }
        }
    }
    // Examples of real lists conform, also with everything that is optional.
    conforms(
        "Ask",
        &json!({"utterances": utterances(&lists(1, 3)), "adapter": "a", "deadline_ms": 100, "weights": {}}),
    );
    let refused = std::panic::catch_unwind(|| conforms("Ask", &json!({"utterances": []})));
    assert!(refused.is_err(), "the check itself can fail");
}

fn code(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    value["error"]["code"].as_str().unwrap_or_default().to_string()
}

#[test]
fn options_that_cannot_work_are_refused() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    desk.refused("serve --adapters adapters", 2, &["--model"]);
    desk.refused("serve --model base", 2, &["no head of one score", "--adapters DIR"]);
    desk.refused("serve --model base --adapters nowhere", 2, &["nowhere"]);
    bert_with_half_a_head(&desk.path("half"));
    desk.refused("serve --model half --adapters adapters", 2, &["classifier.bias"]);
    desk.refused("serve --model base --adapters adapters --queue-tokens 10", 2, &["--queue-tokens"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    desk.refused(
        &format!("serve --model base --adapters adapters --listen {address}"),
        2,
        &["cannot listen"],
    );
    let mut server = Server::start(&desk, "--adapters adapters");
    assert_eq!(
        Connection::open(server.address).exchange(&request("GET", "/healthz", "", "")).unwrap().status,
        200
    );
    server.signal("-INT");
    assert_eq!(server.ended(std::time::Duration::from_secs(20)), Some(0));
}
