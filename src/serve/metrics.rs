//! What the service measures of itself, under its Prometheus names.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::queue::Depth;

const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0];
const COUNTS: &[f64] =
    &[1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 384.0, 512.0, 768.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// The recorder of the process, which the first service installs.
pub(super) fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(install).clone()
}

fn install() -> PrometheusHandle {
    let suffix = |suffix: &str| Matcher::Suffix(suffix.into());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), SECONDS)
        .and_then(|b| b.set_buckets_for_metric(suffix("_rows"), COUNTS))
        .and_then(|b| b.set_buckets_for_metric(suffix("_tokens"), COUNTS))
        .expect("there are buckets");
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    // Where a program that uses this library has a recorder of its own, its figures are there.
    let _ = metrics::set_global_recorder(recorder);
    describe();
    handle
}

fn describe() {
    describe_counter!("lorb_requests_total", "Requests by route and status");
    describe_histogram!("lorb_request_seconds", Unit::Seconds, "From the head of a request to its answer");
    describe_histogram!(
        "lorb_stage_seconds",
        Unit::Seconds,
        "Stages: read (the body), parse, adapters (loading them), prepare (tokenise, look up), queue, compute"
    );
    describe_counter!("lorb_rejected_total", "Requests that were refused, by the code that they were told");
    describe_gauge!("lorb_queue_tokens", "Tokens that wait");
    describe_gauge!("lorb_queue_utterances", "Utterances that wait");
    describe_histogram!("lorb_batch_rows", "Hypotheses of a batch");
    describe_histogram!("lorb_batch_tokens", "Tokens of a batch");
    describe_counter!("lorb_adapter_hypotheses_total", "Hypotheses that an adapter was asked for");
    describe_histogram!("lorb_adapter_seconds", Unit::Seconds, "From the request to the scores, by adapter");
    describe_counter!("lorb_cache_hits_total", "Scores that were known");
    describe_counter!("lorb_cache_misses_total", "Scores that had to be computed");
    describe_gauge!("lorb_cache_bytes", "Memory of the scores that are known");
    describe_gauge!("lorb_adapters_loaded", "Adapters on the device");
    describe_gauge!("lorb_adapter_bytes", "Memory of the adapters on the device");
    describe_counter!("lorb_adapters_evicted_total", "Adapters that made room for others");
    describe_counter!("lorb_adapters_refused_total", "Adapters whose files were no good");
}

pub(super) fn request(route: &str, status: u16, time: Duration) {
    let route = route.to_string();
    counter!("lorb_requests_total", "route" => route.clone(), "status" => status.to_string()).increment(1);
    histogram!("lorb_request_seconds", "route" => route).record(time);
}

pub(super) fn rejected(code: &'static str) {
    counter!("lorb_rejected_total", "reason" => code).increment(1);
}

pub(super) fn stage(stage: &'static str, time: Duration) {
    histogram!("lorb_stage_seconds", "stage" => stage).record(time);
}

pub(super) fn batch(rows: usize, tokens: usize, time: Duration) {
    stage("compute", time);
    histogram!("lorb_batch_rows").record(rows as f64);
    histogram!("lorb_batch_tokens").record(tokens as f64);
}

pub(super) fn scored(adapter: &str, hypotheses: usize, time: Duration) {
    let adapter = adapter.to_string();
    counter!("lorb_adapter_hypotheses_total", "adapter" => adapter.clone()).increment(hypotheses as u64);
    histogram!("lorb_adapter_seconds", "adapter" => adapter).record(time);
}

pub(super) fn cache(hits: usize, misses: usize) {
    counter!("lorb_cache_hits_total").increment(hits as u64);
    counter!("lorb_cache_misses_total").increment(misses as u64);
}

/// What is read when somebody looks.
pub(super) fn now(depth: &Depth, cache_bytes: u64, adapters: usize, adapter_bytes: usize) {
    gauge!("lorb_queue_tokens").set(depth.tokens as f64);
    gauge!("lorb_queue_utterances").set(depth.jobs as f64);
    gauge!("lorb_cache_bytes").set(cache_bytes as f64);
    gauge!("lorb_adapters_loaded").set(adapters as f64);
    gauge!("lorb_adapter_bytes").set(adapter_bytes as f64);
}

pub(super) fn evicted() {
    counter!("lorb_adapters_evicted_total").increment(1);
}

pub(super) fn refused_adapter() {
    counter!("lorb_adapters_refused_total").increment(1);
}
