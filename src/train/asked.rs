//! What a user asks of a recipe.

use serde::Deserialize;

use super::{Beta, TrainOptions};
use crate::lora::{LoraConfig, Targets};
use crate::{Error, Result};

/// The [`TrainOptions`] that a user gave, by the names of the command line; what is `None` is the engine's to choose.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub rank: Option<usize>,
    pub alpha: Option<f32>,
    pub targets: Option<Targets>,
    pub dropout: Option<f32>,
    pub lr: Option<f32>,
    pub head_lr: Option<f32>,
    pub weight_decay: Option<f32>,
    pub epochs: Option<u32>,
    pub patience: Option<u32>,
    pub hyps: Option<usize>,
    pub batch_tokens: Option<usize>,
    pub beta: Option<Beta>,
    pub first_pass_weight: Option<f64>,
    pub lm_weight: Option<f64>,
    pub ngram_order: Option<usize>,
    pub fresh_pooler: bool,
    pub corr_weight: Option<f64>,
    pub seed: Option<u64>,
}

impl Asked {
    /// Refuses what cannot work; `starts_from_adapter` where training starts from one, not from a fresh one.
    ///
    /// # Errors
    /// [`Error::Usage`] with the option.
    pub fn check(&self, starts_from_adapter: bool) -> Result<()> {
        let of_adapter = [
            ("--rank", self.rank.is_some()),
            ("--alpha", self.alpha.is_some()),
            ("--targets", self.targets.is_some()),
        ];
        if let Some((option, _)) = of_adapter.iter().find(|(_, given)| starts_from_adapter && *given) {
            return Err(Error::Usage(format!(
                "rank, alpha and targets are those of --init-adapter: leave {option} out"
            )));
        }
        self.over(TrainOptions::default()).check()
    }

    /// What was asked for, and `chosen` for the rest.
    pub fn over(&self, chosen: TrainOptions) -> TrainOptions {
        TrainOptions {
            lora: LoraConfig {
                rank: self.rank.unwrap_or(chosen.lora.rank),
                alpha: self.alpha.unwrap_or(chosen.lora.alpha),
                targets: self.targets.unwrap_or(chosen.lora.targets),
                dropout: self.dropout.unwrap_or(chosen.lora.dropout),
                rslora: chosen.lora.rslora,
            },
            lr: self.lr.unwrap_or(chosen.lr),
            head_lr: self.head_lr.unwrap_or(chosen.head_lr),
            weight_decay: self.weight_decay.unwrap_or(chosen.weight_decay),
            epochs: self.epochs.unwrap_or(chosen.epochs),
            patience: self.patience.or(chosen.patience),
            hyps: self.hyps.unwrap_or(chosen.hyps),
            batch_tokens: self.batch_tokens.unwrap_or(chosen.batch_tokens),
            beta: self.beta.unwrap_or(chosen.beta),
            first_pass_weight: self.first_pass_weight.or(chosen.first_pass_weight),
            lm_weight: self.lm_weight.unwrap_or(chosen.lm_weight),
            ngram_order: self.ngram_order.unwrap_or(chosen.ngram_order),
            fresh_pooler: self.fresh_pooler || chosen.fresh_pooler,
            correlation_weight: self.corr_weight.unwrap_or(chosen.correlation_weight),
            seed: self.seed.unwrap_or(chosen.seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_not_chosen() {
        let asked = Asked { hyps: Some(5), corr_weight: Some(0.5), ..Asked::default() };
        let chosen = TrainOptions { hyps: 8, batch_tokens: 800, epochs: 3, ..TrainOptions::default() };
        let expected = TrainOptions { hyps: 5, correlation_weight: 0.5, ..chosen.clone() };
        assert_eq!(asked.over(chosen), expected);
    }

    #[test]
    fn the_adapter_that_training_starts_from_has_its_own_rank() {
        let asked = Asked { rank: Some(4), ..Asked::default() };
        asked.check(false).unwrap();
        assert!(asked.check(true).unwrap_err().to_string().contains("leave --rank out"));
        Asked { dropout: Some(0.1), ..Asked::default() }.check(true).unwrap();
    }
}
