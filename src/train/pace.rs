//! How fast a run learns where nobody said it: few lists are shown more often than many, with fewer hypotheses of each at
//! a time.

use super::TrainOptions;
use super::examples::Example;

/// The options that the number of lists decides, each `None` where it is left to that.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    pub epochs: Option<u32>,
    pub hyps: Option<usize>,
    pub batch_tokens: Option<usize>,
}

/// Lists are few where fewer than so many teach something. Measured were 384 and less, and 4,500
/// (docs/adaptation.md, docs/results.md).
const FEW: usize = 2000;
/// Utterances that the epochs show together, about.
const SHOWN: f64 = 5000.0;
/// Epochs of few lists, at most: after them a new domain of 384 lists gained little.
const MOST_EPOCHS: f64 = 8.0;

impl Pace {
    /// Of the embedded lists, which are to end soon.
    pub const EMBEDDED: Pace = Pace { epochs: Some(2), hyps: None, batch_tokens: None };

    /// What suits `examples`; many lists have the rest as [`TrainOptions::default`] has it.
    pub fn of(examples: &[Example]) -> Pace {
        let teaching = examples.iter().filter(|e| e.teaches()).count().max(1);
        let epochs = Some((SHOWN / teaching as f64).round().clamp(1.0, MOST_EPOCHS) as u32);
        if teaching < FEW {
            Pace { epochs, hyps: Some(8), batch_tokens: Some(800) }
        } else {
            Pace { epochs, ..Pace::default() }
        }
    }

    /// What was asked for, and `chosen` for the rest.
    pub fn or(self, chosen: Pace) -> Pace {
        Pace {
            epochs: self.epochs.or(chosen.epochs),
            hyps: self.hyps.or(chosen.hyps),
            batch_tokens: self.batch_tokens.or(chosen.batch_tokens),
        }
    }

    /// Writes what is decided into `options`.
    pub fn set(self, options: &mut TrainOptions) {
        options.epochs = self.epochs.unwrap_or(options.epochs);
        options.hyps = self.hyps.unwrap_or(options.hyps);
        options.batch_tokens = self.batch_tokens.unwrap_or(options.batch_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescore::weights::Features;

    /// Lists that teach, and as many that do not.
    fn examples(teaching: usize) -> Vec<Example> {
        let example =
            |i: usize| Example::of(1, &[0, u64::from(i < teaching)].map(|e| (Features::default(), e)));
        (0..2 * teaching).map(example).collect()
    }

    #[test]
    fn few_lists_are_shown_often_in_small_steps() {
        let few = Pace { epochs: Some(8), hyps: Some(8), batch_tokens: Some(800) };
        assert_eq!(Pace::of(&examples(20)), few);
        assert_eq!(Pace::of(&examples(384)), few);
        assert_eq!(Pace::of(&examples(1250)), Pace { epochs: Some(4), ..few });
        assert_eq!(Pace::of(&[]), few);
    }

    #[test]
    fn many_lists_are_as_the_options_have_them() {
        assert_eq!(Pace::of(&examples(2000)), Pace { epochs: Some(3), ..Pace::default() });
        assert_eq!(Pace::of(&examples(4500)), Pace { epochs: Some(1), ..Pace::default() });
        assert_eq!(Pace::of(&examples(40_000)), Pace { epochs: Some(1), ..Pace::default() });
    }

    #[test]
    fn what_was_asked_for_is_not_chosen() {
        let asked = Pace { hyps: Some(5), ..Pace::default() };
        let mut options = TrainOptions { lr: 5e-4, ..TrainOptions::default() };
        asked.or(Pace::of(&examples(20))).set(&mut options);
        let expected =
            TrainOptions { lr: 5e-4, hyps: 5, batch_tokens: 800, epochs: 8, ..TrainOptions::default() };
        assert_eq!(options, expected);
    }
}
