//! What training changed on some lists: word errors before and after, and lists whose hypotheses changed places.

use serde::{Deserialize, Serialize};

use super::examples::Example;
use crate::nbest::wer::{BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED, Change, Pair, bootstrap_change};
use crate::rescore::tune::{ScoredList, chosen, oracle, total_errors};
use crate::rescore::weights::{Weights, order};

/// Lists shown, at most, of those that gained most and of those that lost most.
const GAINED: usize = 6;
const LOST: usize = 4;
/// Hypotheses shown of each of the two orders of a list.
const TOP: usize = 3;
/// Bytes of a text in a list that is shown.
const LONGEST: usize = 1000;

/// Lists of one kind, before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetSummary {
    pub name: String,
    pub utterances: u64,
    /// In words, or characters.
    pub reference_units: u64,
    pub errors: SetErrors,
    /// From the first pass to the rescored, with 95 % intervals of a paired bootstrap; `None` where nothing was said.
    pub change: Option<Change>,
    pub moved: Moved,
    /// Some of those that moved, those that gained most first.
    pub examples: Vec<MovedList>,
}

/// Errors of what is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SetErrors {
    /// By the first pass's score.
    pub first_pass: u64,
    /// By the best weights without this engine's score.
    pub tuned: u64,
    /// By the best weights with it.
    pub rescored: u64,
    /// By whoever knows what was said.
    pub oracle: u64,
}

/// Lists of which another hypothesis is chosen than by the first pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub better: u64,
    pub worse: u64,
    pub equal: u64,
}

/// A list whose best hypothesis changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedList {
    pub id: String,
    /// What was said, normalised.
    pub reference: String,
    /// Of how many `hypotheses` are shown.
    pub length: usize,
    /// The best before and after, by their place after.
    pub hypotheses: Vec<MovedHypothesis>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedHypothesis {
    /// Normalised.
    pub text: String,
    pub errors: u64,
    /// Places by the first pass's score and by the combined one, from 1.
    pub before: usize,
    pub after: usize,
}

impl SetSummary {
    /// The names of the sets of a run.
    pub const VALIDATION: &'static str = "validation";
    pub const HELD_OUT: &'static str = "held out";

    /// Of `examples`, which `lists` are with their scores: chosen by `without` before, by `with` after.
    pub fn new(
        name: &str,
        examples: &[Example],
        lists: &[ScoredList],
        without: &Weights,
        with: &Weights,
    ) -> SetSummary {
        let first = chosen(lists, &Weights::default());
        let rescored = chosen(lists, with);
        let pair = |(list, (&before, &after)): (&ScoredList, (&usize, &usize))| Pair {
            reference_units: list.reference_units,
            errors_before: list.hypotheses[before].errors,
            errors_after: list.hypotheses[after].errors,
        };
        let pairs: Vec<Pair> = lists.iter().zip(first.iter().zip(&rescored)).map(pair).collect();
        let mut moved = Moved::default();
        // By how many errors more there are after.
        let mut candidates: Vec<(i64, usize)> = Vec::new();
        for (i, pair) in pairs.iter().enumerate().filter(|(i, _)| first[*i] != rescored[*i]) {
            let change = pair.errors_after as i64 - pair.errors_before as i64;
            match change {
                ..0 => moved.better += 1,
                0 => moved.equal += 1,
                1.. => moved.worse += 1,
            }
            if change != 0 && examples[i].texts.longest() <= LONGEST {
                candidates.push((change, i));
            }
        }
        candidates.sort();
        let gained = candidates.iter().take_while(|(change, _)| *change < 0).take(GAINED);
        let lost = candidates.iter().rev().take_while(|(change, _)| *change > 0).take(LOST);
        SetSummary {
            name: name.into(),
            utterances: lists.len() as u64,
            reference_units: lists.iter().map(|l| l.reference_units).sum(),
            errors: SetErrors {
                first_pass: total_errors(lists, &first),
                tuned: total_errors(lists, &chosen(lists, without)),
                rescored: total_errors(lists, &rescored),
                oracle: total_errors(lists, &oracle(lists)),
            },
            change: bootstrap_change(&pairs, BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED),
            moved,
            examples: gained.chain(lost).map(|&(_, i)| moved_list(&examples[i], &lists[i], with)).collect(),
        }
    }
}

