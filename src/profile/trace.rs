//! The trace in the format of chrome://tracing, which Perfetto opens too: complete events, times in microseconds.

use std::io::Write;
use std::time::Duration;

use serde::Serializer;
use serde_json::{Value, json};

use super::{Kind, Recorder, Span};

/// Writes one JSON array of events; returns how many spans had no room in it.
pub fn write_trace(recorder: &Recorder, writer: impl Write) -> serde_json::Result<usize> {
    let all = recorder.0.as_ref().map(|recording| recording.spans());
    let (spans, left_out) = all.as_ref().map_or((&[][..], 0), |all| (&all.traced[..], all.left_out));
    let threads = spans.iter().map(|span| span.thread).max().map_or(0, |last| last + 1);
    let events = (0..threads).map(thread_name).chain(spans.iter().map(event));
    serde_json::Serializer::new(writer).collect_seq(events)?;
    Ok(left_out)
}

fn thread_name(thread: usize) -> Value {
    let name = if thread == 0 { "main".into() } else { format!("worker {thread}") };
    json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}})
}

fn event(span: &Span) -> Value {
    let microseconds = |time: Duration| time.as_nanos() as f64 / 1e3;
    let mut event = json!({
        "name": span.name,
        "ph": "X",
        "pid": 1,
        "tid": span.thread,
        "ts": microseconds(span.start),
        "dur": microseconds(span.time),
    });
    if span.kind == Kind::Operation {
        event["cat"] = "operation".into();
        event["args"] = json!({"flop": span.work.flop, "bytes": span.work.bytes});
    } else {
        event["cat"] = "phase".into();
    }
    event
}
