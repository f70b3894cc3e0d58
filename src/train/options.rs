//! What a training run is given.

use serde::{Deserialize, Serialize};

use super::cross_fit::check_order;
use super::step::Objective;
use crate::lora::{LoraConfig, Target};
use crate::text::plain;
use crate::{Error, Result};

/// The weight of g in the loss's combined score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beta {
    Fixed(f64),
    /// Learned as e^theta, from this value on.
    Learned(f64),
}

impl Beta {
    /// The value at the start.
    pub fn initial(self) -> f64 {
        match self {
            Beta::Fixed(beta) | Beta::Learned(beta) => beta,
        }
    }
}

/// The recipe of a run. What it determines is the adapter, to the bit, on one instruction set.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    pub lora: LoraConfig,
    /// The peak learning rate of A and B.
    pub lr: f32,
    /// The peak learning rate of the classifier, of a fresh pooler and of theta.
    pub head_lr: f32,
    /// Decoupled; theta has none.
    pub weight_decay: f32,
    pub epochs: u32,
    /// Stop after so many validations in a row that were not the best; `None` trains all epochs. The learning rate
    /// falls over all of them in any case, so that a run which stops early is a longer one's beginning.
    pub patience: Option<u32>,
    /// Hypotheses of an utterance that take part in a step: the first pass's best, and others at random.
    pub hyps: usize,
    /// The tokens of a step, at most, unless a single utterance has more.
    pub batch_tokens: usize,
    pub beta: Beta,
    /// w_a in the loss; `None` chooses it so that the first pass alone is about as sure as
    /// [`CONFIDENCE`](crate::rescore::tune::CONFIDENCE) on average: raw log-scores saturate the softmax, and then nothing is learned.
    pub first_pass_weight: Option<f64>,
    /// w_l in the loss, relative to w_a.
    pub lm_weight: f64,
    /// The order of the n-gram model of the training references; 0 for none.
    pub ngram_order: usize,
    /// Train a fresh pooler instead of keeping the base's.
    pub fresh_pooler: bool,
    /// lambda, of the correlation loss; 0 leaves it out.
    pub correlation_weight: f64,
    pub seed: u64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            lora: LoraConfig { targets: Target::ALL.into_iter().collect(), ..LoraConfig::default() },
            lr: 1e-3,
            head_lr: 1e-2,
            weight_decay: 0.01,
            epochs: 1,
            patience: None,
            hyps: 16,
            batch_tokens: 1600,
            beta: Beta::Learned(1.0),
            first_pass_weight: None,
            lm_weight: 0.0,
            // A few hundred references say little of longer n-grams.
            ngram_order: 3,
            fresh_pooler: false,
            correlation_weight: 0.0,
            seed: 1,
        }
    }
}

impl TrainOptions {
    /// What a step's loss is made of.
    pub fn objective(&self) -> Objective {
        Objective { beta: self.beta.initial(), correlation_weight: self.correlation_weight, seed: self.seed }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Error::Usage`] with the option and its value.
    pub fn check(&self) -> Result<()> {
        self.lora.check()?;
        let refuse = |option: &str, value: f64, expected: &str| {
            Err(Error::Usage(format!("--{option} {value}: expected {expected}")))
        };
        for (option, value) in [("lr", self.lr), ("head-lr", self.head_lr)] {
            if !(value > 0.0 && value.is_finite()) {
                return refuse(option, plain(value), "a number above 0");
            }
        }
        for (option, value) in [
            ("weight-decay", plain(self.weight_decay)),
            ("lm-weight", self.lm_weight),
            ("corr-weight", self.correlation_weight),
            ("first-pass-weight", self.first_pass_weight.unwrap_or(0.0)),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return refuse(option, value, "0 or a number above it");
            }
        }
        let beta = self.beta.initial();
        if !(beta > 0.0 && beta.is_finite()) {
            return refuse("beta", beta, "a number above 0");
        }
        if self.epochs == 0 {
            return refuse("epochs", 0.0, "at least 1");
        }
        if self.patience == Some(0) {
            return refuse("patience", 0.0, "at least 1");
        }
        if self.hyps < 2 {
            return refuse("hyps", self.hyps as f64, "at least 2: one hypothesis alone teaches nothing");
        }
        check_order(self.ngram_order)
    }
}
