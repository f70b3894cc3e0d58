//! Word errors: the edit distance between what was said and what was recognised.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Word errors by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    pub substitutions: u64,
    pub deletions: u64,
    pub insertions: u64,
}

impl Errors {
    pub fn total(&self) -> u64 {
        self.substitutions + self.deletions + self.insertions
    }
}

impl AddAssign for Errors {
    fn add_assign(&mut self, other: Errors) {
        self.substitutions += other.substitutions;
        self.deletions += other.deletions;
        self.insertions += other.insertions;
    }
}

/// Which alignment of reference and hypothesis the errors are counted on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alignment {
    /// One with the fewest errors, as [`word_errors`] says.
    #[default]
    Levenshtein,
    /// The one that NIST's sclite makes: a substitution costs 4, a deletion or an insertion 3. As two words that
    /// match outweigh a substitution, it may have more errors than the fewest.
    Sclite,
}

impl FromStr for Alignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Alignment, String> {
        match text {
            "levenshtein" => Ok(Alignment::Levenshtein),
            "sclite" => Ok(Alignment::Sclite),
            _ => Err("expected levenshtein or sclite".into()),
        }
    }
}

/// The fewest errors that turn `reference` into `hypothesis` (Levenshtein distance over words).
///
/// Of the alignments with the fewest errors, one with the most substitutions is counted. As deletions less
/// insertions is the difference of the lengths, this fixes all three numbers.
pub fn word_errors(reference: &[&str], hypothesis: &[&str]) -> Errors {
    Reference::new(reference).errors(hypothesis)
}

/// The words of a reference, prepared to be compared with many hypotheses.
pub struct Reference<'a> {
    numbers: HashMap<&'a str, u32>,
    words: Vec<u32>,
}

/// The number of every word that the reference lacks: it equals no word of it, so one is enough for all.
const UNKNOWN: u32 = u32::MAX;

impl<'a> Reference<'a> {
    pub fn new(reference: &[&'a str]) -> Self {
        let mut numbers = HashMap::with_capacity(reference.len());
        let words = reference.iter().map(|&word| {
            let next = numbers.len() as u32;
            *numbers.entry(word).or_insert(next)
        });
        let words = words.collect();
        Reference { numbers, words }
    }

    /// See [`word_errors`].
    pub fn errors(&self, hypothesis: &[&str]) -> Errors {
        // The total in the upper half orders first; the lower half counts deletions and insertions.
        const ONE: u64 = 1 << 32;
        let cost = edit_cost(&self.words, &self.numbered(hypothesis), ONE, ONE + 1);
        let (total, indels) = (cost / ONE, cost % ONE);
        let (reference, hypothesis) = (self.words.len() as u64, hypothesis.len() as u64);
        let deletions = (indels + reference - hypothesis) / 2;
        Errors { substitutions: total - indels, deletions, insertions: indels - deletions }
    }

    /// The errors on an alignment.
    pub fn errors_on(&self, alignment: Alignment, hypothesis: &[&str]) -> Errors {
        match alignment {
            Alignment::Levenshtein => self.errors(hypothesis),
            Alignment::Sclite => sclite_errors(&self.words, &self.numbered(hypothesis)),
        }
    }

    /// The total of [`errors`](Self::errors), which is all that training needs.
    pub fn distance(&self, hypothesis: &[&str]) -> u64 {
        edit_cost(&self.words, &self.numbered(hypothesis), 1, 1)
    }

    fn numbered(&self, hypothesis: &[&str]) -> Vec<u32> {
        hypothesis.iter().map(|word| self.numbers.get(word).copied().unwrap_or(UNKNOWN)).collect()
    }
}

/// The least cost of turning `a` into `b` (Wagner and Fischer 1974), in one row of memory. It must hold
/// that substitution <= 2 * indel: then words equal at both ends may be matched unseen.
fn edit_cost(a: &[u32], b: &[u32], substitution: u64, indel: u64) -> u64 {
    let prefix = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[prefix..], &b[prefix..]);
    let suffix = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - suffix], &b[..b.len() - suffix]);

    let mut row: Vec<u64> = (0..=b.len() as u64).map(|j| j * indel).collect();
    for x in a {
        let mut diagonal = row[0];
        row[0] += indel;
        let mut left = row[0];
        for (y, cell) in b.iter().zip(&mut row[1..]) {
            let matched = diagonal + if x == y { 0 } else { substitution };
            diagonal = *cell;
            left = matched.min(left.min(diagonal) + indel);
            *cell = left;
        }
    }
    row[b.len()]
}

