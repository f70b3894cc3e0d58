//! Scores of an n-gram model of the training references: lists to train on have them from models that have not seen
//! their own reference, or it would seem to know everything.

use rayon::prelude::*;

use super::examples::{Example, lists};
use crate::nbest::normalise::{Unit, units};
use crate::rescore::ngram::Ngram;
use crate::rescore::tune::tune_weights;
use crate::{Error, Result};

/// Some hundred or thousand references say nothing of longer n-grams.
const MOST_ORDER: usize = 5;
/// Each part of the training lists is scored by a model of the others.
const PARTS: usize = 10;

/// Refuses an order that is too large.
///
/// # Errors
/// [`Error::Usage`] with it.
pub fn check_order(order: usize) -> Result<()> {
    if order > MOST_ORDER {
        return Err(Error::Usage(format!(
            "--ngram-order {order}: expected {MOST_ORDER} at most, or 0 for no n-gram model"
        )));
    }
    Ok(())
}

/// A model of all training references, and what it counts in the loss, relative to the first pass.
pub struct DomainModel {
    pub ngram: Ngram,
    pub weight: f64,
}

/// Estimates a model of `order`, and gives all examples its scores; `None`, and no scores, where it would not serve:
/// without a gain on `train` by more than one standard error.
pub fn cross_fit(
    order: usize,
    unit: Unit,
    train: &mut [Example],
    others: [&mut [Example]; 2],
) -> Option<DomainModel> {
    if order == 0 || train.len() < PARTS {
        return None;
    }
    let references: Vec<Vec<&str>> = train.iter().map(|e| units(&e.texts.reference, unit)).collect();
    let estimate = |left_out: Option<usize>| {
        let kept = references.iter().enumerate().filter(|(i, _)| Some(i % PARTS) != left_out);
        Ngram::estimate(order, kept.map(|(_, reference)| &reference[..]))
    };
    let parts: Vec<Option<Ngram>> = (0..PARTS).into_par_iter().map(|part| estimate(Some(part))).collect();
    let ngram = estimate(None)?;
    train.par_iter_mut().enumerate().for_each(|(i, e)| score(e, parts[i % PARTS].as_ref(), unit));
    let weight = tune_weights(&lists(train), false).ngram;
    let serves = weight > 0.0;
    if !serves {
        train.iter_mut().for_each(|e| score(e, None, unit));
    }
    let all = serves.then_some(&ngram);
    others.into_iter().for_each(|set| set.par_iter_mut().for_each(|e| score(e, all, unit)));
    serves.then_some(DomainModel { ngram, weight })
}

fn score(example: &mut Example, ngram: Option<&Ngram>, unit: Unit) {
    for (hypothesis, text) in example.list.hypotheses.iter_mut().zip(&example.texts.hypotheses) {
        hypothesis.features.ngram = ngram.map_or(0.0, |ngram| ngram.score(&units(text, unit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescore::tune::{ScoredHypothesis, ScoredList};
    use crate::rescore::weights::Features;
    use crate::train::examples::Texts;

    /// Two hypotheses, of which the first pass prefers the one with the error.
    fn example(reference: &str, wrong: &str) -> Example {
        let hypothesis = |first_pass, errors| ScoredHypothesis {
            features: Features { first_pass, ..Features::default() },
            errors,
            pruned: false,
        };
        Example {
            id: reference.into(),
            list: ScoredList {
                hypotheses: vec![hypothesis(0.0, 1), hypothesis(-1.0, 0)],
                reference_units: 3,
            },
            tokens: vec![vec![0], vec![1]],
            cut: 0,
            texts: Texts { reference: reference.into(), hypotheses: vec![wrong.into(), reference.into()] },
        }
    }

    fn examples(count: usize) -> Vec<Example> {
        let things = ["one", "two", "three", "four", "five"];
        let of = |i: usize| {
            let thing = things[i % things.len()];
            example(&format!("take {thing} now"), &format!("cake {thing} gnaw"))
        };
        (0..count).map(of).collect()
    }

    #[test]
    fn what_the_references_say_is_learned() {
        let (mut train, mut valid) = (examples(40), examples(5));
        let model = cross_fit(3, Unit::Word, &mut train, [&mut valid, &mut []]).unwrap();
        assert!(model.weight > 0.0 && model.ngram.words() == 7);
        for example in train.iter().chain(&valid) {
            let [wrong, right] = [0, 1].map(|i| example.list.hypotheses[i].features.ngram);
            assert!(right > wrong && wrong < 0.0, "{}: {right} {wrong}", example.id);
        }
    }

    #[test]
    fn a_list_is_scored_by_what_others_say() {
        let mut train = examples(39);
        train.push(example("unheard of words", "unheard off words"));
        cross_fit(3, Unit::Word, &mut train, [&mut [], &mut []]).unwrap();
        let alone = &train[39].list.hypotheses;
        // Unknown word by word: the same for both.
        assert_eq!(alone[0].features.ngram, alone[1].features.ngram);
    }

    #[test]
    fn what_does_not_serve_is_left_out() {
        for order in [0, 3] {
            let mut train: Vec<Example> =
                (0..40).map(|i| example(&format!("w{i} v{i}"), &format!("u{i} v{i}"))).collect();
            let mut valid = examples(5);
            assert!(cross_fit(order, Unit::Word, &mut train, [&mut valid, &mut []]).is_none());
            let all = train.iter().chain(&valid).flat_map(|e| &e.list.hypotheses);
            assert!(all.clone().all(|h| h.features.ngram == 0.0));
        }
        assert!(cross_fit(3, Unit::Word, &mut examples(9), [&mut [], &mut []]).is_none());
    }
}
