//! Weights that make the fewest word errors on given lists: exact line searches as in minimum error rate
//! training (Och 2003), one weight at a time, from several starting points.

use std::iter;

use rayon::prelude::*;

use super::weights::{Features, Weights};
use crate::nbest::Utterance;
use crate::nbest::normalise::{Normaliser, Unit, units};
use crate::nbest::word_errors::Reference;

/// What tuning knows of a hypothesis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredHypothesis {
    pub features: Features,
    pub errors: u64,
}

/// What tuning knows of an utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredList {
    /// In the order of the list.
    pub hypotheses: Vec<ScoredHypothesis>,
    pub reference_units: u64,
}

impl ScoredList {
    /// Counts the errors of an utterance, both sides normalised; `None` where it has no reference. `lorb`
    /// are the scores g_i by hypothesis; without them those of the list count, or 0.
    pub fn new(
        utterance: &Utterance,
        lorb: Option<&[f64]>,
        normaliser: &Normaliser,
        unit: Unit,
    ) -> Option<Self> {
        let reference = normaliser.normalise(utterance.reference.as_deref()?);
        let reference_words = units(&reference, unit);
        let reference = Reference::new(&reference_words);
        let hypotheses = utterance.hypotheses.iter().enumerate().map(|(i, hypothesis)| {
            let text = normaliser.normalise(&hypothesis.text);
            let words = units(&text, unit);
            let lorb = lorb.and_then(|g| g.get(i).copied()).or(hypothesis.lorb).unwrap_or(0.0);
            ScoredHypothesis {
                features: Features::new(hypothesis, lorb, words.len()),
                errors: reference.distance(&words),
            }
        });
        Some(ScoredList { hypotheses: hypotheses.collect(), reference_units: reference_words.len() as u64 })
    }

    /// The index of the hypothesis that `weights` choose, the first of equal ones; 0 in an empty list.
    pub fn chosen(&self, weights: &Weights) -> usize {
        let mut best = (0, f64::NEG_INFINITY);
        for (i, hypothesis) in self.hypotheses.iter().enumerate() {
            let score = weights.combined(&hypothesis.features);
            if score > best.1 {
                best = (i, score);
            }
        }
        best.0
    }

    /// The index of the hypothesis with the fewest errors, the first of equal ones; 0 in an empty list.
    pub fn oracle(&self) -> usize {
        let fewest = self.hypotheses.iter().enumerate().min_by_key(|(_, h)| h.errors);
        fewest.map_or(0, |(i, _)| i)
    }

    fn errors_of(&self, chosen: usize) -> u64 {
        self.hypotheses.get(chosen).map_or(0, |h| h.errors)
    }
}

/// By list, the index of the hypothesis that `weights` choose.
pub fn chosen(lists: &[ScoredList], weights: &Weights) -> Vec<usize> {
    lists.iter().map(|list| list.chosen(weights)).collect()
}

/// By list, the index of the hypothesis with the fewest errors: no weights can do better.
pub fn oracle(lists: &[ScoredList]) -> Vec<usize> {
    lists.iter().map(ScoredList::oracle).collect()
}

/// The errors of the hypotheses that were chosen.
pub fn total_errors(lists: &[ScoredList], chosen: &[usize]) -> u64 {
    lists.iter().zip(chosen).map(|(list, &i)| list.errors_of(i)).sum()
}

/// Which weights [`tune`] may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunable {
    pub lm: bool,
    pub lorb: bool,
    pub words: bool,
}

/// The weights with the fewest errors on `lists` that the search finds, never more than `start` makes.
///
/// The weight of the first pass stays as it is: to scale all weights changes no choice, so one must be
/// fixed (for the scale of the posteriors see [`confidence`](super::confidence)). Those of lm and lorb do not
/// fall below 0; that of the words may have either sign.
///
/// Deterministic, whatever the number of threads.
pub fn tune(lists: &[ScoredList], start: Weights, which: Tunable) -> Weights {
    // A list whose hypotheses all have the same errors says nothing about weights.
    let telling: Vec<&ScoredList> =
        lists.iter().filter(|l| l.hypotheses.iter().any(|h| h.errors != l.errors_of(0))).collect();
    let coordinates: Vec<Coordinate> = [(which.lm, LM), (which.lorb, LORB), (which.words, WORDS)]
        .into_iter()
        .filter_map(|(tuned, coordinate)| tuned.then_some(coordinate))
        .collect();
    starting_points(&telling, start, &coordinates)
        .into_par_iter()
        .map(|point| descend(&telling, point, &coordinates))
        .collect::<Vec<_>>()
        .into_iter()
        // Of equal ones the first: the starting points go from small weights to large ones.
        .min_by_key(|(errors, _)| *errors)
        .map_or(start, |(_, weights)| weights)
}