/// The errors on sclite's alignment, in one row of memory.
///
/// Several alignments may cost the same and differ in their errors (three substitutions, or two deletions and two
/// insertions), so ties are broken as sclite does: a match or substitution before a deletion or insertion, and an
/// insertion before a deletion.
fn sclite_errors(reference: &[u32], hypothesis: &[u32]) -> Errors {
    let cost = |e: &Errors| 4 * e.substitutions + 3 * (e.deletions + e.insertions);
    let mut row: Vec<Errors> =
        (0..=hypothesis.len() as u64).map(|insertions| Errors { insertions, ..Errors::default() }).collect();
    for r in reference {
        let mut diagonal = row[0];
        row[0].deletions += 1;
        let mut left = row[0];
        for (h, cell) in hypothesis.iter().zip(&mut row[1..]) {
            let (mut matched, mut deleted, mut inserted) = (diagonal, *cell, left);
            matched.substitutions += u64::from(r != h);
            deleted.deletions += 1;
            inserted.insertions += 1;
            let indel = if cost(&deleted) < cost(&inserted) { deleted } else { inserted };
            diagonal = *cell;
            left = if cost(&matched) <= cost(&indel) { matched } else { indel };
            *cell = left;
        }
    }
    row[hypothesis.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(reference: &str, hypothesis: &str) -> (u64, u64, u64) {
        let words = |s: &'static str| s.split_whitespace().collect::<Vec<_>>();
        let e = word_errors(&words(String::leak(reference.into())), &words(String::leak(hypothesis.into())));
        (e.substitutions, e.deletions, e.insertions)
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(counts("", ""), (0, 0, 0));
        assert_eq!(counts("A B", ""), (0, 2, 0));
        assert_eq!(counts("", "A B C"), (0, 0, 3));
        assert_eq!(counts("A B C", "A X C"), (1, 0, 0));
        assert_eq!(counts("A B C", "A C"), (0, 1, 0));
        assert_eq!(counts("A C", "A B C"), (0, 0, 1));
        // Two substitutions, or a deletion and an insertion: the rule takes the substitutions.
        assert_eq!(counts("A B", "B C"), (2, 0, 0));
        assert_eq!(counts("A B C D", "B C D E"), (0, 1, 1));
    }

    /// What sclite 2.10 counts with -s.
    #[test]
    fn sclite_has_the_same_counts() {
        for (reference, hypothesis, counts) in [
            ("", "a b", [0, 0, 2]),
            ("a b", "", [0, 2, 0]),
            ("a b c", "a c d", [0, 1, 1]),
            ("a b", "b c", [0, 1, 1]),
            ("a b c", "d e f", [3, 0, 0]),
            // Two deletions and two insertions cost as much.
            ("x a b", "p q x", [3, 0, 0]),
            ("a b x", "x p q", [3, 0, 0]),
            // Six errors cost less than five substitutions.
            ("p q r a b", "a b s t u", [0, 3, 3]),
            ("d e f a b b c", "a c e b a f", [3, 2, 1]),
            ("a c c e f c d b", "c b e c b f", [1, 3, 1]),
            ("a b c a b", "b a a c", [2, 1, 0]),
            ("c a b d b a", "a c c b d", [1, 2, 1]),
        ] {
            let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
            let errors = Reference::new(&words(reference)).errors_on(Alignment::Sclite, &words(hypothesis));
            let Errors { substitutions, deletions, insertions } = errors;
            assert_eq!([substitutions, deletions, insertions], counts, "{reference}: {hypothesis}");
        }
    }

    /// The best (total, deletions + insertions) with its counts, by trying everything.
    fn naive(reference: &[&str], hypothesis: &[&str]) -> Errors {
        let better = |a: Errors, b: Errors| {
            if (b.total(), b.deletions + b.insertions) < (a.total(), a.deletions + a.insertions) {
                b
            } else {
                a
            }
        };
        match (reference.split_first(), hypothesis.split_first()) {
            (None, _) => Errors { insertions: hypothesis.len() as u64, ..Errors::default() },
            (_, None) => Errors { deletions: reference.len() as u64, ..Errors::default() },
            (Some((r, rest_r)), Some((h, rest_h))) => {
                let mut both = naive(rest_r, rest_h);
                both.substitutions += u64::from(r != h);
                let mut deleted = naive(rest_r, hypothesis);
                deleted.deletions += 1;
                let mut inserted = naive(reference, rest_h);
                inserted.insertions += 1;
                better(better(both, deleted), inserted)
            }
        }
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_naive_search(
            reference in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c"]), 0..7),
            hypothesis in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c", "d", "e"]), 0..7),
        ) {
            let errors = word_errors(&reference, &hypothesis);
            prop_assert_eq!(errors, naive(&reference, &hypothesis));
            prop_assert_eq!(errors.total(), Reference::new(&reference).distance(&hypothesis));
        }
    }

    #[test]
    fn five_thousand_words_are_fine() {
        let words: Vec<String> = (0..5000).map(|i| (i * 7919 % 1000).to_string()).collect();
        let reference: Vec<&str> = words.iter().map(String::as_str).collect();
        let hypothesis: Vec<&str> = reference.iter().rev().copied().collect();
        let errors = word_errors(&reference, &hypothesis);
        assert!(errors.total() > 4000 && errors.deletions == errors.insertions);
    }
}
