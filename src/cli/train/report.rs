//! What `train` prints about its result.

use lorb_engine::nbest::wer::relative_text;
use lorb_engine::train::summary::{SetErrors, SetSummary};

/// The header of a table of word error rates, with a line for each set of lists.
pub fn header() -> String {
    format!(
        "{:12} {:>10} {:>10} {:>10} {:>8}  change against the first pass",
        "WER", "first pass", "tuned", "with LoRB", "oracle"
    )
}

/// A line of it.
pub fn line(set: &SetSummary) -> String {
    let wer = |errors: u64| format!("{:.2} %", 100.0 * errors as f64 / set.reference_units.max(1) as f64);
    let SetErrors { first_pass, tuned, rescored, oracle } = set.errors;
    let change = relative_text(set.change.and_then(|c| c.relative));
    format!(
        "{:12} {:>10} {:>10} {:>10} {:>8}  {change}",
        set.name,
        wer(first_pass),
        wer(tuned),
        wer(rescored),
        wer(oracle),
    )
}
