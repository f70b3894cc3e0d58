//! The word error rate, and how sure one can be that it changed.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::word_errors::Errors;

/// Errors over some utterances, and the length of what was said, in the same units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wer {
    pub errors: Errors,
    pub reference_units: u64,
}

impl Wer {
    /// Errors per hundred reference units; `None` where nothing was said.
    pub fn percent(&self) -> Option<f64> {
        percent(self.errors.total(), self.reference_units)
    }
}

impl AddAssign for Wer {
    fn add_assign(&mut self, other: Wer) {
        self.errors += other.errors;
        self.reference_units += other.reference_units;
    }
}

impl Add for Wer {
    type Output = Wer;

    fn add(mut self, other: Wer) -> Wer {
        self += other;
        self
    }
}

impl Sum for Wer {
    fn sum<I: Iterator<Item = Wer>>(wers: I) -> Wer {
        wers.fold(Wer::default(), Add::add)
    }
}

/// One utterance under two systems.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pair {
    pub reference_units: u64,
    pub errors_before: u64,
    pub errors_after: u64,
}

/// A value and its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub low: f64,
    /// The value on all utterances, each once.
    pub point: f64,
    pub high: f64,
}

/// How the WER changed; below 0 is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// In points: after less before, both in percent.
    pub absolute: Interval,
    /// In percent of the WER before; `None` where that is 0 on all utterances or in a resample.
    pub relative: Option<Interval>,
}

/// Resamples that intervals are of, and the seed of their draw.
pub const BOOTSTRAP_SAMPLES: usize = 10_000;
pub const BOOTSTRAP_SEED: u64 = 1;

/// The change of WER with a paired bootstrap over utterances (Bisani and Ney 2004): percentile intervals
/// over `samples` resamples. The same seed gives the same interval on any number of threads. `None` where
/// there is nothing to compare: no sample, or nothing said, overall or in a resample.
pub fn bootstrap_change(utterances: &[Pair], samples: usize, seed: u64) -> Option<Change> {
    let point = utterances.iter().copied().fold(Pair::default(), sum);
    let resamples: Vec<Pair> =
        (0..samples as u64).into_par_iter().map(|sample| resample(utterances, seed, sample)).collect();
    Some(Change {
        absolute: interval(absolute, point, &resamples)?,
        relative: interval(relative, point, &resamples),
    })
}

fn absolute(pair: Pair) -> Option<f64> {
    let Pair { reference_units, errors_before, errors_after } = pair;
    Some(percent(errors_after, reference_units)? - percent(errors_before, reference_units)?)
}

/// The reference lengths cancel out.
fn relative(pair: Pair) -> Option<f64> {
    Some(percent(pair.errors_after, pair.errors_before)? - 100.0)
}

/// A relative change as people read it.
pub fn relative_text(change: Option<Interval>) -> String {
    match change {
        Some(Interval { low, point, high }) => format!("{point:+.1} % [{low:+.1}, {high:+.1}]"),
        None => "undefined".into(),
    }
}

/// `part` in percent of `whole`, to `digits` behind the point; a dash where that is 0.
pub fn percent_text(part: f64, whole: u64, digits: usize) -> String {
    match whole {
        0 => "-".into(),
        _ => format!("{:.digits$} %", 100.0 * part / whole as f64),
    }
}

/// `part` in percent of `whole`; `None` where that is 0.
pub fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

fn sum(a: Pair, b: Pair) -> Pair {
    Pair {
        reference_units: a.reference_units + b.reference_units,
        errors_before: a.errors_before + b.errors_before,
        errors_after: a.errors_after + b.errors_after,
    }
}

/// As many utterances as there are, drawn with replacement, added up.
fn resample(utterances: &[Pair], seed: u64, sample: u64) -> Pair {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(sample);
    let count = utterances.len() as u64;
    let drawn = utterances.iter().map(|_| {
        // Uniform but for at most count / 2^32, far below what a bootstrap resolves.
        utterances[((u64::from(random.next_u32()) * count) >> 32) as usize]
    });
    drawn.fold(Pair::default(), sum)
}

fn interval(value: impl Fn(Pair) -> Option<f64>, point: Pair, resamples: &[Pair]) -> Option<Interval> {
    let point = value(point)?;
    let mut values = resamples.iter().map(|&r| value(r)).collect::<Option<Vec<f64>>>()?;
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let quantile = |q: f64| values[(q * last as f64).round() as usize];
    Some(Interval { low: quantile(0.025), point, high: quantile(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(reference_units: u64, errors_before: u64, errors_after: u64) -> Pair {
        Pair { reference_units, errors_before, errors_after }
    }

    #[test]
    fn rates_add_up_by_length() {
        let one = Wer { errors: Errors { substitutions: 1, ..Default::default() }, reference_units: 10 };
        let two =
            Wer { errors: Errors { deletions: 2, insertions: 3, ..Default::default() }, reference_units: 30 };
        assert_eq!((one + two).percent(), Some(15.0));
        assert_eq!([one, two].into_iter().sum::<Wer>(), one + two);
        assert_eq!(Wer::default().percent(), None);
    }

    #[test]
    fn a_constant_change_has_no_spread() {
        let change = bootstrap_change(&[pair(10, 4, 3); 20], 100, 1).unwrap();
        let relative = change.relative.unwrap();
        assert_eq!((relative.low, relative.point, relative.high), (-25.0, -25.0, -25.0));
        let Interval { low, point, high } = change.absolute;
        assert!([low, point, high].iter().all(|x| (x + 10.0).abs() < 1e-12));
    }

    #[test]
    fn the_interval_has_the_width_that_theory_gives() {
        // Of 1,000 utterances of 1 word, 500 had an error and 100 of these lost it: the change in points
        // has the mean -10 and the standard deviation 100 * sqrt(0.1 * 0.9 / 1000) = 0.949.
        let utterances: Vec<Pair> =
            (0..1000).map(|i| pair(1, u64::from(i < 500), u64::from((100..500).contains(&i)))).collect();
        let change = bootstrap_change(&utterances, 10_000, 7).unwrap();
        let Interval { low, point, high } = change.absolute;
        assert!((point + 10.0).abs() < 1e-9, "{point}");
        assert!((low + 10.0 + 1.96 * 0.949).abs() < 0.15, "{low}");
        assert!((high + 10.0 - 1.96 * 0.949).abs() < 0.15, "{high}");
        assert!((change.relative.unwrap().point + 20.0).abs() < 1e-9);
        assert_eq!(bootstrap_change(&utterances, 10_000, 7), Some(change));
        assert_ne!(bootstrap_change(&utterances, 10_000, 8), Some(change));
    }

    #[test]
    fn what_cannot_be_compared_is_none() {
        assert_eq!(bootstrap_change(&[], 10, 1), None);
        assert_eq!(bootstrap_change(&[pair(0, 1, 1)], 10, 1), None);
        assert_eq!(bootstrap_change(&[pair(1, 1, 1)], 0, 1), None);
        assert_eq!(bootstrap_change(&[pair(1, 0, 1)], 10, 1).unwrap().relative, None);
    }
}
