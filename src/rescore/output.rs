//! What rescoring writes of an utterance.

use serde_json::{Map, Value};

use super::weights::{Features, Weights, order, posterior};
use crate::nbest::Utterance;
use crate::nbest::fields::{BEST, CONFIDENCE, HYPS, LORB, NGRAM, ORDER, PRUNED, TOTAL};
use crate::{Error, Result};

/// What rescoring found out about one hypothesis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// g_i, this engine's score.
    pub lorb: f64,
    /// d_i, what the n-gram model of the adapter's domain gives it, where there is one; 0 where the list is strange to it.
    pub ngram: Option<f64>,
    /// s_i, the combined score that ranks the list.
    pub total: f64,
}

impl Scores {
    /// `with_ngram` says whether there is an n-gram model. All lists have its score then: some formats need of each
    /// hypothesis the scores of the first.
    pub fn new(features: &Features, weights: &Weights, with_ngram: bool) -> Scores {
        // Adding 0 makes 0 of -0.
        let ngram = with_ngram.then_some(features.ngram + 0.0);
        Scores { lorb: features.lorb, ngram, total: weights.combined(features) }
    }
}

/// The output line of a rescored utterance: every field of the input in its place; each hypothesis gains
/// "lorb", "total" and, with a domain's n-gram model, "lorb_ngram", the utterance gains "order" (indices into "hyps",
/// best first), "best" (the text of the best) and "confidence" (the posterior of the best, of the totals times
/// `confidence_scale`). Keys that are there already are replaced.
///
/// A hypothesis that was pruned, for which `scores` has `None`, has neither score, and its index is in "pruned"
/// of the utterance; without any there is no such key. In "order" they come last, by their first-pass scores.
///
/// # Errors
/// [`Error::NotFinite`] if a score is NaN or infinite, which JSON cannot hold.
///
/// # Panics
/// If there is not exactly one of `scores` for each hypothesis, or none was scored.
pub fn rescored(
    utterance: &Utterance,
    scores: &[Option<Scores>],
    confidence_scale: f64,
) -> Result<Map<String, Value>> {
    assert_eq!(utterance.hypotheses.len(), scores.len(), "scores, or none, for each hypothesis");
    for (i, scores) in scores.iter().enumerate() {
        if let Some(Scores { lorb, total, .. }) =
            scores.filter(|s| !(s.lorb.is_finite() && s.total.is_finite()))
        {
            return Err(Error::NotFinite(format!(
                "utterance {}: hyps[{i}] was scored lorb {lorb}, total {total}",
                utterance.id
            )));
        }
    }

    let hypotheses = utterance.hypotheses.iter().zip(scores).map(|(hypothesis, scores)| {
        let mut fields = hypothesis.fields.clone();
        let ngram = scores.and_then(|s| s.ngram);
        for (name, score) in
            [(LORB, scores.map(|s| s.lorb)), (NGRAM, ngram), (TOTAL, scores.map(|s| s.total))]
        {
            put(&mut fields, name, score.map(Value::from));
        }
        Value::Object(fields)
    });

    let (scored, pruned): (Vec<usize>, Vec<usize>) = (0..scores.len()).partition(|&i| scores[i].is_some());
    let totals: Vec<f64> = scores.iter().flatten().map(|s| s.total).collect();
    let first_pass: Vec<f64> = pruned.iter().map(|&i| utterance.hypotheses[i].first_pass).collect();
    let (best_first, last) = (order(&totals), order(&first_pass));
    let confidence = posterior(&totals, confidence_scale)[best_first[0]];
    let order = best_first.iter().map(|&i| scored[i]).chain(last.iter().map(|&i| pruned[i]));
    let order: Vec<usize> = order.collect();

    let mut line = utterance.fields.clone();
    line.insert(HYPS.into(), Value::Array(hypotheses.collect()));
    line.insert(BEST.into(), utterance.hypotheses[order[0]].text.as_str().into());
    line.insert(CONFIDENCE.into(), confidence.into());
    line.insert(ORDER.into(), order.into());
    put(&mut line, PRUNED, (!pruned.is_empty()).then(|| pruned.into()));
    Ok(line)
}

