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
        let hypotheses = hypotheses(&examples[example], draw, &mut random);
        let tokens: usize = hypotheses.iter().map(|&h| examples[example].tokens[h].len()).sum();
        match steps.last_mut() {
            Some(step) if tokens <= room => step.push(Sample { example, hypotheses }),
            _ => {
                steps.push(vec![Sample { example, hypotheses }]);
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

/// A random stream of a run.
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
