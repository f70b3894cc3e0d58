//! The combined score, its weights, and the file that keeps them beside an adapter.

use std::cmp::Ordering;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ngram::Familiarity;
use crate::nbest::normalise::{NormaliseOptions, Unit};
use crate::nbest::{Fields, Hypothesis};
use crate::{Error, Result, atomic};

/// What each score counts in the combined score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// w_a, of the first pass's log-score.
    pub first_pass: f64,
    /// w_l, of the given language model's score.
    pub lm: f64,
    /// beta, of this engine's score.
    pub lorb: f64,
    /// w_n, of each word.
    pub words: f64,
    /// w_d, of the domain's n-gram model; 0 in files without.
    #[serde(default)]
    pub ngram: f64,
}

impl Default for Weights {
    /// The first pass alone.
    fn default() -> Self {
        Weights { first_pass: 1.0, lm: 0.0, lorb: 0.0, words: 0.0, ngram: 0.0 }
    }
}

/// The scores of one hypothesis, all finite, or what each counts in the combined score.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Features {
    /// a_i.
    pub first_pass: f64,
    /// l_i; 0 in lists without.
    pub lm: f64,
    /// g_i.
    pub lorb: f64,
    /// n_i, how many words it has (characters, where these are the unit).
    pub words: f64,
    /// d_i, how much likelier than usual the domain's n-gram model finds it
    /// ([`Familiarity::scores`](super::ngram::Familiarity::scores)); 0 without one.
    pub ngram: f64,
}

impl Features {
    pub fn new(hypothesis: &Hypothesis, lorb: f64, words: usize, ngram: f64) -> Self {
        Features {
            first_pass: hypothesis.first_pass,
            lm: hypothesis.lm.unwrap_or(0.0),
            lorb,
            words: words as f64,
            ngram,
        }
    }
}

impl Weights {
    /// s_i = w_a a_i + w_l l_i + w_n n_i + w_d d_i + beta g_i.
    pub fn combined(&self, features: &Features) -> f64 {
        let Features { first_pass, lm, lorb, words, ngram } = self.parts(features);
        first_pass + lm + words + ngram + lorb
    }

    /// What each score counts in the combined score: w_a a_i, w_l l_i, beta g_i, w_n n_i and w_d d_i.
    pub fn parts(&self, features: &Features) -> Features {
        Features {
            first_pass: self.first_pass * features.first_pass,
            lm: self.lm * features.lm,
            lorb: self.lorb * features.lorb,
            words: self.words * features.words,
            ngram: self.ngram * features.ngram,
        }
    }
}

/// As people read them, to four digits.
impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Weights { first_pass, lm, lorb, words, ngram } = self;
        let named =
            [("first pass", first_pass), ("lm", lm), ("n-gram", ngram), ("lorb", lorb), ("words", words)];
        let text = named.map(|(name, weight)| format!("{name} {}", four_digits(*weight)));
        f.write_str(&text.join(", "))
    }
}

/// `value` to four significant digits, without zeros at the end.
fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// P_i = exp(c s_i) / sum_j exp(c s_j), for finite s and c > 0.
pub fn posterior(scores: &[f64], scale: f64) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // The difference first: it is finite or minus infinity, where c s may overflow on both sides.
    let mut posterior: Vec<f64> = scores.iter().map(|s| (scale * (s - max)).exp()).collect();
    let sum: f64 = posterior.iter().sum();
    posterior.iter_mut().for_each(|p| *p /= sum);
    posterior
}

/// The indices of `scores`, best (highest) first; of equal ones the lower index first, NaN last.
pub fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&i, &j| best_first(scores[i], scores[j]));
    order
}

/// A total order, unlike that of floats: NaN after all else. Unlike `f64::total_cmp`, 0 and -0 are equal.
fn best_first(a: f64, b: f64) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Everything that rescoring must do as tuning did, saved as `rescoring.json` beside the adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RescoringFile {
    pub weights: Weights,
    /// What the combined scores are multiplied by in the posterior, and so in the confidence; it changes no
    /// order.
    pub confidence_scale: f64,
    /// The names of the scores in the lists that the weights were tuned on.
    pub fields: Fields,
    pub normalise: NormaliseOptions,
    pub unit: Unit,
    /// What the n-gram model beside it gives lists of its domain; without it no such model counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ngram: Option<Familiarity>,
    /// What the weights were tuned on; empty where they were given by hand.
    pub tuned_on: Vec<TunedOn>,
}

/// A list that weights were tuned on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedOn {
    pub list: String,
    pub utterances: u64,
}

