//! What an evaluation found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use crate::nbest::normalise::Unit;
use crate::nbest::wer::{Change, Interval, Wer, relative_text};
use crate::nbest::word_errors::{Alignment, Errors};
use crate::rescore::domains::DomainHead;
use crate::rescore::judge::{System, Tally};
use crate::rescore::prune::{Cost, Costs};
use crate::rescore::weights::Weights;
use serde::Serialize;

use super::prune::{Pruning, TunedWer};

#[derive(Serialize)]
pub struct Report {
    pub unit: Unit,
    pub alignment: Alignment,
    /// Empty where `domains` say it.
    #[serde(flatten)]
    pub weighing: Weighing,
    pub pruning: Option<Pruning>,
    pub files: Vec<FileReport>,
    /// Where there are several files.
    pub all: Option<FileReport>,
    /// Of all files, where there are adapters for domains.
    pub domains: Vec<DomainReport>,
    /// Why its numbers may not be what they seem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How scores were weighed, and who says so.
#[derive(Default, Serialize)]
pub struct Weighing {
    pub weights: Option<Weights>,
    pub weights_from: Option<String>,
    pub weights_without_lorb: Option<Weights>,
    pub confidence_scale: Option<f64>,
    pub saved_to: Option<PathBuf>,
}

#[derive(Serialize)]
pub struct FileReport {
    file: String,
    #[serde(flatten)]
    counts: Counts,
}

/// The utterances of an adapter.
#[derive(Serialize)]
pub struct DomainReport {
    /// `None` for those of all domains without an adapter of their own.
    domain: Option<String>,
    adapter: String,
    #[serde(flatten)]
    weighing: Weighing,
    #[serde(flatten)]
    counts: Counts,
    #[serde(skip)]
    title: String,
}

/// What was counted.
#[derive(Serialize)]
struct Counts {
    utterances: usize,
    hypotheses: u64,
    reference_units: u64,
    systems: BTreeMap<System, SystemReport>,
    changes: Vec<ChangeReport>,
    pruning: Option<PruningReport>,
}

/// What pruning saved.
#[derive(Serialize)]
struct PruningReport {
    #[serde(flatten)]
    costs: Costs,
    /// The share that was not computed.
    tokens_saved: f64,
    /// Seconds without pruning over seconds with it.
    speedup: f64,
}

#[derive(Serialize)]
struct SystemReport {
    /// In percent; none where nothing was said.
    wer: Option<f64>,
    #[serde(flatten)]
    errors: Errors,
}

#[derive(Serialize)]
struct ChangeReport {
    from: System,
    to: System,
    #[serde(flatten)]
    change: Change,
    /// Whether the interval of the absolute change lies on one side of 0.
    excludes_zero: bool,
}

impl FileReport {
    pub fn new(file: String, tally: &Tally, costs: Option<Costs>) -> FileReport {
        FileReport { file, counts: Counts::new(tally, costs) }
    }
}

impl DomainReport {
    pub fn new(head: &DomainHead, weighing: Weighing, tally: &Tally) -> DomainReport {
        let (domain, adapter) = (head.domain.clone(), head.name.clone());
        DomainReport { domain, adapter, weighing, counts: Counts::new(tally, None), title: head.title() }
    }
}

impl Counts {
    fn new(tally: &Tally, costs: Option<Costs>) -> Counts {
        let totals = tally.totals();
        let system = |wer: &Wer| SystemReport { wer: wer.percent(), errors: wer.errors };
        let change = |(from, to)| {
            let change = tally.change(from, to)?;
            let Interval { low, high, .. } = change.absolute;
            Some(ChangeReport { from, to, change, excludes_zero: low > 0.0 || high < 0.0 })
        };
        use System::*;
        let compared = match totals.contains_key(&Rescored) {
            true => vec![(FirstPass, Rescored), (TunedWithoutLorb, Rescored), (Rescored, Pruned)],
            false => vec![(FirstPass, TunedWithoutLorb)],
        };
        Counts {
            utterances: tally.utterances(),
            hypotheses: tally.hypotheses,
            reference_units: totals.get(&Oracle).map_or(0, |wer| wer.reference_units),
            systems: totals.iter().map(|(&s, wer)| (s, system(wer))).collect(),
            changes: compared.into_iter().filter_map(change).collect(),
            pruning: costs.map(PruningReport::new),
        }
    }

