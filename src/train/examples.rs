//! Lists made ready for training: token ids and error counts of every hypothesis.

use std::path::PathBuf;

use rayon::prelude::*;

use crate::bert::Tokenizer;
use crate::nbest::normalise::{Normaliser, Unit};
use crate::nbest::{Fields, ListReader, Reading, Utterance};
use crate::rescore::tune::{ScoredList, sharpness};
use crate::rescore::weights::Weights;
use crate::{Error, Result};

/// An utterance with everything that training needs of it.
#[derive(Debug, Clone)]
pub struct Example {
    pub id: String,
    /// Scores and errors of the hypotheses; g is 0 until a model gave it.
    pub list: ScoredList,
    /// Token ids of each hypothesis.
    pub tokens: Vec<Vec<u32>>,
    /// Hypotheses cut at the model's limit.
    pub cut: usize,
    /// For people.
    pub texts: Texts,
}

/// What an utterance's token ids stand for, normalised.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    pub reference: String,
    pub hypotheses: Vec<String>,
}

impl Texts {
    /// The bytes of the longest.
    pub fn longest(&self) -> usize {
        self.hypotheses.iter().map(String::len).fold(self.reference.len(), usize::max)
    }
}

impl Example {
    /// Whether some hypothesis is worse than another: without that, the MWER loss is constant.
    pub fn teaches(&self) -> bool {
        let first = self.list.hypotheses.first().map(|h| h.errors);
        self.list.hypotheses.iter().any(|h| Some(h.errors) != first)
    }
}

/// How text becomes examples.
pub struct Preparation<'a> {
    pub fields: &'a Fields,
    pub reading: &'a Reading,
    pub normaliser: &'a Normaliser,
    pub unit: Unit,
    pub tokenizer: &'a Tokenizer,
    /// The longest sequence of the model, in tokens.
    pub max_tokens: usize,
}

