use lorb_engine::ops::adamw::{Adamw, AdamwOptions, ParameterGroup};

use crate::autodiff::{Operation, Real};
use crate::harness::{Oracle, Random, ULP, bits};
use crate::oracle::{constants, sum};

/// Some steps over three ranges: two groups, and parameters that belong to none between them.
#[derive(Debug)]
struct Case {
    steps: usize,
    /// The size of the gradients: below the clip, or above it.
    size: f32,
}

const PARAMETERS: usize = 23;

fn groups() -> [ParameterGroup; 2] {
    [
        ParameterGroup { range: 0..13, lr: 2e-3, weight_decay: 0.1 },
        ParameterGroup { range: 16..PARAMETERS, lr: 3e-2, weight_decay: 0.0 },
    ]
}

impl Case {
    fn gradients(&self) -> Vec<Vec<f32>> {
        let mut random = Random::new(19);
        let mut step = || random.values(PARAMETERS).into_iter().map(|g| g * self.size).collect();
        (0..self.steps).map(|_| step()).collect()
    }
}

/// The values after the last step.
impl Operation for Case {
    fn naive<R: Real>(&self, values: &[R]) -> Vec<R> {
        let AdamwOptions { beta1, beta2, eps, clip } = AdamwOptions::default();
        let [beta1, beta2, eps, clip] = [beta1, beta2, eps, clip].map(|x| R::of(x.into()));
        let (one, groups) = (R::of(1.0), groups());
        let mut values = values.to_vec();
        let mut moments = [[R::of(0.0); 2]; PARAMETERS];
        let (mut power1, mut power2) = (one, one);
        for g in self.gradients() {
            let g: Vec<R> = constants(&g);
            let covered = groups.iter().flat_map(|group| group.range.clone());
            let norm = sum(covered.map(|i| g[i] * g[i])).sqrt();
            let scale = clip / (norm + R::of(1e-6));
            let scale = if scale.value() < 1.0 { scale } else { one };
            (power1, power2) = (power1 * beta1, power2 * beta2);
            for group in &groups {
                let (lr, decay) = (R::of(group.lr.into()), R::of(group.weight_decay.into()));
                for i in group.range.clone() {
                    let g = g[i] * scale;
                    let [m, v] = moments[i];
                    let (m, v) = (beta1 * m + (one - beta1) * g, beta2 * v + (one - beta2) * g * g);
                    moments[i] = [m, v];
                    let step = m / (one - power1) / ((v / (one - power2)).sqrt() + eps);
                    // The factor is rounded once, as torch.optim.AdamW does.
                    values[i] = values[i] * (one - lr * decay) - lr * step;
                }
            }
        }
        values
    }
}

#[test]
fn updates_are_those_of_the_oracle() {
    for steps in [1, 2, 10, 100] {
        for size in [1e-12, 1e-3, 1.0, 1e3, 1e30] {
            let case = Case { steps, size };
            let start = Random::new(20).values(PARAMETERS);
            // In f32 the naive squares of 1e30 are infinite; clipped, they are those of any large gradient.
            let oracle = match size {
                1e30 => Oracle {
                    naive: Oracle::forward(&Case { size: 1e3, ..case }, &start).naive,
                    ..Oracle::forward(&case, &start)
                },
                _ => Oracle::forward(&case, &start),
            };
            let mut adamw = Adamw::new(AdamwOptions::default(), PARAMETERS);
            let mut values = start.clone();
            for gradient in case.gradients() {
                let squares = |g: &ParameterGroup| {
                    gradient[g.range.clone()].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
                };
                let expected = groups().iter().map(squares).sum::<f64>().sqrt();
                let norm = adamw.update(&mut values, &gradient, &groups());
                assert!((norm - expected).abs() <= 1e-14 * expected);
            }
            oracle.check(format!("adamw, {case:?}"), &values, ULP * oracle.largest());
            assert_eq!(bits(&values[13..16]), bits(&start[13..16]), "what belongs to no group stays");
            assert_eq!(adamw.step, steps as u64);
        }
    }
}

#[test]
fn infinite_gradients_change_nothing() {
    let mut adamw = Adamw::new(AdamwOptions::default(), PARAMETERS);
    let mut values = Random::new(21).values(PARAMETERS);
    adamw.update(&mut values, &Case { steps: 1, size: 1.0 }.gradients()[0], &groups());
    let before = (adamw.clone(), values.clone());
    let mut gradient = vec![1.0; PARAMETERS];
    gradient[14] = f32::NAN;
    let mut unaffected = adamw.clone();
    assert!(unaffected.update(&mut values.clone(), &gradient, &groups()).is_finite(), "14 is in no group");
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        gradient[20] = bad;
        assert!(!adamw.update(&mut values, &gradient, &groups()).is_finite());
        assert_eq!((&adamw, &values), (&before.0, &before.1));
    }
}
