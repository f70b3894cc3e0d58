//! Which hypotheses a step sees: a function of the seed and the epoch alone, so that a resumed run needs
//! no saved random state.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::examples::Example;

/// The steps of one epoch: for each, utterances with the hypotheses that take part.
pub type EpochPlan = Vec<Vec<Sample>>;

/// An utterance and some of its hypotheses, by number, the first pass's best among them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub example: usize,
    pub hypotheses: Vec<usize>,
}

/// Draws an epoch: the examples that teach something, in random order, each with `hyps` hypotheses,
/// filling steps of at most `batch_tokens` tokens.
pub fn plan_epoch(
    examples: &[Example],
    hyps: usize,
    batch_tokens: usize,
    seed: u64,
    epoch: u32,
) -> EpochPlan {
    let mut random = random(seed, epoch.into());
    let mut order: Vec<usize> = (0..examples.len()).filter(|&i| examples[i].teaches()).collect();
    shuffle(&mut order, &mut random);
    let mut steps: EpochPlan = Vec::new();
    let mut room = 0;
    for example in order {
        let hypotheses = draw(&examples[example], hyps, &mut random);
        let tokens: usize = hypotheses.iter().map(|&h| examples[example].tokens[h].len()).sum();
        match steps.last_mut() {
            Some(step) if tokens <= room => step.push(Sample { example, hypotheses }),
            _ => {
                steps.push(vec![Sample { example, hypotheses }]);
                room = batch_tokens.max(tokens);
            }
        }
        room -= tokens;
    }
    steps
}

/// The first pass's best and `hyps - 1` others, in the order of the list.
fn draw(example: &Example, hyps: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let all = &example.list.hypotheses;
    let best = (0..all.len())
        .max_by(|&a, &b| {
            let (a, b) = (all[a].features.first_pass, all[b].features.first_pass);
            a.total_cmp(&b)
        })
        .unwrap_or(0);
    let mut others: Vec<usize> = (0..all.len()).filter(|&h| h != best).collect();
    shuffle(&mut others, random);
    others.truncate(hyps.saturating_sub(1));
    others.push(best);
    others.sort_unstable();
    others
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
