//! What an evaluation found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use lorb_engine::nbest::normalise::Unit;
use lorb_engine::nbest::wer::{Change, Interval, Wer};
use lorb_engine::nbest::word_errors::Errors;
use lorb_engine::rescore::evaluation::{System, Tally};
use lorb_engine::rescore::weights::Weights;
use serde::Serialize;

#[derive(Serialize)]
pub struct Report {
    pub unit: Unit,
    pub weights: Option<Weights>,
    pub weights_from: Option<String>,
    pub weights_without_lorb: Option<Weights>,
    pub confidence_scale: Option<f64>,
    pub saved_to: Option<PathBuf>,
    pub files: Vec<FileReport>,
    /// Where there are several files.
    pub all: Option<FileReport>,
}

#[derive(Serialize)]
pub struct FileReport {
    file: String,
    utterances: usize,
    hypotheses: u64,
    reference_units: u64,
    systems: BTreeMap<System, SystemReport>,
    changes: Vec<ChangeReport>,
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
    pub fn new(file: String, tally: &Tally) -> FileReport {
        let totals = tally.totals();
        let system = |wer: &Wer| SystemReport { wer: wer.percent(), errors: wer.errors };
        let change = |(from, to)| {
            let change = tally.change(from, to)?;
            let Interval { low, high, .. } = change.absolute;
            Some(ChangeReport { from, to, change, excludes_zero: low > 0.0 || high < 0.0 })
        };
        use System::*;
        let compared = match totals.contains_key(&Rescored) {
            true => vec![(FirstPass, Rescored), (TunedWithoutLorb, Rescored)],
            false => vec![(FirstPass, TunedWithoutLorb)],
        };
        FileReport {
            file,
            utterances: tally.utterances(),
            hypotheses: tally.hypotheses,
            reference_units: totals.get(&Oracle).map_or(0, |wer| wer.reference_units),
            systems: totals.iter().map(|(&s, wer)| (s, system(wer))).collect(),
            changes: compared.into_iter().filter_map(change).collect(),
        }
    }

    fn write(&self, unit: Unit, text: &mut String) -> std::fmt::Result {
        let (units, rate) = match unit {
            Unit::Word => ("words", "WER"),
            Unit::Char => ("characters", "CER"),
        };
        let FileReport { file, utterances, hypotheses, reference_units, .. } = self;
        writeln!(
            text,
            "\n{file}: {utterances} utterances, {hypotheses} hypotheses, {reference_units} reference {units}"
        )?;
        writeln!(text, "  {:18} {rate:>9} {:>8} {:>8} {:>8}", "", "sub", "del", "ins")?;
        for (&system, SystemReport { wer, errors }) in &self.systems {
            let wer = wer.map_or("-".into(), |wer| format!("{wer:.2} %"));
            let Errors { substitutions, deletions, insertions } = errors;
            let name = name(system);
            writeln!(text, "  {name:18} {wer:>9} {substitutions:8} {deletions:8} {insertions:8}")?;
        }
        for ChangeReport { from, to, change, excludes_zero } in &self.changes {
            let relative = match change.relative {
                Some(Interval { low, point, high }) => format!("{point:+.1} % [{low:+.1}, {high:+.1}]"),
                None => "undefined".into(),
            };
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
        Ok(())
    }
}

fn name(system: System) -> &'static str {
    match system {
        System::FirstPass => "first pass",
        System::TunedWithoutLorb => "tuned without lorb",
        System::Rescored => "rescored",
        System::Oracle => "oracle",
    }
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
        match (&self.weights, &self.weights_from) {
            (Some(weights), Some(source)) => writeln!(text, "weights: {weights} ({source})")?,
            (None, Some(source)) => writeln!(text, "rescored: by {source}")?,
            (_, None) => {}
        }
        if let Some(scale) = self.confidence_scale {
            writeln!(text, "confidence: the posterior of the scores times {scale:.3}")?;
        }
        if let Some(weights) = &self.weights_without_lorb {
            writeln!(text, "without lorb: {weights}")?;
        }
        if let Some(path) = &self.saved_to {
            writeln!(text, "saved to {}", path.display())?;
        }
        for file in self.files.iter().chain(&self.all) {
            file.write(self.unit, text)?;
        }
        if self.files.iter().any(|f| !f.changes.is_empty()) {
            text.push_str(
                "\nIn brackets: 95 % intervals of a paired bootstrap over utterances, 10,000 samples.\n",
            );
        }
        Ok(())
    }
}