    fn write(&self, title: &str, unit: Unit, text: &mut String) -> std::fmt::Result {
        let (units, rate) = match unit {
            Unit::Word => ("words", "WER"),
            Unit::Char => ("characters", "CER"),
        };
        let Counts { utterances, hypotheses, reference_units, .. } = self;
        writeln!(
            text,
            "\n{title}: {utterances} utterances, {hypotheses} hypotheses, {reference_units} reference {units}"
        )?;
        if self.systems.is_empty() {
            return Ok(());
        }
        writeln!(text, "  {:18} {rate:>9} {:>8} {:>8} {:>8}", "", "sub", "del", "ins")?;
        for (&system, SystemReport { wer, errors }) in &self.systems {
            let wer = wer.map_or("-".into(), |wer| format!("{wer:.2} %"));
            let Errors { substitutions, deletions, insertions } = errors;
            let name = name(system);
            writeln!(text, "  {name:18} {wer:>9} {substitutions:8} {deletions:8} {insertions:8}")?;
        }
        for ChangeReport { from, to, change, excludes_zero } in &self.changes {
            let relative = relative_text(change.relative);
            let Interval { low, point, high } = change.absolute;
            let verdict = if *excludes_zero { "excludes" } else { "contains" };
            writeln!(
                text,
                "  {} against {}: relative {relative}, absolute {point:+.2} [{low:+.2}, {high:+.2}] points; \
                 the interval {verdict} 0",
                name(*to),
                name(*from)
            )?;
        }
        self.pruning.iter().try_for_each(|pruning| pruning.write(text))
    }
}

impl Weighing {
    fn lines(&self) -> Vec<String> {
        let weights = match (&self.weights, &self.weights_from) {
            (Some(weights), Some(source)) => Some(format!("weights: {weights} ({source})")),
            (None, Some(source)) => Some(format!("rescored: by {source}")),
            (_, None) => None,
        };
        let confidence = |scale| format!("confidence: the posterior of the scores times {scale:.3}");
        let saved = |path: &PathBuf| format!("saved to {}", path.display());
        [
            weights,
            self.confidence_scale.map(confidence),
            self.weights_without_lorb.map(|weights| format!("without lorb: {weights}")),
            self.saved_to.as_ref().map(saved),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl PruningReport {
    fn new(costs: Costs) -> PruningReport {
        let Costs { all, kept } = costs;
        PruningReport {
            costs,
            tokens_saved: 1.0 - kept.tokens as f64 / all.tokens as f64,
            speedup: all.seconds / kept.seconds,
        }
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let PruningReport { costs: Costs { all, kept }, tokens_saved, speedup } = self;
        let cost = |c: &Cost| format!("{} hypotheses, {} tokens, {:.2} s", c.hypotheses, c.tokens, c.seconds);
        writeln!(
            text,
            "  pruning: {} instead of {}: {:.1} % of the tokens not computed, {speedup:.2} times as fast",
            cost(kept),
            cost(all),
            100.0 * tokens_saved
        )
    }
}

/// As people read it.
fn name(system: System) -> String {
    system.name().replace('_', " ")
}

impl Report {
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report is plain data");
        text.push('\n');
        text
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes everything");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        for line in self.weighing.lines() {
            writeln!(text, "{line}")?;
        }
        for DomainReport { title, adapter, weighing, .. } in &self.domains {
            writeln!(text, "{title}: {adapter}")?;
            for line in weighing.lines() {
                writeln!(text, "  {line}")?;
            }
        }
        if let Some(Pruning { margin, auto, tuned }) = &self.pruning {
            write!(text, "margin: {}", margin.value())?;
            if *auto {
                text.push_str(", the smallest that costs next to nothing on the tuning lists");
            }
            match tuned {
                Some(TunedWer { unpruned, pruned }) => {
                    writeln!(text, " (tuning lists: {pruned:.3} % with it, {unpruned:.3} % without)")?;
                }
                None => text.push('\n'),
            }
        }
        if self.alignment == Alignment::Sclite {
            text.push_str("errors: on sclite's alignment\n");
        }
        for FileReport { file, counts } in self.files.iter().chain(&self.all) {
            counts.write(file, self.unit, text)?;
        }
        for DomainReport { title, counts, .. } in &self.domains {
            counts.write(title, self.unit, text)?;
        }
        if self.files.iter().any(|f| !f.counts.changes.is_empty()) {
            text.push_str(
                "\nIn brackets: 95 % intervals of a paired bootstrap over utterances, 10,000 samples.\n",
            );
        }
        Ok(())
    }
}
