use std::collections::BTreeMap;
use std::path::Path;

use lorb_engine::Result;
use lorb_engine::nbest::normalise::{Normaliser, units};
use lorb_engine::nbest::word_errors::Alignment;
use lorb_engine::nbest::{ListReader, Utterance};
use lorb_engine::rescore::judge::{Choice, Judge, System, Tally};
use lorb_engine::rescore::tune::ScoredList;
use lorb_engine::rescore::weights::Weights;
use serde_json::{Map, Value, json};

use super::super::Lists;

/// A file of lists.
pub fn describe(path: &Path, lists: &Lists) -> Result<Map<String, Value>> {
    let options = lists.options();
    let (fields, normalise, unit) = options.over(None);
    let normaliser = &Normaliser::new(&normalise)?;
    let systems = vec![
        (System::FirstPass, Choice::Combined(Weights::default())),
        (System::Oracle, Choice::FewestErrors),
    ];
    let alignment = Alignment::default();
    let judge = Judge { normaliser, unit, alignment, systems };
    let mut reader = ListReader::open_as(Some(path), &fields, &options.reading)?;
    let mut tally = Tally::default();
    let (mut hypotheses, mut lengths) = (Counts::default(), Counts::default());
    let mut scores = BTreeMap::new();
    for utterance in reader.by_ref() {
        let utterance = utterance?;
        hypotheses.add(utterance.hypotheses.len());
        for hypothesis in &utterance.hypotheses {
            lengths.add(units(&normaliser.normalise(&hypothesis.text), unit).len());
        }
        add_scores(&utterance, &mut scores);
        if let Some(list) = ScoredList::new(&utterance, None, normaliser, unit) {
            // These two choices need nothing that an utterance may lack.
            judge.add(&utterance, &list, &mut tally).ok();
        }
    }
    if reader.utterances_read() == 0 {
        return Err(reader.no_utterances());
    }
    let totals = tally.totals();
    let wer = |system| totals.get(&system).and_then(|wer| wer.percent());
    let reference_units = totals.get(&System::Oracle).map(|wer| wer.reference_units);
    Ok(super::object(json!({
        "kind": "lists",
        "path": path,
        "utterances": reader.utterances_read(),
        "with_reference": tally.utterances(),
        "unit": unit,
        "reference_units": reference_units,
        "hypotheses": hypotheses.describe(),
        "units_per_hypothesis": lengths.describe(),
        "scores": scores.into_iter().map(|(name, range)| (name, range.describe())).collect::<Map<_, _>>(),
        "first_pass_field": fields.first_pass,
        "first_pass_wer": wer(System::FirstPass),
        "oracle_wer": wer(System::Oracle),
    })))
}

fn add_scores(utterance: &Utterance, scores: &mut BTreeMap<String, Range>) {
    for (name, value) in utterance.hypotheses.iter().flat_map(|h| &h.fields) {
        if let Some(value) = value.as_f64() {
            scores.entry(name.clone()).or_insert(Range::EMPTY).add(value);
        }
    }
}

/// How often a score was there, and between what.
struct Range {
    count: u64,
    least: f64,
    greatest: f64,
}

impl Range {
    const EMPTY: Range = Range { count: 0, least: f64::INFINITY, greatest: f64::NEG_INFINITY };

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    fn describe(&self) -> Value {
        json!({"hypotheses": self.count, "least": self.least, "greatest": self.greatest})
    }
}

/// How often each size occurred: enough for a median, in memory that does not grow with the file.
#[derive(Default)]
struct Counts(BTreeMap<usize, u64>);

impl Counts {
    fn add(&mut self, size: usize) {
        *self.0.entry(size).or_default() += 1;
    }

    fn describe(&self) -> Value {
        let half = self.0.values().sum::<u64>().div_ceil(2);
        let total: u64 = self.0.iter().map(|(&size, count)| size as u64 * count).sum();
        let mut below = 0;
        let median = self.0.iter().find(|(_, count)| {
            below += **count;
            below >= half
        });
        json!({
            "total": total,
            "least": self.0.keys().next(),
            "median": median.map(|(size, _)| size),
            "greatest": self.0.keys().last(),
        })
    }
}
