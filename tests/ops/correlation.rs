use lorb_engine::ops::correlation::correlation;

use crate::correlation_case::Case;
use crate::harness::{Oracle, ULP, check_derivatives, devices};

#[test]
fn losses_and_gradients_are_those_of_the_oracle() {
    let shapes = [(1, 7), (2, 1), (2, 7), (3, 64), (7, 97), (9, 24), (13, 13), (24, 9), (50, 17), (97, 24)];
    for (n, d) in shapes {
        for common in [0.0, 0.5, 0.95] {
            let case = Case { n, d, common };
            let z = case.features();
            let forward = Oracle::forward(&case, &z);
            let backward = Oracle::backward(&case, &z, &[1.0]);
            for cpu in devices() {
                let name = format!("on {}, {case:?}", cpu.isa().name());
                let found = correlation(&cpu, &z, n, d);
                // The norm contains the diagonal, (1 / d) sum C_jj^2 <= 1, and it is taken away again.
                let floor = ULP * (1.0 + forward.largest());
                forward.check(format!("correlation {name}"), &[found.loss as f32], floor);
                let floor = case.floor(&z);
                backward.check(format!("correlation_backward {name}"), &found.d_features, floor);
            }
        }
    }
}

#[test]
fn constant_features_have_no_loss_and_no_gradient() {
    for cpu in devices() {
        let found = correlation(&cpu, &[0.25; 5 * 7], 5, 7);
        assert_eq!((found.loss, found.d_features), (0.0, vec![0.0; 35]));
        let one = correlation(&cpu, &[0.1, 0.2, 0.3], 1, 3);
        assert_eq!((one.loss, one.d_features), (0.0, vec![0.0; 3]));
    }
}

#[test]
fn the_oracle_follows_finite_differences() {
    for (n, d) in [(3, 5), (6, 4)] {
        let case = Case { n, d, common: 0.3 };
        check_derivatives(format!("{case:?}"), &case, &case.features(), &[1.0]);
    }
}
