//! How fast a run learns where nobody said it: few lists are shown more often than many, with fewer hypotheses of each at
//! a time.

use super::TrainOptions;
use super::examples::Example;

/// Lists are few where fewer than so many teach something. Measured were 384 and less, and 4,500
/// (docs/adaptation.md, docs/results.md).
const FEW: usize = 2000;
/// Utterances that the epochs show together, about.
const SHOWN: f64 = 5000.0;
/// Epochs of few lists, at most: after them a new domain of 384 lists gained little.
const MOST_EPOCHS: f64 = 8.0;

impl TrainOptions {
    /// For the embedded lists, which are to end soon.
    pub fn for_embedded() -> TrainOptions {
        TrainOptions { epochs: 2, ..TrainOptions::default() }
    }

    /// For so many lists as `examples`.
    pub fn for_examples(examples: &[Example]) -> TrainOptions {
        let teaching = examples.iter().filter(|e| e.teaches()).count().max(1);
        let many = TrainOptions {
            epochs: (SHOWN / teaching as f64).round().clamp(1.0, MOST_EPOCHS) as u32,
            ..TrainOptions::default()
        };
        if teaching < FEW { TrainOptions { hyps: 8, batch_tokens: 800, ..many } } else { many }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescore::weights::Features;

    /// What is chosen for lists of which so many teach, and as many do not.
    fn chosen(teaching: usize) -> TrainOptions {
        let example =
            |i: usize| Example::of(1, &[0, u64::from(i < teaching)].map(|e| (Features::default(), e)));
        TrainOptions::for_examples(&(0..2 * teaching).map(example).collect::<Vec<_>>())
    }

    #[test]
    fn few_lists_are_shown_often_in_small_steps() {
        let few = TrainOptions { epochs: 8, hyps: 8, batch_tokens: 800, ..TrainOptions::default() };
        assert_eq!([0, 20, 384].map(chosen), [(); 3].map(|()| few.clone()));
        assert_eq!(chosen(1250), TrainOptions { epochs: 4, ..few });
    }

    #[test]
    fn many_lists_are_as_the_defaults_have_them() {
        for (teaching, epochs) in [(2000, 3), (4500, 1), (40_000, 1)] {
            assert_eq!(chosen(teaching), TrainOptions { epochs, ..TrainOptions::default() });
        }
    }
}
