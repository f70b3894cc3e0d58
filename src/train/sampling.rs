//! Which hypotheses a step sees: a function of the seed and the epoch alone, so that a resumed run needs
//! no saved random state.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::examples::Example;
use crate::rescore::weights::Weights;

/// The steps of one epoch: for each, utterances with the hypotheses that take part.
pub type EpochPlan = Vec<Vec<Sample>>;

/// An utterance and some of its hypotheses, by number, the first pass's best among them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub example: usize,
    pub hypotheses: Vec<usize>,
}

impl Sample {
    /// Of its hypotheses.
    pub fn tokens(&self, examples: &[Example]) -> usize {
        self.hypotheses.iter().map(|&h| examples[self.example].tokens[h].len()).sum()
    }
}

/// How the hypotheses of a step are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Hypotheses of an utterance, at most.
    pub hyps: usize,
    /// Tokens of a step, at most.
    pub batch_tokens: usize,
    /// The first-pass part of the combined score: hypotheses that it finds likely are drawn more often.
    pub weights: Weights,
    pub seed: u64,
}

/// Draws an epoch: the examples that teach something, in random order, each with some of its hypotheses,
/// filling steps with tokens.
pub fn plan_epoch(examples: &[Example], draw: Draw, epoch: u32) -> EpochPlan {
    let mut random = random(draw.seed, epoch.into());
    let mut order: Vec<usize> = (0..examples.len()).filter(|&i| examples[i].teaches()).collect();
    shuffle(&mut order, &mut random);
    let mut steps: EpochPlan = Vec::new();
    let mut room = 0;
    for example in order {
        let sample = Sample { example, hypotheses: hypotheses(&examples[example], draw, &mut random) };
        let tokens = sample.tokens(examples);
        match steps.last_mut() {
            Some(step) if tokens <= room => step.push(sample),
            _ => {
                steps.push(vec![sample]);
                room = draw.batch_tokens.max(tokens);
            }
        }
        room -= tokens;
    }
    steps
}

/// The first pass's best, and others without replacement with probabilities in proportion to
/// softmax(score), by the Gumbel top-k trick (Kool et al., arXiv 1903.06059): the hypotheses that compete
/// with the best are those that the loss can tell apart. In the order of the list.
fn hypotheses(example: &Example, draw: Draw, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut keyed: Vec<(f64, usize)> = Vec::new();
    let mut best = (f64::NEG_INFINITY, 0);
    for (i, hypothesis) in example.list.hypotheses.iter().enumerate() {
        let score = draw.weights.combined(&hypothesis.features);
        if score > best.0 {
            best = (score, i);
        }
        // Uniform in (0, 1), never its ends.
        let uniform = ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        keyed.push((score - (-uniform.ln()).ln(), i));
    }
    keyed[best.1].0 = f64::INFINITY;
    keyed.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut drawn: Vec<usize> = keyed.into_iter().take(draw.hyps).map(|(_, i)| i).collect();
    drawn.sort_unstable();
    drawn
}

/// A random stream of a run. Its seed is another than that of the adapter's start, whose streams have numbers as well.
pub fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x4C6F_5242);
    random.set_stream(stream);
    random
}

/// Fisher and Yates's shuffle.
pub fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        // The bias of a multiply-shift draw over 64 bits is below 2^-32 for any list that fits in memory.
        let j = ((u128::from(random.next_u64()) * (i as u128 + 1)) >> 64) as usize;
        items.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescore::weights::Features;

    /// A list whose hypotheses have these first-pass scores, as many errors as their number, and `tokens` tokens each.
    fn example(scores: &[f64], tokens: usize) -> Example {
        let scored = scores.iter().map(|&first_pass| Features { first_pass, ..Features::default() });
        let hypotheses: Vec<_> = scored.zip(0..).collect();
        Example { tokens: vec![vec![0; tokens]; scores.len()], ..Example::of(1, &hypotheses) }
    }

    const DRAW: Draw = Draw {
        hyps: 3,
        batch_tokens: 100,
        weights: Weights { first_pass: 1.0, lm: 0.0, lorb: 0.0, words: 0.0, ngram: 0.0 },
        seed: 1,
    };

    #[test]
    fn the_best_is_always_drawn_and_the_likely_more_often() {
        let examples = [example(&[-3.0, -1.0, -9.0, 0.0, 0.0, -2.0], 2)];
        let mut drawn = [0; 6];
        for epoch in 0..1000 {
            let hypotheses = &plan_epoch(&examples, DRAW, epoch)[0][0].hypotheses;
            assert!(hypotheses.len() == 3 && hypotheses.is_sorted_by(|a, b| a < b), "{hypotheses:?}");
            hypotheses.iter().for_each(|&i| drawn[i] += 1);
        }
        // Of two that are as good the first is the best.
        assert_eq!(drawn[3], 1000);
        let [likely_last, likely, unlikely, _, tied, between] = drawn;
        assert!(
            tied > likely && likely > between && between > likely_last && likely_last > unlikely,
            "{drawn:?}"
        );
        assert!(tied < 1000, "{drawn:?}");
        let all = Draw { hyps: 9, ..DRAW };
        assert_eq!(plan_epoch(&examples, all, 0)[0][0].hypotheses, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn every_epoch_draws_anew_and_can_be_drawn_again() {
        let examples: Vec<Example> = (0..20).map(|_| example(&[0.0, -0.1, -0.2, -0.3, -0.4], 2)).collect();
        let plan = |seed, epoch| plan_epoch(&examples, Draw { seed, ..DRAW }, epoch);
        assert_eq!(plan(1, 0), plan(1, 0));
        assert_ne!(plan(1, 0), plan(1, 1));
        assert_ne!(plan(1, 0), plan(2, 0));
    }

    #[test]
    fn steps_are_filled_with_what_teaches() {
        let nothing = || example(&[0.0], 2);
        let (short, long) = (|| example(&[0.0, -1.0], 10), || example(&[0.0, -1.0], 70));
        let examples = [short(), nothing(), short(), short(), nothing(), short(), long(), short(), short()];
        let plan = plan_epoch(&examples, DRAW, 0);
        let mut shown: Vec<usize> = plan.iter().flatten().map(|sample| sample.example).collect();
        shown.sort_unstable();
        assert_eq!(shown, [0, 2, 3, 5, 6, 7, 8]);
        let tokens = |step: &Vec<Sample>| -> usize {
            step.iter().map(|s| [20, 140][usize::from(s.example == 6)]).sum()
        };
        // The long one is more than a step, and has one of its own; of the others five fill one.
        for (i, step) in plan.iter().enumerate() {
            assert!(tokens(step) <= 100 || step.len() == 1, "{plan:?}");
            let next = plan.get(i + 1).map_or(100, |next| tokens(&next[..1].to_vec()));
            assert!(tokens(step) + next > 100, "{plan:?}");
        }
    }
}
