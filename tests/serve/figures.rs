//! What /metrics says is what happened.

use serde_json::json;

use crate::harness::{Server, utterances, write_adapters};
use crate::support::cli::{Desk, lists};

#[test]
fn every_stage_and_refusal_is_counted() {
    let desk = Desk::new();
    write_adapters(&desk, &["a", "b"]);
    let server = Server::start(&desk, "--adapters adapters");
    let lists = utterances(&lists(41, 10));
    let hypotheses: usize = lists.iter().map(|u| u["hyps"].as_array().unwrap().len()).sum();
    for name in ["a", "a", "b"] {
        server.rescore(&json!({"adapter": name, "utterances": lists}));
    }
    server.ask("POST", "/v1/rescore", "{}");
    server.ask("POST", "/v1/rescore", "{\"adapter\": \"none\", \"hyps\": [{\"text\": \"a\", \"am\": 0}]}");

    assert_eq!(server.figure("lorb_requests_total", "route=\"/v1/rescore\",status=\"200\""), 3.0);
    assert_eq!(server.figure("lorb_rejected_total", "reason=\"invalid\""), 1.0);
    assert_eq!(server.figure("lorb_rejected_total", "reason=\"no_adapter\""), 1.0);
    assert_eq!(server.figure("lorb_adapter_hypotheses_total", "adapter=\"a\""), 2.0 * hypotheses as f64);
    assert_eq!(server.figure("lorb_adapter_seconds_count", "adapter=\"b\""), 10.0);
    let (hits, misses) =
        (server.figure("lorb_cache_hits_total", ""), server.figure("lorb_cache_misses_total", ""));
    assert_eq!(
        hits + misses,
        server.figure("lorb_batch_rows_sum", "") + hits,
        "what was not known was computed"
    );
    assert!(2.0 * hits >= misses && hits > 0.0, "{hits} hits, {misses} misses");
    for stage in ["read", "parse", "adapters", "prepare"] {
        let count = server.figure("lorb_stage_seconds_count", &format!("stage=\"{stage}\""));
        assert!(count >= 3.0, "{stage}: {count}");
    }
    assert!(server.figure("lorb_stage_seconds_count", "stage=\"queue\"") >= 10.0);
    let batches = server.figure("lorb_stage_seconds_count", "stage=\"compute\"");
    assert_eq!(batches, server.figure("lorb_batch_tokens_count", ""));
    assert_eq!(server.figure("lorb_queue_tokens", ""), 0.0);
    assert_eq!(server.figure("lorb_adapters_loaded", ""), 2.0);
    assert!(
        server.figure("lorb_adapter_bytes", "") > 1000.0 && server.figure("lorb_cache_bytes", "") > 1000.0
    );
    // Histograms, not summaries: buckets that add up over servers.
    assert!(server.get("/metrics").text().contains("lorb_stage_seconds_bucket{stage=\"compute\",le=\""));
}
