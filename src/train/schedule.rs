//! The learning rates over a run.

use super::options::TrainOptions;
use crate::lora::{Adapter, Entry, Group};
use crate::ops::adamw::ParameterGroup;

/// The share of all steps over which the learning rates rise.
pub const WARMUP: f32 = 0.05;

/// The factor of the peak rate at `step` (from 0) of `steps`: linear warm-up, reaching 1 after the `warmup`
/// share of the steps (at least one), then linear decay towards 0 after the last step.
pub fn lr_factor(step: u64, steps: u64, warmup: f32) -> f32 {
    let warm = ((steps as f64 * f64::from(warmup)).round() as u64).clamp(1, steps.max(1));
    if step < warm { (step + 1) as f32 / warm as f32 } else { (steps - step) as f32 / (steps - warm) as f32 }
}

/// Rates and decays of the tensors where the learning rates are `factor` of their peaks.
pub fn parameter_groups(adapter: &Adapter, options: &TrainOptions, factor: f32) -> Vec<ParameterGroup> {
    let of = |entry: &Entry| {
        let lr = if entry.kind.group() == Group::Lora { options.lr } else { options.head_lr };
        let weight_decay = if entry.kind.decays() { options.weight_decay } else { 0.0 };
        ParameterGroup { range: entry.range(), lr: lr * factor, weight_decay }
    };
    adapter.layout.entries().iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::run::tests::adapter;

    #[test]
    fn it_rises_then_falls_and_never_is_zero() {
        let factors: Vec<f32> = (0..20).map(|s| lr_factor(s, 20, 0.2)).collect();
        assert_eq!(factors[..4], [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(factors[4], 1.0);
        assert!(factors[4..].windows(2).all(|w| w[1] < w[0]));
        assert!(factors.iter().all(|&f| f > 0.0 && f <= 1.0));
        assert_eq!(lr_factor(0, 1, 0.05), 1.0);
    }

    #[test]
    fn heads_have_a_rate_of_their_own_and_matrices_alone_decay() {
        let options = TrainOptions { lr: 0.5, head_lr: 2.0, weight_decay: 0.25, ..TrainOptions::default() };
        let adapter = adapter(true, true);
        let groups = parameter_groups(&adapter, &options, 0.5);
        assert_eq!(groups.len(), adapter.layout.entries().len());
        for (group, entry) in groups.iter().zip(adapter.layout.entries()) {
            let (lr, weight_decay) = match &entry.name[..] {
                "theta" | "pooler.dense.bias" => (1.0, 0.0),
                "classifier.weight" | "pooler.dense.weight" => (1.0, 0.25),
                _ => (0.25, 0.25),
            };
            assert_eq!(*group, ParameterGroup { range: entry.range(), lr, weight_decay }, "{}", entry.name);
        }
    }
}
