use lorb_engine::device::Memory;
use lorb_engine::device::cuda::tiles::{ADAMW_CHUNK, ADAMW_THREADS};
use lorb_engine::ops::adamw::cuda::DeviceAdamw;
use lorb_engine::ops::adamw::{Adamw, AdamwOptions, ParameterGroup};

use crate::devices::devices;
use crate::harness::{Oracle, Random, ULP, bits};

/// Some chunks and a part of one; the groups meet in one, and leave out what lies between them.
const PARAMETERS: usize = 2 * ADAMW_CHUNK as usize + 23;
const GAP: std::ops::Range<usize> = 2 * ADAMW_CHUNK as usize + 3..2 * ADAMW_CHUNK as usize + 9;

fn groups(factor: f32) -> Vec<ParameterGroup> {
    let group = |range, lr: f32, weight_decay| ParameterGroup { range, lr: lr * factor, weight_decay };
    vec![group(0..700, 2e-3, 0.1), group(700..GAP.start, 2e-3, 0.1), group(GAP.end..PARAMETERS, 3e-2, 0.0)]
}

fn factor(step: u32) -> f32 {
    1.0 - step as f32 / 32.0
}

/// Algorithm 2 of the paper, in f64, after clipping: the values after as many steps as there are gradients.
fn exact(start: &[f32], gradients: &[Vec<f32>]) -> Vec<f64> {
    let AdamwOptions { beta1, beta2, eps, clip } = AdamwOptions::default();
    let [beta1, beta2, eps, clip] = [beta1, beta2, eps, clip].map(f64::from);
    let mut values: Vec<f64> = start.iter().map(|&x| x.into()).collect();
    let (mut m, mut v) = (vec![0.0; PARAMETERS], vec![0.0; PARAMETERS]);
    for (gradient, step) in gradients.iter().zip(1..) {
        let groups = groups(factor(step as u32));
        let places = || groups.iter().flat_map(|g| g.range.clone().map(move |i| (i, g)));
        let norm = places().map(|(i, _)| f64::from(gradient[i]).powi(2)).sum::<f64>().sqrt();
        let scale = (clip / (norm + 1e-6)).min(1.0);
        for (i, group) in places() {
            let (lr, decay) = (f64::from(group.lr), f64::from(group.weight_decay));
            let g = f64::from(gradient[i]) * scale;
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let (m, v) = (m[i] / (1.0 - beta1.powi(step)), v[i] / (1.0 - beta2.powi(step)));
            values[i] = values[i] * (1.0 - lr * decay) - lr * m / (v.sqrt() + eps);
        }
    }
    values
}

#[test]
fn ten_updates_are_those_of_the_oracle_and_of_the_cpu() {
    let cuda = devices().next().unwrap();
    for size in [1e-12, 1e-3, 1.0, 1e30] {
        let mut random = Random::new(19);
        let start = random.values(PARAMETERS);
        let mut step = || random.values(PARAMETERS).into_iter().map(|g| g * size).collect();
        let gradients: Vec<Vec<f32>> = (0..10).map(|_| step()).collect();

        let (mut on_cpu, mut naive) = (Adamw::new(AdamwOptions::default(), PARAMETERS), start.clone());
        let mut adamw = DeviceAdamw::new(&cuda, &on_cpu, &groups(1.0));
        let mut values = cuda.parameters(&start);
        let mut norm = cuda.parameters(&[7.0; 3]);
        for (gradient, step) in gradients.iter().zip(1..) {
            let expected = on_cpu.update(&mut naive, gradient, &groups(factor(step)));
            adamw.set_step(&cuda, step, factor(step));
            adamw.update(&cuda, &mut values, &cuda.parameters(gradient), (&mut norm, 1));
            let norm = cuda.download_flat(&norm).unwrap();
            assert_eq!((norm[0], norm[2]), (7.0, 7.0));
            assert!((f64::from(norm[1]) - expected).abs() <= ULP * expected, "{norm:?} not {expected}");
        }
        let oracle = Oracle { exact: exact(&start, &gradients), naive };
        let values = cuda.download_flat(&values).unwrap();
        let floor = ULP * oracle.largest();
        oracle.check(format!("adamw, gradients of {size}"), &values, floor);
        assert_eq!(bits(&values[GAP]), bits(&start[GAP]), "what belongs to no group stays");

        // The state, too: another device goes on from where this one is.
        let state = adamw.state(&cuda, 10).unwrap();
        assert_eq!((state.step, &state.m[GAP], &state.v[GAP]), (10, &[0.0; 6][..], &[0.0; 6][..]));
        for (a, e) in state.m.iter().zip(&on_cpu.m).chain(state.v.iter().zip(&on_cpu.v)) {
            // Ten roundings of sums of up to the size of a clipped gradient.
            let largest = size.min(1.0);
            assert!((a - e).abs() <= 10.0 * f32::EPSILON * largest, "{a} not {e}");
        }
        let mut again = DeviceAdamw::new(&cuda, &state, &groups(1.0));
        let (mut here, mut there) = (cuda.parameters(&values), cuda.parameters(&values));
        for (adamw, values) in [(&mut adamw, &mut here), (&mut again, &mut there)] {
            adamw.set_step(&cuda, 11, 0.5);
            adamw.update(&cuda, values, &cuda.parameters(&gradients[0]), (&mut norm, 0));
        }
        let (here, there) = (cuda.download_flat(&here).unwrap(), cuda.download_flat(&there).unwrap());
        assert_eq!(bits(&here), bits(&there));
        assert_ne!(bits(&here), bits(&values));
    }
}

