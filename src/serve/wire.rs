//! Requests and answers as JSON; openapi.json says the same to everybody else.

use std::fmt::{self, Formatter};

use axum::http::StatusCode;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::config::Limits;
use super::problem::Problem;
use crate::rescore::weights::Weights;

/// Some utterances; what they do not say themselves holds for all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub utterances: Vec<AskedUtterance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Reweighting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedUtterance {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub hyps: Vec<AskedHypothesis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Reweighting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedHypothesis {
    pub text: String,
    /// The first pass's log-score.
    pub am: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lm: Option<f64>,
}

/// Weights in place of the adapter's own, one by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reweighting {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_pass: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lorb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ngram: Option<f64>,
}

impl Reweighting {
    pub(super) fn over(self, weights: Weights) -> Weights {
        Weights {
            first_pass: self.first_pass.unwrap_or(weights.first_pass),
            lm: self.lm.unwrap_or(weights.lm),
            lorb: self.lorb.unwrap_or(weights.lorb),
            words: self.words.unwrap_or(weights.words),
            ngram: self.ngram.unwrap_or(weights.ngram),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// In the order of the request.
    pub utterances: Vec<AnsweredUtterance>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnsweredUtterance {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// In the order of the request.
    pub hyps: Vec<AnsweredHypothesis>,
    /// Indices of the hypotheses, best first.
    pub order: Vec<usize>,
    /// The text of the best.
    pub best: String,
    /// The posterior of the best.
    pub confidence: f64,
    /// Those that were used.
    pub weights: Weights,
    /// What the totals were multiplied by for the confidence.
    pub confidence_scale: f64,
    /// What lists call the scores that `am` and `lm` stand for, as the adapter was trained.
    pub fields: AnsweredFields,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnsweredFields {
    pub am: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lm: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnsweredHypothesis {
    /// This engine's score.
    pub lorb: f64,
    /// What the adapter's n-gram model gives it, where it has one; 0 where the list is strange to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ngram: Option<f64>,
    /// The combined score.
    pub total: f64,
    /// Where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

/// What the total is the sum of, and what it was computed from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parts {
    pub first_pass: f64,
    pub lm: f64,
    pub lorb: f64,
    pub words: f64,
    pub ngram: f64,
    pub word_count: usize,
    pub tokens: usize,
    /// Whether tokens were left out at the end.
    pub cut: bool,
    /// Whether the score was known already.
    pub cached: bool,
}

/// A request, and how its fields are called.
pub(super) struct Parsed {
    pub ask: Ask,
    /// The body is one utterance: its fields have no "utterances[0]" before them.
    alone: bool,
}

impl Parsed {
    /// What stands before the fields of an utterance.
    pub fn path(&self, utterance: usize) -> String {
        if self.alone { String::new() } else { format!("utterances[{utterance}].") }
    }
}

/// A request out of the bytes of its body: `{"utterances": […], …}`, or one utterance alone.
pub(super) fn parse(body: &[u8], limits: &Limits) -> Result<Parsed, Problem> {
    let alone = is_alone(body)?;
    let ask = if alone { Ask { utterances: vec![read(body)?], ..Ask::default() } } else { read(body)? };
    let parsed = Parsed { ask, alone };
    let within = |field: String, found: usize, most: usize| match found {
        0 => Err(Problem::field(field, "it is empty")),
        _ if found > most => {
            Err(Problem::too_large(Some(field), format!("there are {found}, and {most} are the most")))
        }
        _ => Ok(()),
    };
    within("utterances".into(), parsed.ask.utterances.len(), limits.utterances)?;
    for (i, utterance) in parsed.ask.utterances.iter().enumerate() {
        let at = |field: &str| parsed.path(i) + field;
        within(at("hyps"), utterance.hyps.len(), limits.hypotheses)?;
        if let Some(without) = utterance.hyps.iter().position(|h| h.lm.is_none())
            && utterance.hyps.iter().any(|h| h.lm.is_some())
        {
            let problem = "some hypotheses of the list have it, and this one does not";
            return Err(Problem::field(at(&format!("hyps[{without}].lm")), problem));
        }
    }
    Ok(parsed)
}

/// Whether the body is one utterance alone, by its keys, which come in any order. It is not kept as a [`serde_json::Value`],
/// which takes up to 60 times its bytes.
fn is_alone(body: &[u8]) -> Result<bool, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    match json.deserialize_map(Alone).and_then(|alone| json.end().map(|()| alone)) {
        // No object: reading it says what is wrong.
        Err(e) if e.is_data() => Ok(false),
        found => found.map_err(|e| not_json(&e)),
    }
}

/// Looks at the keys of an object, and past everything else.
struct Alone;

impl<'de> Visitor<'de> for Alone {
    type Value = bool;

    fn expecting(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let (mut hyps, mut utterances) = (false, false);
        while let Some(key) = map.next_key::<String>()? {
            hyps |= key == "hyps";
            utterances |= key == "utterances";
            map.next_value::<IgnoredAny>()?;
        }
        Ok(hyps && !utterances)
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let (field, e) = (e.path().to_string(), e.inner());
        if !e.is_data() {
            return not_json(e);
        }
        let field = if field == "." { "(the body)".into() } else { field };
        let (message, place) = (e.to_string(), format!(" at line {} column {}", e.line(), e.column()));
        Problem::field(field, message.strip_suffix(&place).unwrap_or(&message))
    })?;
    json.end().map_err(|e| not_json(&e))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "not_json", format!("not JSON: {error}"))
}