/// The weights for `lists`: of the LM where they have one, of this engine's score if `lorb`, and of the
/// words where that helps by more than one standard error (over lists), since on few lists a weight more
/// fits chance.
pub fn tune_weights(lists: &[ScoredList], lorb: bool) -> Weights {
    let lm = lists.iter().flat_map(|l| &l.hypotheses).any(|h| h.features.lm != 0.0);
    let few = tune(lists, Weights::default(), Tunable { lm, lorb, words: false });
    let more = tune(lists, few, Tunable { lm, lorb, words: true });
    let (mut gain, mut squares) = (0.0, 0.0);
    for list in lists {
        let errors = |weights| list.errors_of(list.chosen(weights)) as f64;
        let fewer = errors(&few) - errors(&more);
        gain += fewer;
        squares += fewer * fewer;
    }
    if gain > squares.sqrt() { more } else { few }
}

/// One weight, the score that it multiplies, and the range where it is sought.
#[derive(Clone, Copy)]
struct Coordinate {
    weight: fn(&mut Weights) -> &mut f64,
    feature: fn(&Features) -> f64,
    /// 0 or minus infinity.
    least: f64,
}

const LM: Coordinate = Coordinate { weight: |w| &mut w.lm, feature: |f| f.lm, least: 0.0 };
const LORB: Coordinate = Coordinate { weight: |w| &mut w.lorb, feature: |f| f.lorb, least: 0.0 };
const WORDS: Coordinate =
    Coordinate { weight: |w| &mut w.words, feature: |f| f.words, least: f64::NEG_INFINITY };

impl Coordinate {
    fn with(&self, mut weights: Weights, value: f64) -> Weights {
        *(self.weight)(&mut weights) = value;
        weights
    }
}

/// `start`, then a grid over the tuned weights in units that let a score vary as much as the first pass.
fn starting_points(lists: &[&ScoredList], start: Weights, coordinates: &[Coordinate]) -> Vec<Weights> {
    const SIZES: [f64; 3] = [0.0, 0.3, 1.0];
    let first_pass = start.first_pass.abs() * spread(lists, |f| f.first_pass);
    let mut points = vec![start];
    let mut grid = vec![start];
    for coordinate in coordinates {
        let unit = first_pass / spread(lists, coordinate.feature);
        // Without a spread on either side there is no unit.
        let values = if unit.is_normal() { SIZES.map(|size| size * unit).to_vec() } else { vec![0.0] };
        let points = values.iter().flat_map(|&value| grid.iter().map(move |&p| coordinate.with(p, value)));
        grid = points.collect();
    }
    points.extend(grid);
    points
}

/// The mean absolute deviation of a score from the mean of its list.
fn spread(lists: &[&ScoredList], feature: fn(&Features) -> f64) -> f64 {
    let deviation = |list: &ScoredList| {
        let values = || list.hypotheses.iter().map(|h| feature(&h.features));
        let mean = values().sum::<f64>() / list.hypotheses.len() as f64;
        values().map(|v| (v - mean).abs()).sum::<f64>() / list.hypotheses.len() as f64
    };
    lists.iter().map(|list| deviation(list)).sum::<f64>() / lists.len().max(1) as f64
}

/// Searches along each coordinate in turn until none lowers the errors; gives these and the weights.
fn descend(lists: &[&ScoredList], start: Weights, coordinates: &[Coordinate]) -> (u64, Weights) {
    let errors = |weights: &Weights| lists.iter().map(|l| l.errors_of(l.chosen(weights))).sum::<u64>();
    let mut best = (errors(&start), start);
    loop {
        let before = best.0;
        for coordinate in coordinates {
            let candidate = coordinate.with(best.1, best_on_line(lists, best.1, coordinate));
            // Counted anew: in a very narrow interval rounding may choose otherwise than the line search.
            // Equal errors are welcome, as the candidate sits in the middle of its interval.
            let candidate = (errors(&candidate), candidate);
            if candidate.0 <= best.0 {
                best = candidate;
            }
        }
        if best.0 == before {
            return best;
        }
    }
}