/// Where beta2^t is near 1, and where it is nothing.
#[test]
fn late_updates_have_the_right_bias_corrections() {
    let cuda = devices().next().unwrap();
    for step in [2, 1000, 1 << 20] {
        let start = [0.5f32; PARAMETERS];
        let (m, v) = (vec![1e-3; PARAMETERS], vec![1e-4; PARAMETERS]);
        let state = Adamw { options: AdamwOptions::default(), m, v, step: step - 1 };
        let (mut on_cpu, mut expected) = (state.clone(), start.to_vec());
        let gradient = vec![1e-3; PARAMETERS];
        on_cpu.update(&mut expected, &gradient, &groups(1.0));
        let mut adamw = DeviceAdamw::new(&cuda, &state, &groups(1.0));
        let (mut values, mut norm) = (cuda.parameters(&start), cuda.parameters(&[0.0]));
        adamw.set_step(&cuda, step as u32, 1.0);
        adamw.update(&cuda, &mut values, &cuda.parameters(&gradient), (&mut norm, 0));
        for (a, e) in cuda.download_flat(&values).unwrap().iter().zip(&expected) {
            assert!((a - e).abs() <= 2.0 * f32::EPSILON * e.abs(), "step {step}: {a} not {e}");
        }
    }
}

#[test]
fn infinite_gradients_change_nothing() {
    let cuda = devices().next().unwrap();
    let start = Random::new(21).values(PARAMETERS);
    let mut gradient = vec![1.0; PARAMETERS];
    gradient[GAP.start] = f32::NAN;
    let state = Adamw::new(AdamwOptions::default(), PARAMETERS);
    for (bad, moves) in [(1.0, true), (f32::INFINITY, false), (f32::NEG_INFINITY, false), (f32::NAN, false)] {
        gradient[PARAMETERS - 1] = bad;
        let mut adamw = DeviceAdamw::new(&cuda, &state, &groups(1.0));
        let (mut values, mut norm) = (cuda.parameters(&start), cuda.parameters(&[0.0]));
        adamw.set_step(&cuda, 1, 1.0);
        adamw.update(&cuda, &mut values, &cuda.parameters(&gradient), (&mut norm, 0));
        let (values, norm) = (cuda.download_flat(&values).unwrap(), cuda.download_flat(&norm).unwrap());
        assert_eq!((norm[0].is_finite(), bits(&values) != bits(&start)), (moves, moves), "{bad}");
        assert_eq!(adamw.state(&cuda, 0).unwrap() == state, !moves, "{bad}");
    }
}

/// Two blocks more than the threads of one, each of which has a part of the norm.
#[test]
fn the_norm_is_of_all_blocks() {
    let cuda = devices().next().unwrap();
    let parameters = ((ADAMW_THREADS + 2) * ADAMW_CHUNK) as usize;
    let groups = [ParameterGroup { range: 0..parameters, lr: 1e-3, weight_decay: 0.0 }];
    let mut gradient = vec![0.0; parameters];
    (gradient[0], gradient[parameters - 1]) = (3.0, 4.0);
    let mut adamw = DeviceAdamw::new(&cuda, &Adamw::new(AdamwOptions::default(), parameters), &groups);
    let mut values = cuda.parameters(&vec![0.0; parameters]);
    let mut norm = cuda.parameters(&[0.0]);
    adamw.set_step(&cuda, 1, 1.0);
    adamw.update(&cuda, &mut values, &cuda.parameters(&gradient), (&mut norm, 0));
    assert_eq!(cuda.download_flat(&norm).unwrap(), [5.0]);
}

/// By clip / (norm + 1e-6), as `clip_grad_norm_` does.
#[test]
fn small_gradients_are_clipped_to_less_than_the_limit() {
    let cuda = devices().next().unwrap();
    let options = AdamwOptions { clip: 1e-6, ..AdamwOptions::default() };
    let groups = [ParameterGroup { range: 0..1, lr: 1e-3, weight_decay: 0.0 }];
    let mut adamw = DeviceAdamw::new(&cuda, &Adamw::new(options, 1), &groups);
    let (mut values, mut norm) = (cuda.parameters(&[0.0]), cuda.parameters(&[0.0]));
    adamw.set_step(&cuda, 1, 1.0);
    adamw.update(&cuda, &mut values, &cuda.parameters(&[3e-6]), (&mut norm, 0));
    let m = adamw.state(&cuda, 1).unwrap().m[0];
    let expected = (1.0 - options.beta1) * 0.75e-6;
    assert!((m - expected).abs() <= 1e-5 * expected, "{m} not {expected}");
}