fn moved_list(example: &Example, list: &ScoredList, with: &Weights) -> MovedList {
    let places = |weights: &Weights| {
        let scores: Vec<f64> = list.hypotheses.iter().map(|h| weights.combined(&h.features)).collect();
        let mut places = vec![0; scores.len()];
        order(&scores).into_iter().enumerate().for_each(|(place, i)| places[i] = place + 1);
        places
    };
    let (before, after) = (places(&Weights::default()), places(with));
    let hypothesis = |i: usize| MovedHypothesis {
        text: example.texts.hypotheses[i].clone(),
        errors: list.hypotheses[i].errors,
        before: before[i],
        after: after[i],
    };
    let shown = (0..list.hypotheses.len()).filter(|&i| before[i] <= TOP || after[i] <= TOP);
    let mut hypotheses: Vec<MovedHypothesis> = shown.map(hypothesis).collect();
    hypotheses.sort_by_key(|h| h.after);
    MovedList {
        id: example.id.clone(),
        reference: example.texts.reference.clone(),
        length: list.hypotheses.len(),
        hypotheses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescore::weights::Features;
    use crate::train::examples::{Texts, lists};

    /// A list whose hypotheses have these errors and scores of the first pass and of g.
    fn example(id: &str, hypotheses: &[(u64, f64, f64)]) -> Example {
        let scored = |&(errors, first_pass, lorb): &(u64, f64, f64)| {
            (Features { first_pass, lorb, ..Features::default() }, errors)
        };
        let texts = (0..hypotheses.len()).map(|i| format!("text {i}")).collect();
        Example {
            id: id.into(),
            texts: Texts { reference: "said".into(), hypotheses: texts },
            ..Example::of(10, &hypotheses.iter().map(scored).collect::<Vec<_>>())
        }
    }

    fn summary(examples: &[Example]) -> SetSummary {
        let lists = lists(examples);
        let with = Weights { lorb: 1.0, ..Weights::default() };
        SetSummary::new("held out", examples, &lists, &Weights::default(), &with)
    }

    #[test]
    fn what_moved_is_counted_and_shown() {
        let of = summary(&[
            example("gained", &[(3, 0.0, 0.0), (1, -1.0, 2.0), (5, -3.0, -9.0), (0, -2.0, 1.5)]),
            example("stayed", &[(1, 0.0, 0.0), (0, -1.0, 0.5)]),
            example("lost", &[(0, 0.0, 0.0), (1, -1.0, 2.0)]),
            example("as good", &[(2, 0.0, 0.0), (2, -1.0, 2.0)]),
            example("gained more", &[(9, 0.0, 0.0), (1, -1.0, 2.0)]),
        ]);
        assert_eq!(of.errors, SetErrors { first_pass: 15, tuned: 15, rescored: 6, oracle: 3 });
        assert_eq!(of.moved, Moved { better: 2, worse: 1, equal: 1 });
        let ids: Vec<&str> = of.examples.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(ids, ["gained more", "gained", "lost"]);
        let places: Vec<_> =
            of.examples[1].hypotheses.iter().map(|h| (&h.text[..], h.errors, h.before, h.after)).collect();
        assert_eq!(places, [("text 1", 1, 2, 1), ("text 0", 3, 1, 2), ("text 3", 0, 3, 3)]);
        assert_eq!((of.examples[1].length, of.reference_units), (4, 50));
        assert!(of.change.unwrap().absolute.point < 0.0);
    }

    #[test]
    fn few_and_short_lists_are_shown() {
        let mut many: Vec<Example> = Vec::new();
        for i in 0..40 {
            many.push(example(&format!("g{i}"), &[(1, 0.0, 0.0), (0, -1.0, 2.0)]));
            many.push(example(&format!("l{i}"), &[(0, 0.0, 0.0), (1, -1.0, 2.0)]));
        }
        many[0].texts.reference = "x".repeat(LONGEST + 1);
        let of = summary(&many);
        assert_eq!((of.moved.better, of.moved.worse, of.examples.len()), (40, 40, GAINED + LOST));
        assert!(of.examples.iter().all(|e| e.id != "g0"));
        assert_eq!(summary(&[]).change, None);
    }
}
