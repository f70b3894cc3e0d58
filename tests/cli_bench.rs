//! `bench` measures in less than 20 seconds and says where.

mod support;

use support::bert_with_half_a_head;
use support::cli::Desk;

#[test]
fn it_reports_numbers_that_hold_together() {
    let desk = Desk::new();
    let ran = desk.shell("$LORB bench --json --device cpu");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"));
    assert!(number("list_p50_ms") > 0.0);
    assert!(number("list_p50_ms") <= number("list_p95_ms") && number("list_p95_ms") <= number("list_p99_ms"));
    let alone = number("tokens_per_s_alone");
    assert!(alone > 0.0 && number("tokens_per_s") > 0.0);
    // Nothing is faster than what cannot be avoided at the rate that cannot be beaten.
    assert!(alone < number("floor_tokens_per_s"), "{report}");
}

#[test]
fn what_it_cannot_read_is_refused() {
    let desk = Desk::new();
    let ran = desk.shell("$LORB bench --input nowhere.jsonl");
    assert_eq!(ran.code, Some(2), "{}", ran.stdout);
    assert!(ran.stderr.contains("nowhere.jsonl"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    bert_with_half_a_head(&desk.path("half"));
    desk.refused("bench --model half", 2, &["half/model.safetensors", "classifier.bias"]);
    desk.refused("bench --first-pass score", 2, &["--input"]);
}
