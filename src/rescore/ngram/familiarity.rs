//! How much of a domain there is in a list: what the n-gram model of another domain says of it misleads.

use serde::{Deserialize, Serialize};

/// What an n-gram model gives lists of its domain that it was not estimated from, as log-probability a word, the end of
/// a sentence being one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Familiarity {
    /// The mean of the words of references.
    pub mean: f64,
    /// What the likeliest hypothesis of a list has at least, but in [`STRANGE`] of the lists.
    pub strange: f64,
    /// What it has in half of them.
    pub usual: f64,
}

/// The share of a domain's own lists that count as strange to it.
const STRANGE: f64 = 0.02;

/// A text as an n-gram model sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// ln P.
    pub log_probability: f64,
    /// Its words, and its end.
    pub words: usize,
}

impl Likelihood {
    /// A word.
    fn mean(self) -> f64 {
        self.log_probability / self.words as f64
    }
}

impl Familiarity {
    /// Of some references, and of the hypotheses of each list; there must be a list.
    pub fn of(references: &[Likelihood], lists: &[Vec<Likelihood>]) -> Familiarity {
        let log_probability: f64 = references.iter().map(|r| r.log_probability).sum();
        let words: usize = references.iter().map(|r| r.words).sum();
        let mut likeliest: Vec<f64> = lists.iter().map(|list| likeliest(list.iter().copied())).collect();
        likeliest.sort_by(f64::total_cmp);
        let quantile = |share: f64| likeliest[(share * (likeliest.len() - 1) as f64) as usize];
        Familiarity { mean: log_probability / words as f64, strange: quantile(STRANGE), usual: quantile(0.5) }
    }

    /// d of each hypothesis of a list: by how much it is likelier than as many words of the domain on average, times how
    /// far the list's likeliest hypothesis lies between strange and usual, from 0 to 1.
    pub fn scores(&self, list: impl Iterator<Item = Likelihood> + Clone) -> impl Iterator<Item = f64> {
        let Familiarity { mean, strange, usual } = *self;
        let above = likeliest(list.clone()) - strange;
        // Where both are the same, lists are one or the other.
        let share = if usual > strange {
            (above / (usual - strange)).clamp(0.0, 1.0)
        } else {
            f64::from(above >= 0.0)
        };
        list.map(move |h| share * (h.log_probability - mean * h.words as f64))
    }
}

/// The log-probability a word of the likeliest.
fn likeliest(list: impl Iterator<Item = Likelihood>) -> f64 {
    list.map(Likelihood::mean).fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(log_probability: f64, words: usize) -> Likelihood {
        Likelihood { log_probability, words }
    }

    #[test]
    fn the_mean_is_of_words_and_the_quantiles_of_lists() {
        // Of 101 lists the third has 2 %, the 51st half.
        let lists: Vec<Vec<Likelihood>> =
            (0..101).rev().map(|i| vec![text(-1000.0, 2), text(2.0 * f64::from(i) - 300.0, 2)]).collect();
        let familiarity = Familiarity::of(&[text(-2.0, 1), text(-10.0, 3)], &lists);
        assert_eq!(familiarity, Familiarity { mean: -3.0, strange: -148.0, usual: -100.0 });
    }

    #[test]
    fn what_is_strange_counts_nothing_and_what_is_usual_all() {
        let familiarity = Familiarity { mean: -2.0, strange: -8.0, usual: -4.0 };
        let scores = |best: f64| {
            familiarity.scores([text(best * 4.0, 4), text(-40.0, 4)].into_iter()).collect::<Vec<_>>()
        };
        assert_eq!(scores(-4.0), [-8.0, -32.0]);
        assert_eq!(scores(-1.0), [4.0, -32.0]);
        assert_eq!(scores(-6.0), [-8.0, -16.0]);
        assert_eq!(scores(-9.0), [0.0, 0.0]);
        assert_eq!(familiarity.scores([].into_iter()).count(), 0);
    }

    #[test]
    fn a_single_list_is_its_own_measure() {
        let familiarity = Familiarity::of(&[text(-4.0, 2)], &[vec![text(-6.0, 2)]]);
        assert_eq!((familiarity.strange, familiarity.usual), (-3.0, -3.0));
        assert_eq!(familiarity.scores([text(-6.0, 2)].into_iter()).next(), Some(-2.0));
        assert_eq!(familiarity.scores([text(-6.1, 2)].into_iter()).next(), Some(0.0));
    }
}
