//! The learning rate over a run.

/// The factor of the peak rate at `step` (from 0) of `steps`: linear warm-up, reaching 1 after the `warmup`
/// share of the steps (at least one), then linear decay towards 0 after the last step.
pub fn lr_factor(step: u64, steps: u64, warmup: f32) -> f32 {
    let warm = ((steps as f64 * f64::from(warmup)).round() as u64).clamp(1, steps.max(1));
    if step < warm { (step + 1) as f32 / warm as f32 } else { (steps - step) as f32 / (steps - warm) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_then_falls_and_never_is_zero() {
        let factors: Vec<f32> = (0..20).map(|s| lr_factor(s, 20, 0.2)).collect();
        assert_eq!(factors[..4], [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(factors[4], 1.0);
        assert!(factors[4..].windows(2).all(|w| w[1] < w[0]));
        assert!(factors.iter().all(|&f| f > 0.0 && f <= 1.0));
        assert_eq!(lr_factor(0, 1, 0.05), 1.0);
    }
}