impl Preparation<'_> {
    /// Reads lists whole.
    ///
    /// # Errors
    /// [`Error::List`] at the first bad line or missing reference, and for a file without utterances.
    pub fn read(&self, paths: &[PathBuf]) -> Result<Vec<Example>> {
        let of = |path: &PathBuf| self.read_list(ListReader::open_as(Some(path), self.fields, self.reading)?);
        Ok(paths.iter().map(of).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Reads one list whole.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_list(&self, mut reader: ListReader) -> Result<Vec<Example>> {
        let mut utterances = Vec::new();
        while let Some(utterance) = reader.next() {
            let utterance = utterance?;
            if utterance.reference.is_none() {
                return Err(Error::List {
                    path: reader.path().to_path_buf(),
                    line: reader.line_number(),
                    problem: format!("utterance {} has no reference (\"ref\")", utterance.id),
                    hint: "training needs to know what was said".into(),
                });
            }
            utterances.push(utterance);
        }
        if reader.utterances_read() == 0 {
            return Err(reader.no_utterances());
        }
        utterances.into_par_iter().map(|u| self.example(&u)).collect()
    }

    fn example(&self, utterance: &Utterance) -> Result<Example> {
        let normalise = |text: &str| self.normaliser.normalise(text);
        let hypotheses: Vec<String> = utterance.hypotheses.iter().map(|h| normalise(&h.text)).collect();
        let encode = |text: &String| self.tokenizer.encode(text, self.max_tokens);
        let encoded = hypotheses.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let list = ScoredList::new(utterance, None, self.normaliser, self.unit)
            .ok_or_else(|| Error::Usage(format!("utterance {} has no reference", utterance.id)))?;
        Ok(Example {
            id: utterance.id.clone(),
            list,
            cut: encoded.iter().filter(|e| e.truncated).count(),
            tokens: encoded.into_iter().map(|e| e.ids).collect(),
            texts: Texts {
                reference: utterance.reference.as_deref().map(normalise).unwrap_or_default(),
                hypotheses,
            },
        })
    }
}

/// Parts examples, of which there are two at least, into two by a seeded draw of utterances: `fraction` of them go
/// right, but at least one on each side.
pub fn split(examples: Vec<Example>, fraction: f64, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    super::sampling::shuffle(&mut order, &mut super::sampling::random(seed, u64::MAX));
    let count = ((examples.len() as f64 * fraction).round() as usize).clamp(1, examples.len() - 1);
    let mut right = vec![false; examples.len()];
    order.iter().take(count).for_each(|&i| right[i] = true);
    let (right, left): (Vec<_>, Vec<_>) = examples.into_iter().zip(right).partition(|(_, r)| *r);
    let strip = |part: Vec<(Example, bool)>| part.into_iter().map(|(e, _)| e).collect();
    (strip(left), strip(right))
}

/// The lists of examples, for tuning.
pub fn lists(examples: &[Example]) -> Vec<ScoredList> {
    examples.iter().map(|e| e.list.clone()).collect()
}

/// The w_a of the loss at which softmax(w_a (a + lm_weight l)) is as sure on average as
/// [`CONFIDENCE`](crate::rescore::tune::CONFIDENCE) says.
pub fn first_pass_weight(examples: &[Example], lm_weight: f64) -> f64 {
    sharpness(&lists(examples), &Weights { lm: lm_weight, ..Weights::default() })
}

/// The lists of `examples` with the scores g of their hypotheses, in order.
pub fn with_scores(examples: &[Example], scores: &[f32]) -> Vec<ScoredList> {
    let mut scores = scores.iter();
    let mut lists = lists(examples);
    for hypothesis in lists.iter_mut().flat_map(|l| &mut l.hypotheses) {
        hypothesis.features.lorb = scores.next().map_or(0.0, |&g| f64::from(g));
    }
    lists
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rescore::tune::ScoredHypothesis;
    use crate::rescore::weights::Features;

    impl Example {
        /// Without texts, of a reference of so many words and hypotheses with these errors, of a token each.
        pub(in crate::train) fn of(reference_units: u64, hypotheses: &[(Features, u64)]) -> Example {
            let scored =
                |&(features, errors): &(Features, u64)| ScoredHypothesis { features, errors, pruned: false };
            Example {
                id: String::new(),
                list: ScoredList { hypotheses: hypotheses.iter().map(scored).collect(), reference_units },
                tokens: vec![vec![0]; hypotheses.len()],
                cut: 0,
                texts: Texts::default(),
            }
        }
    }

    pub(in crate::train) fn example() -> Example {
        let scores = |first_pass, lm| Features { first_pass, lm, ..Features::default() };
        Example {
            tokens: vec![vec![2, 7, 3], vec![2, 8, 3]],
            texts: Texts { reference: "a".into(), hypotheses: vec!["b".into(), "a".into()] },
            ..Example::of(1, &[(scores(-1.0, -8.0), 1), (scores(-1.5, -2.0), 0)])
        }
    }

    #[test]
    fn another_seed_splits_otherwise_and_neither_side_is_empty() {
        let examples = |count: usize| -> Vec<Example> {
            (0..count).map(|i| Example { id: i.to_string(), ..example() }).collect()
        };
        let ids = |examples: &[Example]| examples.iter().map(|e| e.id.clone()).collect::<Vec<_>>();
        let of = |seed| {
            let (left, right) = split(examples(40), 0.25, seed);
            assert_eq!((left.len(), right.len()), (30, 10));
            let mut all = [ids(&left), ids(&right)].concat();
            all.sort_by_key(|id| id.parse::<usize>().unwrap());
            assert_eq!(all, ids(&examples(40)));
            ids(&right)
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        for fraction in [0.001, 0.999] {
            let (left, right) = split(examples(2), fraction, 1);
            assert_eq!((left.len(), right.len()), (1, 1));
        }
    }

    #[test]
    fn the_first_pass_is_as_sure_as_the_language_model_lets_it() {
        let examples: Vec<Example> = (0..3).map(|_| example()).collect();
        let (alone, with_lm) = (first_pass_weight(&examples, 0.0), first_pass_weight(&examples, 0.5));
        // Half a nat apart by the first pass; by both the other is ahead, by two and a half.
        assert!((alone - 5.0 * with_lm).abs() < 1e-6 * alone, "{alone} {with_lm}");
    }
}