/// Where along a line the choice in one list changes, and by how many errors.
struct Step {
    at: f64,
    change: i64,
}

/// The value of one weight, the others fixed, that makes the fewest errors: the middle of the widest
/// interval of such values; of equally wide ones, that nearer to 0. It is 0 where the weight changes nothing.
fn best_on_line(lists: &[&ScoredList], weights: Weights, coordinate: &Coordinate) -> f64 {
    let others = coordinate.with(weights, 0.0);
    let (mut lines, mut steps) = (Vec::new(), Vec::new());
    for list in lists {
        lines.clear();
        lines.extend(list.hypotheses.iter().map(|h| Line {
            slope: (coordinate.feature)(&h.features),
            height: others.combined(&h.features),
            errors: h.errors as i64,
        }));
        walk_envelope(&lines, coordinate.least, &mut steps);
    }
    steps.sort_unstable_by(|a, b| a.at.total_cmp(&b.at));
    let together = |steps: &[Step]| Step { at: steps[0].at, change: steps.iter().map(|s| s.change).sum() };
    let steps: Vec<Step> =
        steps.chunk_by(|a, b| a.at == b.at).map(together).filter(|step| step.change != 0).collect();
    if steps.is_empty() {
        return 0.0;
    }

    let starts = iter::once(coordinate.least).chain(steps.iter().map(|s| s.at));
    let ends = steps.iter().map(|s| s.at).chain(iter::once(f64::INFINITY));
    // Errors relative to those at the least value are enough to find their minimum.
    let changes = iter::once(0).chain(steps.iter().map(|s| s.change));
    let errors = changes.scan(0, |errors, change| {
        *errors += change;
        Some(*errors)
    });
    let ranked = starts.zip(ends).zip(errors).map(|((from, to), errors)| {
        let (width, middle) = interval(from, to);
        (errors, -width, middle.abs(), middle)
    });
    let finite = ranked.filter(|(.., middle)| middle.is_finite());
    let best = finite.reduce(|best, other| if other < best { other } else { best });
    best.map_or(0.0, |(.., middle)| middle)
}

/// The width and the middle of an interval, of which one end at most is infinite. It then counts as long as
/// its other end is far from 0, and at least 1.
fn interval(from: f64, to: f64) -> (f64, f64) {
    let from = if from.is_finite() { from } else { to - to.abs().max(1.0) };
    let to = if to.is_finite() { to } else { from + from.abs().max(1.0) };
    (to - from, from + (to - from) / 2.0)
}

/// The combined score of a hypothesis as a function of one weight.
struct Line {
    slope: f64,
    height: f64,
    errors: i64,
}