/// Writes `value` in its place, or takes out what is there; the other fields keep their order.
fn put(fields: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => fields.insert(name.into(), value),
        None => fields.shift_remove(name),
    };
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::nbest::{self, Fields};

    fn utterance(line: &str) -> Utterance {
        let line = serde_json::from_str(line).unwrap();
        nbest::jsonl::utterance(line, &Fields::default(), Path::new("test"), 1).unwrap()
    }

    fn rescore(line: &str, scores: &[(f64, f64)]) -> Result<String> {
        rescore_some(line, &scores.iter().copied().map(Some).collect::<Vec<_>>())
    }

    fn rescore_some(line: &str, scores: &[Option<(f64, f64)>]) -> Result<String> {
        let scores = scores.iter().map(|s| s.map(|(lorb, total)| Scores { lorb, ngram: None, total }));
        let scores: Vec<Option<Scores>> = scores.collect();
        rescored(&utterance(line), &scores, 1.0).map(|line| Value::Object(line).to_string())
    }

    const LINE: &str = r#"{"speaker":7,"id":"u","hyps":[{"text":"A","am":-1.5,"x":[1]},{"text":"B","am":-2.0}],"ref":"B","z":null}"#;
    const RESCORED: &str = r#"{"speaker":7,"id":"u","hyps":[{"text":"A","am":-1.5,"x":[1],"lorb":0.25,"total":3.0},{"text":"B","am":-2.0,"lorb":0.5,"total":3.0}],"ref":"B","z":null,"best":"A","confidence":0.5,"order":[0,1]}"#;

    #[test]
    fn nothing_is_lost_and_everything_keeps_its_place() {
        assert_eq!(rescore(LINE, &[(0.25, 3.0), (0.5, 3.0)]).unwrap(), RESCORED);
    }

    #[test]
    fn rescoring_twice_replaces_and_duplicates_nothing() {
        assert_eq!(rescore(RESCORED, &[(0.25, 3.0), (0.5, 3.0)]).unwrap(), RESCORED);
        let again = rescore(RESCORED, &[(0.0, -800.0), (1.0, 0.0)]).unwrap();
        assert!(again.ends_with(r#""best":"B","confidence":1.0,"order":[1,0]}"#), "{again}");
    }

    #[test]
    fn what_was_pruned_is_listed_and_comes_last() {
        let line = r#"{"id":"u","hyps":[{"text":"A","am":-9},{"text":"B","am":-1},{"text":"C","am":-8},{"text":"D","am":-2}]}"#;
        let pruned = rescore_some(line, &[None, Some((0.5, -3.0)), None, Some((1.5, -2.0))]).unwrap();
        assert!(
            pruned.contains(r#"{"text":"A","am":-9},{"text":"B","am":-1,"lorb":0.5,"total":-3.0}"#),
            "{pruned}"
        );
        let confidence = 1.0 / (1.0 + (-1f64).exp());
        let end = format!(r#""best":"D","confidence":{confidence},"order":[3,1,2,0],"pruned":[0,2]}}"#);
        assert!(pruned.ends_with(&end), "{pruned}");

        let scored: Vec<bool> = utterance(&pruned).hypotheses.iter().map(|h| h.lorb.is_some()).collect();
        assert_eq!(scored, [false, true, false, true]);
        // Another margin leaves no trace of this one.
        let again = rescore_some(&pruned, &[None, None, None, Some((1.5, -2.0))]).unwrap();
        assert!(again.ends_with(r#""confidence":1.0,"order":[3,1,2,0],"pruned":[0,1,2]}"#), "{again}");
        assert_eq!(again.matches("lorb").count(), 1);
        let all = [(1.0, 1.0), (1.0, 2.0), (1.0, 3.0), (1.0, 4.0)];
        assert_eq!(rescore(&again, &all).unwrap(), rescore(line, &all).unwrap());
    }

    #[test]
    fn a_score_that_json_cannot_hold_is_refused() {
        let error = rescore(LINE, &[(0.0, 0.0), (f64::NAN, 0.0)]).unwrap_err();
        assert!(matches!(&error, Error::NotFinite(m) if m.contains("hyps[1]")), "{error}");
        assert!(rescore(LINE, &[(0.0, f64::INFINITY), (0.0, 0.0)]).is_err());
    }
}
