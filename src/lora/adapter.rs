//! An adapter: the trained parameters that turn a base BERT into a rescoring model.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Layout, LoraConfig, Target};
use crate::bert::{self, Checkpoint};
use crate::{Error, Result};

/// The standard deviation of fresh dense layers, BERT's initializer_range.
const FRESH_STD: f32 = 0.02;

/// The parameters trained on top of a base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub config: LoraConfig,
    pub layout: Layout,
    /// All trainable parameters, where `layout` says.
    pub values: Vec<f32>,
    /// Not trained; kept so that scores equal those of the model it came from.
    pub classifier_bias: f32,
    /// The folder or hub name of the base, for people and for PEFT.
    pub base_name: String,
}

/// Whether the checkpoint has a classifier that gives one score: where not, an adapter's starts at random.
pub fn has_classifier(config: &bert::Config, checkpoint: &Checkpoint) -> bool {
    checkpoint.shape("classifier.weight") == Some(&[1, config.hidden])
}

impl Adapter {
    /// A fresh adapter: A uniform as in PEFT and B zero, so that it changes nothing yet.
    ///
    /// The classifier is the checkpoint's where that has one of shape `[1, H]`; a missing pooler is drawn
    /// fresh and trained. Each tensor has its own random stream by `seed`, its layer and its target, so that
    /// it does not depend on which others there are. With `learned_beta`, beta starts there and is trained.
    ///
    /// # Errors
    /// [`Error::Usage`] for impossible hyperparameters, [`Error::Tensor`] where the checkpoint's classifier
    /// cannot be read.
    pub fn initialise(
        config: &bert::Config,
        checkpoint: &Checkpoint,
        lora: LoraConfig,
        learned_beta: Option<f32>,
        seed: u64,
    ) -> Result<Self> {
        lora.check()?;
        let layout = Layout::new(config, &lora, false, false);
        let mut values = vec![0.0; layout.len()];
        for layer in 0..config.layers {
            for target in Target::ALL {
                if let Some(slot) = layout.lora(layer, target) {
                    // Kaiming-uniform with a = sqrt(5), as PEFT has it.
                    let bound = 1.0 / (slot.input as f32).sqrt();
                    let stream = (layer * Target::ALL.len() + target as usize) as u64;
                    fill_uniform(&mut values[slot.a.clone()], bound, seed, stream);
                }
            }
        }
        let mut classifier_bias = 0.0;
        let classifier = &mut values[layout.classifier()];
        if has_classifier(config, checkpoint) {
            classifier.copy_from_slice(&checkpoint.f32("classifier.weight", &[1, config.hidden])?);
            classifier_bias = checkpoint.f32("classifier.bias", &[1])?[0];
        } else {
            fill_normal(classifier, FRESH_STD, seed, u64::MAX - 1);
        }
        let base_name = checkpoint.path().display().to_string();
        let mut adapter = Adapter { config: lora, layout, values, classifier_bias, base_name };
        if !checkpoint.contains("pooler.dense.weight") {
            adapter = adapter.with_fresh_pooler(config, seed);
        }
        match learned_beta {
            Some(beta) => adapter.learn_beta(config, beta),
            None => Ok(adapter),
        }
    }

    /// The same adapter with a pooler of its own, drawn fresh, instead of the base's: for a base whose
    /// pooler was trained for something else, or not at all. An adapter that has its own keeps it.
    pub fn with_fresh_pooler(mut self, config: &bert::Config, seed: u64) -> Self {
        let layout = Layout::new(config, &self.config, true, self.layout.theta().is_some());
        if let (None, Some((weight, bias))) = (self.layout.pooler(), layout.pooler()) {
            let mut fresh = vec![0.0; weight.len() + bias.len()];
            fill_normal(&mut fresh[..weight.len()], FRESH_STD, seed, u64::MAX);
            self.values.splice(weight.start..weight.start, fresh);
            self.layout = layout;
        }
        self
    }

    /// The same adapter with theta = ln(beta) as its last parameter. PEFT files do not hold it, so whoever
    /// resumes from one gives it again.
    ///
    /// # Errors
    /// [`Error::Usage`] where `beta` is not positive.
    pub fn learn_beta(mut self, config: &bert::Config, beta: f32) -> Result<Self> {
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(Error::Usage(format!("a learned beta must start above 0, not at {beta}")));
        }
        self.layout = Layout::new(config, &self.config, self.layout.pooler().is_some(), true);
        self.values.truncate(self.layout.of_network());
        self.values.push(beta.ln());
        Ok(self)
    }

    /// The weight of g in the loss, where it is learned.
    pub fn beta(&self) -> Option<f32> {
        self.layout.theta().map(|at| self.values[at].exp())
    }
}

fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Uniform in `-bound..bound`.
fn fill_uniform(values: &mut [f32], bound: f32, seed: u64, stream: u64) {
    let mut rng = random(seed, stream);
    for value in values {
        // 24 bits: all that an f32 in 0..1 holds evenly.
        let unit = (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
        *value = (2.0 * unit - 1.0) * bound;
    }
}

/// Normal with mean 0, by Box and Muller.
fn fill_normal(values: &mut [f32], std: f32, seed: u64, stream: u64) {
    let mut rng = random(seed, stream);
    // In 0..=1 without 0, whose logarithm is infinite.
    let mut unit = || (f64::from(rng.next_u32()) + 1.0) / (1u64 << 32) as f64;
    for value in values {
        let radius = (-2.0 * unit().ln()).sqrt();
        *value = std * (radius * (std::f64::consts::TAU * unit()).cos()) as f32;
    }
}
