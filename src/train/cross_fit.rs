//! An n-gram model of the training references. What it is worth is seen on the same lists, each scored by a model that
//! has not seen its own reference: otherwise it would seem to know everything.

use rayon::prelude::*;

use super::examples::{Example, lists};
use crate::nbest::normalise::{Unit, units};
use crate::rescore::ngram::{DomainModel, Familiarity, Likelihood, Ngram};
use crate::rescore::tune::{ScoredList, tune_weights};
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

/// A model of `order` of the references of `train`; `None` where it would not serve: without a gain on lists whose
/// references it has not seen by more than one standard error.
pub fn cross_fit(order: usize, unit: Unit, train: &[Example]) -> Option<DomainModel> {
    if order == 0 || train.len() < PARTS {
        return None;
    }
    let references: Vec<Vec<&str>> = train.iter().map(|e| units(&e.texts.reference, unit)).collect();
    let estimate = |left_out: Option<usize>| {
        let kept = references.iter().enumerate().filter(|(i, _)| Some(i % PARTS) != left_out);
        Ngram::estimate(order, kept.map(|(_, reference)| &reference[..]))
    };
    let parts: Vec<Ngram> =
        (0..PARTS).into_par_iter().map(|part| estimate(Some(part))).collect::<Option<_>>()?;
    let of_others = |i: usize| &parts[i % PARTS];
    let of_references: Vec<Likelihood> =
        references.iter().enumerate().map(|(i, reference)| of_others(i).likelihood(reference)).collect();
    let of_lists: Vec<Vec<Likelihood>> =
        train.par_iter().enumerate().map(|(i, e)| likelihoods(of_others(i), e, unit)).collect();
    let familiarity = Familiarity::of(&of_references, &of_lists);
    let mut lists = lists(train);
    for (list, likelihoods) in lists.iter_mut().zip(of_lists) {
        set_scores(list, &familiarity, likelihoods);
    }
    let serves = tune_weights(&lists, false).ngram > 0.0;
    serves.then_some(DomainModel { ngram: estimate(None)?, familiarity })
}

/// Gives `lists`, which are those of `examples`, the scores of a model that has not seen their references.
pub fn score(domain: &DomainModel, examples: &[Example], lists: &mut [ScoredList], unit: Unit) {
    lists.par_iter_mut().zip(examples).for_each(|(list, example)| {
        set_scores(list, &domain.familiarity, likelihoods(&domain.ngram, example, unit));
    });
}

/// Of each hypothesis.
fn likelihoods(ngram: &Ngram, example: &Example, unit: Unit) -> Vec<Likelihood> {
    example.texts.hypotheses.iter().map(|text| ngram.likelihood(&units(text, unit))).collect()
}

fn set_scores(list: &mut ScoredList, familiarity: &Familiarity, likelihoods: Vec<Likelihood>) {
    let scores = familiarity.scores(likelihoods.into_iter());
    list.hypotheses.iter_mut().zip(scores).for_each(|(h, score)| h.features.ngram = score);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescore::weights::Features;
    use crate::train::examples::Texts;

    /// Two hypotheses, of which the first pass prefers the one with the error.
    fn example(reference: &str, wrong: &str) -> Example {
        let scores = |first_pass| Features { first_pass, ..Features::default() };
        Example {
            texts: Texts { reference: reference.into(), hypotheses: vec![wrong.into(), reference.into()] },
            ..Example::of(3, &[(scores(0.0), 1), (scores(-1.0), 0)])
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

    /// What is scored by a model of `train`.
    fn scored(model: &DomainModel, examples: &[Example]) -> Vec<[f64; 2]> {
        let mut lists = lists(examples);
        score(model, examples, &mut lists, Unit::Word);
        lists.iter().map(|list| [0, 1].map(|i| list.hypotheses[i].features.ngram)).collect()
    }

    #[test]
    fn what_the_references_say_is_learned() {
        let model = cross_fit(3, Unit::Word, &examples(40)).unwrap();
        assert_eq!(model.ngram.words(), 7);
        assert!(scored(&model, &examples(5)).iter().all(|[wrong, right]| right > wrong));
        let strange = example("unheard of words", "nobody knew them");
        assert_eq!(scored(&model, &[strange]), [[0.0; 2]]);
    }

    #[test]
    fn what_is_usual_was_found_by_models_of_other_lists() {
        let mut train = examples(40);
        let familiar = cross_fit(3, Unit::Word, &train).unwrap().familiarity;
        // One of fifty is beyond what counts as strange; a model that had seen it would find it usual.
        train.extend((0..11).map(|i| example(&format!("a{i} b{i} c{i}"), &format!("d{i} e{i} f{i}"))));
        let lower = cross_fit(3, Unit::Word, &train).unwrap().familiarity;
        assert!(lower.strange < familiar.strange - 2.0, "{lower:?} {familiar:?}");
        assert!((lower.usual - familiar.usual).abs() < 0.5, "{lower:?} {familiar:?}");
        // Eleven references of three words that no other has.
        assert!(lower.mean < familiar.mean - 1.5, "{lower:?} {familiar:?}");
    }

    #[test]
    fn what_does_not_serve_is_left_out() {
        let strangers: Vec<Example> =
            (0..40).map(|i| example(&format!("w{i} v{i}"), &format!("u{i} v{i}"))).collect();
        assert_eq!(cross_fit(3, Unit::Word, &strangers), None);
        assert_eq!(cross_fit(0, Unit::Word, &examples(40)), None);
        assert_eq!(cross_fit(3, Unit::Word, &examples(9)), None);
    }
}