impl RescoringFile {
    pub const NAME: &'static str = "rescoring.json";

    /// The fields to read for these weights: a language model that counts must be there.
    pub fn required_fields(&self) -> Fields {
        Fields { lm_required: self.fields.lm_required || self.weights.lm != 0.0, ..self.fields.clone() }
    }

    /// Writes it into the directory of an adapter, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).expect("weights are plain data");
        text.push('\n');
        atomic::write(directory.join(Self::NAME), text.as_bytes())
    }

    /// Reads it from the directory of an adapter; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::File`] if it is not what [`save`](Self::save) writes.
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(Self::NAME);
        let refuse = |problem: String| Err(Error::file(&path, problem, "mend it or tune the weights again"));
        let Some(bytes) = atomic::read(&path)? else { return Ok(None) };
        let file: Self = match serde_json::from_slice(&bytes) {
            Ok(file) => file,
            Err(e) => return refuse(e.to_string()),
        };
        let scale = file.confidence_scale;
        if !(scale > 0.0 && scale.is_finite()) {
            return refuse(format!("confidence_scale is {scale}: expected a number above 0"));
        }
        Ok(Some(file))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_combination_is_the_weighted_sum() {
        let weights = Weights { first_pass: 1.0, lm: 0.5, lorb: 2.0, words: -0.25, ngram: 0.5 };
        let features = Features { first_pass: -3.0, lm: -8.0, lorb: 1.5, words: 4.0, ngram: -2.0 };
        assert_eq!(weights.combined(&features), -3.0 - 4.0 + 3.0 - 1.0 - 1.0);
        let parts = Features { first_pass: -3.0, lm: -4.0, lorb: 3.0, words: -1.0, ngram: -1.0 };
        assert_eq!(weights.parts(&features), parts);
    }

    #[test]
    fn posteriors_sum_to_one_at_any_scale() {
        for offset in [0.0, -1e4, 1e300] {
            let p = posterior(&[offset, offset, offset], 1.0);
            assert!(p.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-15), "{p:?}");
        }
        let p = posterior(&[0.0, 4f64.ln()], 0.5);
        assert!((p[0] - 1.0 / 3.0).abs() < 1e-15 && (p[1] - 2.0 / 3.0).abs() < 1e-15, "{p:?}");
        assert_eq!(posterior(&[f64::MAX, -f64::MAX], 1e3), [1.0, 0.0]);
        assert!(posterior(&[], 1.0).is_empty());
    }

    #[test]
    fn order_is_best_first_and_total() {
        assert_eq!(order(&[1.0, 3.0, 2.0]), [1, 2, 0]);
        assert_eq!(order(&[-0.0, 0.0, 1.0, 1.0]), [2, 3, 0, 1]);
        assert_eq!(order(&[f64::NAN, f64::NEG_INFINITY, f64::NAN, 1.0]), [3, 1, 0, 2]);
        assert!(order(&[]).is_empty());
    }

    fn file() -> RescoringFile {
        RescoringFile {
            weights: Weights { lm: 0.1 + 0.2, lorb: 1e-17, ..Weights::default() },
            confidence_scale: 0.3,
            fields: Fields::default(),
            normalise: NormaliseOptions::default(),
            unit: Unit::Word,
            ngram: Some(Familiarity { mean: -3.0, strange: -8.0, usual: -2.5 }),
            tuned_on: vec![TunedOn { list: "dev.jsonl.gz".into(), utterances: 3 }],
        }
    }

    #[test]
    fn the_file_reads_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        file().save(dir.path()).unwrap();
        assert_eq!(RescoringFile::load(dir.path()).unwrap(), Some(file()));
        assert!(file().required_fields().lm_required);
    }

    #[test]
    fn a_missing_file_is_none_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RescoringFile::load(dir.path()).unwrap(), None);
        let refusal = |text: &str| {
            fs::write(dir.path().join(RescoringFile::NAME), text).unwrap();
            let error = RescoringFile::load(dir.path()).unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{error}");
            error.to_string()
        };
        let whole = serde_json::to_string(&file()).unwrap();
        assert!(refusal("{\"weights\": {\"am\": 1}}").contains("am"));
        assert!(refusal(&whole.replace("0.3,\"fields", "0,\"fields")).contains("confidence_scale is 0"));
    }

    #[test]
    fn weights_are_shown_to_four_digits() {
        let weights = Weights { lm: 0.123456, lorb: 12345.678, words: -0.5, ..Weights::default() };
        assert_eq!(weights.to_string(), "first pass 1, lm 0.1235, n-gram 0, lorb 12350, words -0.5");
    }
}
