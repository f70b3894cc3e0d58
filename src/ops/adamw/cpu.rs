use super::{Adamw, AdamwOptions, ParameterGroup};

impl Adamw {
    /// The state before the first of `parameters` parameters has moved.
    pub fn new(options: AdamwOptions, parameters: usize) -> Adamw {
        Adamw { options, m: vec![0.0; parameters], v: vec![0.0; parameters], step: 0 }
    }

    /// One update of `values` by `gradient`; what no group covers stays as it is, and out of the norm.
    /// Returns the gradient's norm before clipping, which is NaN or infinite where the gradient is;
    /// nothing is changed then.
    pub fn update(&mut self, values: &mut [f32], gradient: &[f32], groups: &[ParameterGroup]) -> f64 {
        let covered = groups.iter().flat_map(|g| &gradient[g.range.clone()]);
        let norm = covered.map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return norm;
        }
        let AdamwOptions { beta1, beta2, eps, clip } = self.options;
        // The 1e-6 is clip_grad_norm_'s.
        let scale = (f64::from(clip) / (norm + 1e-6)).min(1.0) as f32;
        self.step += 1;
        let correct1 = 1.0 - f64::from(beta1).powf(self.step as f64);
        let correct2 = (1.0 - f64::from(beta2).powf(self.step as f64)).sqrt() as f32;
        for group in groups {
            let decay = 1.0 - group.lr * group.weight_decay;
            let rate = (f64::from(group.lr) / correct1) as f32;
            for i in group.range.clone() {
                let g = gradient[i] * scale;
                self.m[i] += (g - self.m[i]) * (1.0 - beta1);
                self.v[i] = self.v[i] * beta2 + g * g * (1.0 - beta2);
                values[i] = values[i] * decay - rate * self.m[i] / (self.v[i].sqrt() / correct2 + eps);
            }
        }
        norm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(range: std::ops::Range<usize>) -> ParameterGroup {
        ParameterGroup { range, lr: 0.1, weight_decay: 0.0 }
    }

    #[test]
    fn the_first_step_is_the_rate_whatever_the_gradient() {
        let mut adamw = Adamw::new(AdamwOptions::default(), 3);
        let mut values = vec![1.0, 1.0, 1.0];
        let norm = adamw.update(&mut values, &[3.0, -4.0, 100.0], &[group(0..2)]);
        assert_eq!(norm, 5.0);
        assert!((values[0] - 0.9).abs() < 1e-5 && (values[1] - 1.1).abs() < 1e-5, "{values:?}");
        assert_eq!(values[2], 1.0);
    }

    #[test]
    fn weight_decay_is_apart_from_the_moments() {
        let mut adamw = Adamw::new(AdamwOptions::default(), 1);
        let mut values = vec![2.0];
        adamw.update(&mut values, &[0.0], &[ParameterGroup { range: 0..1, lr: 0.1, weight_decay: 0.5 }]);
        assert!((values[0] - 1.9).abs() < 1e-6, "{values:?}");
        assert_eq!(adamw.m[0], 0.0);
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let mut adamw = Adamw::new(AdamwOptions::default(), 1);
        let mut values = vec![2.0];
        assert!(adamw.update(&mut values, &[f32::NAN], &[group(0..1)]).is_nan());
        assert_eq!((values[0], adamw.step), (2.0, 0));
    }
}
