use lorb_engine::device::Memory;
use lorb_engine::device::cuda::{Cuda, Precision};

use crate::correlation_case::Case;
use crate::devices::devices;
use crate::harness::{Oracle, ULP, bits};

/// The loss and its gradient, of features with room for more.
fn run(cuda: &Cuda, z: &[f32], d: usize, weight: f32, room: usize) -> (f32, Vec<f32>) {
    let n = z.len() / d;
    let all = [z, &vec![f32::NAN; room * d]].concat();
    let rows = cuda.live_rows(n + room, n as u32);
    let features = cuda.upload_f32(&all, n + room, d).with_rows(rows);
    let mut losses = cuda.upload_flat(&[7.0; 3]);
    let gradient = cuda.download(&cuda.correlation(&features, weight, (&mut losses, 1))).unwrap();
    let losses = cuda.download_flat(&losses).unwrap();
    assert_eq!((losses[0], losses[2]), (7.0, 7.0));
    assert!(gradient[n * d..].iter().all(|d| d.is_nan()), "a write past the live rows");
    (losses[1], gradient[..n * d].to_vec())
}

/// A device: the loss is f32 in every precision.
fn device() -> Cuda {
    devices().find(|cuda| cuda.precision() == Precision::Bf16).unwrap()
}

/// Both by the Gram matrix and by the other, in one tile and in several, and with room for more rows: some
/// makes the Gram matrix the larger one.
#[test]
fn losses_and_gradients_are_those_of_the_oracle() {
    let cuda = device();
    let shapes = [(1, 7), (2, 1), (2, 7), (3, 64), (7, 97), (13, 13), (24, 9), (41, 67), (97, 35)];
    for (n, d) in shapes {
        for common in [0.0, 0.95] {
            let case = Case { n, d, common };
            let z = case.features();
            let forward = Oracle::forward(&case, &z);
            let backward = Oracle::backward(&case, &z, &[1.0]);
            for room in [0, 3, 70] {
                let (loss, gradient) = run(&cuda, &z, d, 1.0, room);
                // The norm may contain the diagonal, (1 / d) sum C_jj^2 <= 1, and it is taken away again.
                let floor = ULP * (1.0 + forward.largest());
                forward.check(format!("correlation {case:?} + {room}"), &[loss], floor);
                let name = format!("correlation_backward {case:?} + {room}");
                backward.check(name, &gradient, case.floor(&z));
            }
        }
    }
}

#[test]
fn constant_features_have_no_loss_and_no_gradient() {
    let cuda = device();
    assert_eq!(run(&cuda, &[0.25; 5 * 7], 7, 1.0, 0), (0.0, vec![0.0; 35]));
    assert_eq!(run(&cuda, &[0.1, 0.2, 0.3], 3, 1.0, 0), (0.0, vec![0.0; 3]));
    assert_eq!(run(&cuda, &[], 3, 1.0, 4), (0.0, vec![]));
}

#[test]
fn the_weight_is_that_of_the_gradient_and_a_second_run_is_the_first() {
    let cuda = device();
    let z = Case { n: 35, d: 40, common: 0.5 }.features();
    let (loss, gradient) = run(&cuda, &z, 40, 1.0, 2);
    let half = run(&cuda, &z, 40, 0.5, 2);
    assert_eq!(half, (loss, gradient.iter().map(|g| g * 0.5).collect()));
    let again = run(&cuda, &z, 40, 0.5, 2);
    assert_eq!((again.0.to_bits(), bits(&again.1)), (half.0.to_bits(), bits(&half.1)));
}