/// The choice follows the upper envelope of the lines of a list; it is walked from the least weight upwards.
fn walk_envelope(lines: &[Line], least: f64, steps: &mut Vec<Step>) {
    // At 0 the highest leads; at minus infinity the flattest, and of these the highest.
    let rank = |l: &Line| if least == 0.0 { (l.height, 0.0) } else { (-l.slope, l.height) };
    let first = lines.iter().reduce(|best, line| if rank(line) > rank(best) { line } else { best });
    let Some(mut current) = first else { return };

    let mut at = least;
    loop {
        // The line that is met next; of those met at once the steepest leads from there on.
        let met = lines.iter().filter(|line| line.slope > current.slope).filter_map(|line| {
            let meets = (current.height - line.height) / (line.slope - current.slope);
            meets.is_finite().then_some((meets, -line.slope, line))
        });
        let next = met.reduce(|a, b| if (b.0, b.1) < (a.0, a.1) { b } else { a });
        let Some((meets, _, line)) = next else { return };
        // Never backwards, which rounding alone could do.
        at = at.max(meets);
        if line.errors != current.errors {
            steps.push(Step { at, change: line.errors - current.errors });
        }
        current = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbest::normalise::NormaliseOptions;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    use std::time::{Duration, Instant};

    const ALL: Tunable = Tunable { lm: true, lorb: true, words: true };

    fn list(hypotheses: &[(f64, f64, f64, f64, u64)]) -> ScoredList {
        let hypotheses = hypotheses.iter().map(|&(first_pass, lm, lorb, words, errors)| ScoredHypothesis {
            features: Features { first_pass, lm, lorb, words },
            errors,
        });
        ScoredList { hypotheses: hypotheses.collect(), reference_units: 10 }
    }

    fn uniform(random: &mut ChaCha8Rng) -> f64 {
        f64::from(random.next_u32()) / f64::from(u32::MAX)
    }

    /// Lists whose scores tell something of the errors, and much else; some scores are equal.
    fn random_lists(seed: u64, count: usize, size: usize) -> Vec<ScoredList> {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut hypothesis = || {
            let errors = u64::from(random.next_u32() % 8);
            let mut noisy =
                |scale: f64| (scale * (4.0 * uniform(random) - 0.3 * errors as f64)).round() / 8.0;
            let (first_pass, lm, lorb) = (noisy(40.0), noisy(90.0), noisy(8.0));
            (first_pass, lm, lorb, f64::from(random.next_u32() % 4), errors)
        };
        (0..count).map(|_| list(&(0..size).map(|_| hypothesis()).collect::<Vec<_>>())).collect()
    }

    fn errors(lists: &[ScoredList], weights: &Weights) -> u64 {
        total_errors(lists, &chosen(lists, weights))
    }

    /// Every value of a weight that matters: between each two crossings of any two hypotheses.
    fn values_that_matter(lists: &[ScoredList], weights: Weights, coordinate: &Coordinate) -> Vec<f64> {
        let others = coordinate.with(weights, 0.0);
        let mut crossings = vec![0.0];
        for list in lists {
            for a in &list.hypotheses {
                for b in &list.hypotheses {
                    let rise = (coordinate.feature)(&b.features) - (coordinate.feature)(&a.features);
                    let meets = (others.combined(&a.features) - others.combined(&b.features)) / rise;
                    if rise != 0.0 && meets >= coordinate.least {
                        crossings.push(meets);
                    }
                }
            }
        }
        crossings.sort_by(f64::total_cmp);
        let (first, last) = (crossings[0], crossings[crossings.len() - 1]);
        let between = crossings.windows(2).map(|w| (w[0] + w[1]) / 2.0);
        between.chain([0.0, (first - 1.0).max(coordinate.least), last + 1.0]).collect()
    }

    #[test]
    fn one_weight_is_searched_exactly() {
        let start = Weights { lm: 0.2, lorb: 0.4, words: -0.5, ..Weights::default() };
        for seed in 0..40 {
            let lists = random_lists(seed, 6, 1 + seed as usize % 12);
            for (coordinate, which) in [
                (LM, Tunable { lm: true, ..Tunable::default() }),
                (LORB, Tunable { lorb: true, ..Tunable::default() }),
                (WORDS, Tunable { words: true, ..Tunable::default() }),
            ] {
                let tuned = tune(&lists, start, which);
                assert_eq!(coordinate.with(tuned, 0.0), coordinate.with(start, 0.0));
                let values = values_that_matter(&lists, start, &coordinate);
                let fewest = values.iter().map(|&v| errors(&lists, &coordinate.with(start, v))).min();
                assert_eq!(Some(errors(&lists, &tuned)), fewest, "seed {seed}");
            }
        }
    }

    #[test]
    fn three_weights_do_as_well_as_a_grid() {
        let (mut ours, mut of_grid) = (0, 0);
        for seed in 0..12 {
            let lists = random_lists(100 + seed, 40, 8);
            let tuned = tune(&lists, Weights::default(), ALL);
            assert!(tuned.first_pass == 1.0 && tuned.lm >= 0.0 && tuned.lorb >= 0.0);
            let grid =
                (0..12).flat_map(|lm| (0..12).flat_map(move |lorb| (-8..8).map(move |n| (lm, lorb, n))));
            let fewest = grid.map(|(lm, lorb, words)| {
                let (lm, lorb, words) = (f64::from(lm) * 0.1, f64::from(lorb), f64::from(words) * 0.5);
                errors(&lists, &Weights { first_pass: 1.0, lm, lorb, words })
            });
            let fewest = fewest.min().unwrap();
            let found = errors(&lists, &tuned);
            assert!(found <= errors(&lists, &Weights::default()));
            ours += found;
            of_grid += fewest;
        }
        assert!(ours <= of_grid, "tuned {ours}, grid {of_grid}");
    }

    #[test]
    fn the_middle_of_the_widest_interval_is_taken() {
        // Right for lm in (1, 2): the second list's better hypothesis loses above 2.
        let lists = [
            list(&[(1.0, 0.0, 0.0, 0.0, 1), (0.0, 1.0, 0.0, 0.0, 0)]),
            list(&[(2.0, 0.0, 0.0, 0.0, 0), (0.0, 1.0, 0.0, 0.0, 1)]),
        ];
        let lm = Tunable { lm: true, ..Tunable::default() };
        assert_eq!(tune(&lists, Weights::default(), lm).lm, 1.5);
        // Without that list there is no end: as far again as 1 is from 0.
        assert_eq!(tune(&lists[..1], Weights::default(), lm).lm, 1.5);
        let words = Tunable { words: true, ..Tunable::default() };
        let shorter = [list(&[(1.0, 0.0, 0.0, 4.0, 1), (0.0, 0.0, 0.0, 3.0, 0)])];
        assert_eq!(tune(&shorter, Weights::default(), words).words, -1.5);
    }

    #[test]
    fn weights_that_change_nothing_are_zero() {
        let same = [list(&[(1.0, 2.0, 3.0, 4.0, 0), (0.0, 2.0, 3.0, 4.0, 5)])];
        assert_eq!(tune(&same, Weights { lm: 0.7, ..Weights::default() }, ALL), Weights::default());
        assert_eq!(tune(&[], Weights { lm: 0.7, ..Weights::default() }, Tunable::default()).lm, 0.7);
    }

    #[test]
    fn equal_first_pass_scores_are_told_apart() {
        // At lm = 0 the order of the list decides, and wrongly.
        let lists = [list(&[(0.0, 0.0, 0.0, 0.0, 1), (0.0, 1.0, 0.0, 0.0, 0)])];
        assert_eq!(errors(&lists, &tune(&lists, Weights::default(), ALL)), 0);
    }

    #[test]
    fn a_weight_never_falls_below_zero() {
        let lists = [list(&[(1.0, 1.0, 1.0, 1.0, 1), (0.0, 0.0, 0.0, 1.0, 0)])];
        let tuned = tune(&lists, Weights::default(), ALL);
        assert!(tuned.lm >= 0.0 && tuned.lorb >= 0.0, "{tuned:?}");
    }

    #[test]
    fn huge_scores_give_finite_weights() {
        for scale in [1e300, f64::MAX, 1e-300, f64::MIN_POSITIVE] {
            let lists = [
                list(&[(1.0, 0.0, 0.0, 0.0, 1), (0.0, scale, -scale, 1.0, 0)]),
                list(&[(scale, 0.0, 0.0, 9.0, 1), (-scale, 1.0, scale, 1.0, 0)]),
            ];
            let Weights { first_pass, lm, lorb, words } = tune(&lists, Weights::default(), ALL);
            assert!([first_pass, lm, lorb, words].iter().all(|w| w.is_finite()));
        }
    }

    #[test]
    fn two_development_sets_are_quick() {
        let lists = random_lists(1, 5500, 30);
        let start = Instant::now();
        tune(&lists, Weights::default(), ALL);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn a_list_is_scored_from_an_utterance() {
        let hypothesis = |text: &str, lorb| crate::nbest::Hypothesis {
            text: text.into(),
            first_pass: -1.0,
            lm: None,
            lorb,
            fields: Default::default(),
        };
        let mut utterance = Utterance {
            id: "u".into(),
            reference: Some("a b C".into()),
            hypotheses: vec![hypothesis("A C", Some(0.5)), hypothesis("a b c", None)],
            fields: Default::default(),
        };
        let options: NormaliseOptions = serde_json::from_str(r#"{"case":"lower"}"#).unwrap();
        let normaliser = Normaliser::new(&options).unwrap();
        let scored = ScoredList::new(&utterance, None, &normaliser, Unit::Word).unwrap();
        assert_eq!((scored.reference_units, scored.oracle()), (3, 1));
        let facts = |l: &ScoredList| {
            l.hypotheses.iter().map(|h| (h.errors, h.features.lorb, h.features.words)).collect::<Vec<_>>()
        };
        assert_eq!(facts(&scored), [(1, 0.5, 2.0), (0, 0.0, 3.0)]);
        let scored = ScoredList::new(&utterance, Some(&[7.0, 8.0]), &normaliser, Unit::Word).unwrap();
        assert_eq!(facts(&scored), [(1, 7.0, 2.0), (0, 8.0, 3.0)]);
        utterance.reference = None;
        assert!(ScoredList::new(&utterance, None, &normaliser, Unit::Word).is_none());
    }
}
