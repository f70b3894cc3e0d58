//! What `train` prints about its parameters and its result.

use lorb_engine::lora::{Adapter, Group};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::wer::{Interval, Pair, bootstrap_relative_change, percent};
use lorb_engine::rescore::tune::{ScoredList, chosen, oracle, total_errors};
use lorb_engine::rescore::weights::Weights;

/// The trained parameters, apart by what they are, and their share of the base's.
pub fn parameters(adapter: &Adapter, model: &BaseModel) -> String {
    let base = model.parameters();
    let line = |group: Group, name: &str| {
        let count = adapter.layout.count(group);
        (count > 0).then(|| format!("{name} {count} ({:.3} %)", 100.0 * count as f64 / base as f64))
    };
    let groups = [
        line(Group::Lora, "LoRA"),
        line(Group::Head, "head"),
        line(Group::Pooler, "pooler, which the base lacks,"),
    ];
    let total: usize = adapter.layout.len() - adapter.layout.count(Group::Beta);
    format!(
        "{total} of the base's {base} parameters ({:.3} %): {}",
        100.0 * total as f64 / base as f64,
        groups.into_iter().flatten().collect::<Vec<_>>().join(", ")
    )
}

/// A table of word error rates: a line for each set of lists.
pub struct Table<'a> {
    /// The weights that serve the validation lists best without g, and with it.
    pub without: &'a Weights,
    pub with: &'a Weights,
}

impl Table<'_> {
    pub fn header(&self) -> String {
        format!(
            "{:12} {:>10} {:>10} {:>10} {:>8}  change against the first pass",
            "WER", "first pass", "tuned", "with LoRB", "oracle"
        )
    }

    pub fn line(&self, name: &str, lists: &[ScoredList]) -> String {
        let [first, tuned, rescored, oracle] =
            self.wers(lists).map(|wer| format!("{:.2} %", wer.unwrap_or(0.0)));
        let change = change(lists, &chosen(lists, &Weights::default()), &chosen(lists, self.with));
        format!("{name:12} {first:>10} {tuned:>10} {rescored:>10} {oracle:>8}  {change}")
    }

    /// The columns in percent; none where nothing was said.
    pub fn wers(&self, lists: &[ScoredList]) -> [Option<f64>; 4] {
        let units = lists.iter().map(|list| list.reference_units).sum();
        let by = |weights| chosen(lists, weights);
        [by(&Weights::default()), by(self.without), by(self.with), oracle(lists)]
            .map(|chosen| percent(total_errors(lists, &chosen), units))
    }
}

/// The relative change of WER with its bootstrap interval.
fn change(lists: &[ScoredList], before: &[usize], after: &[usize]) -> String {
    const SAMPLES: usize = 10_000;
    const SEED: u64 = 1;
    let pairs: Vec<Pair> = lists
        .iter()
        .zip(before.iter().zip(after))
        .map(|(list, (&before, &after))| Pair {
            reference_units: list.reference_units,
            errors_before: list.hypotheses[before].errors,
            errors_after: list.hypotheses[after].errors,
        })
        .collect();
    match bootstrap_relative_change(&pairs, SAMPLES, SEED).and_then(|c| c.relative) {
        Some(Interval { low, point, high }) => format!("{point:+.1} % [{low:+.1}, {high:+.1}]"),
        None => "undefined".into(),
    }
}
