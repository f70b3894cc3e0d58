//! What `train` prints about its result.

use lorb_engine::nbest::wer::{percent_text, relative_text};
use lorb_engine::train::summary::{SetErrors, SetSummary};

/// A table of word error rates, a line for each set of lists under the name that comes with it.
pub fn table(rows: &[(String, &SetSummary)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).fold(12, usize::max);
    let mut table = format!(
        "{:width$} {:>10} {:>10} {:>10} {:>8}  change against the first pass",
        "WER", "first pass", "tuned", "with LoRB", "oracle"
    );
    for (name, set) in rows {
        let wer = |errors: u64| percent_text(errors as f64, set.reference_units, 2);
        let SetErrors { first_pass, tuned, rescored, oracle } = set.errors;
        let change = relative_text(set.change.and_then(|c| c.relative));
        table += &format!(
            "\n{name:width$} {:>10} {:>10} {:>10} {:>8}  {change}",
            wer(first_pass),
            wer(tuned),
            wer(rescored),
            wer(oracle),
        );
    }
    table
}
