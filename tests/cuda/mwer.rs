use lorb_engine::device::Memory;
use lorb_engine::device::cuda::{Cuda, Precision, Rows};
use lorb_engine::ops::mwer::cuda::{Beta, Lists};

use crate::autodiff::{Operation, Real};
use crate::devices::devices;
use crate::harness::{Oracle, Random, ULP, bits};
use crate::oracle::{self, sum};

/// Utterances side by side.
struct Case {
    offsets: Vec<f32>,
    errors: Vec<u32>,
    starts: Vec<u32>,
}

impl Case {
    /// Lists as long as `lengths`; the offsets of the first are 0, and so on up to `spread` below.
    fn new(lengths: &[usize], spread: f32) -> Case {
        let mut random = Random::new(17);
        let mut case = Case { offsets: vec![], errors: vec![], starts: vec![0] };
        for &n in lengths {
            let offsets: Vec<f64> = (0..n).map(|_| f64::from(random.value() * spread / 2.0)).collect();
            let largest = offsets.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            case.offsets.extend(offsets.iter().map(|a| (a - largest) as f32));
            case.errors.extend((0..n).map(|_| random.below(9) as u32));
            case.starts.push(case.offsets.len() as u32);
        }
        case
    }

    fn mean_loss<R: Real>(&self, scores: &[R], beta: R) -> R {
        let losses = self.starts.windows(2).map(|w| {
            let range = w[0] as usize..w[1] as usize;
            let offsets: Vec<f64> = self.offsets[range.clone()].iter().map(|&a| a.into()).collect();
            oracle::mwer(&offsets, &scores[range.clone()], &self.errors[range], beta)
        });
        sum(losses) / R::of((self.starts.len() - 1) as f64)
    }
}

/// The mean loss, and that without g, of [scores, theta].
impl Operation for Case {
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R> {
        let (theta, scores) = x.split_last().unwrap();
        vec![self.mean_loss(scores, theta.exp()), self.mean_loss(scores, R::of(0.0))]
    }
}

struct Found {
    losses: Vec<f32>,
    d_scores: Vec<f32>,
    gradient: Vec<f32>,
}

/// With room for more hypotheses and utterances than there are, and theta among other parameters.
fn run(cuda: &Cuda, case: &Case, scores: &[f32], theta: f32, learned: bool, room: usize) -> Found {
    let (hypotheses, utterances) = (scores.len(), case.starts.len() - 1);
    let within = |values: &[f32]| [values, &vec![f32::NAN; room]].concat();
    let errors: Vec<f32> = case.errors.iter().map(|&e| e as f32).collect();
    let starts = [&case.starts[..], &vec![(hypotheses + room) as u32; room]].concat();
    let rows = |count: usize| match room {
        0 => Rows::all(count),
        _ => cuda.live_rows(count + room, count as u32),
    };
    let lists = Lists {
        offsets: &cuda.upload_flat(&within(&case.offsets)),
        errors: &cuda.upload_flat(&within(&errors)),
        starts: &cuda.index(&starts),
        utterances: &rows(utterances),
    };
    let scores = cuda.upload_f32(&within(scores), hypotheses + room, 1).with_rows(rows(hypotheses));
    let parameters = cuda.upload_flat(&[f32::NAN, theta, f32::NAN]);
    let mut gradient = cuda.upload_flat(&[0.25; 3]);
    let mut losses = cuda.upload_flat(&[7.0; 4]);
    let beta = match learned {
        true => Beta::Learned { parameters: &parameters, theta: 1 },
        false => Beta::Given(theta.exp()),
    };
    let d_scores = cuda.mwer(&lists, &scores, beta, &mut gradient, (&mut losses, 1));
    let losses = cuda.download_flat(&losses).unwrap();
    assert_eq!((losses[0], losses[3]), (7.0, 7.0));
    let d_scores = cuda.download(&d_scores).unwrap();
    assert!(d_scores[hypotheses..].iter().all(|d| d.is_nan()), "a write past the live hypotheses");
    Found {
        losses: losses[1..3].to_vec(),
        d_scores: d_scores[..hypotheses].to_vec(),
        gradient: cuda.download_flat(&gradient).unwrap(),
    }
}

/// A device: MWER is f32 in every precision.
fn device() -> Cuda {
    devices().find(|cuda| cuda.precision() == Precision::Bf16).unwrap()
}

#[test]
fn losses_and_gradients_are_those_of_the_oracle() {
    let cuda = device();
    for lengths in [&[1][..], &[2], &[30], &[7, 1, 97, 33, 2], &[1024, 3], &[5; 150]] {
        for spread in [0.1, 3.0, 300.0, 1e4] {
            let case = Case::new(lengths, spread);
            let x = Random::new(18).values(case.offsets.len() + 1);
            let (theta, scores) = x.split_last().unwrap();
            let forward = Oracle::forward(&case, &x);
            let backward = Oracle::backward(&case, &x, &[1.0, 0.0]);
            let name = format!("mwer of {} utterances, spread {spread}", lengths.len());
            let found = run(&cuda, &case, scores, *theta, true, 0);
            // A share of the errors, of which there are up to 8: P is a few roundings off, by expf and by those
            // of s, which is about 1 where P is not small.
            let floor = 8.0 * 4.0 * ULP;
            forward.check(&name, &found.losses, floor);
            let floor = floor / lengths.len() as f64;
            backward.slice(0..scores.len()).check(format!("{name}: scores"), &found.d_scores, floor);
            let d_theta = found.gradient[1] - 0.25;
            let of_theta = backward.slice(scores.len()..x.len());
            of_theta.check(format!("{name}: theta"), &[d_theta], 8.0 * 4.0 * ULP + ULP);
            assert_eq!((found.gradient[0], found.gradient[2]), (0.25, 0.25));
        }
    }
}

#[test]
fn room_for_more_changes_nothing_and_nor_does_another_run() {
    let cuda = device();
    let case = Case::new(&[7, 1, 35, 2], 3.0);
    let scores = Random::new(19).values(45);
    let all = |learned, room| {
        let Found { losses, d_scores, gradient } = run(&cuda, &case, &scores, -0.4, learned, room);
        bits(&[losses, d_scores, gradient].concat())
    };
    let first = all(true, 0);
    assert_eq!(all(true, 0), first);
    assert_eq!(all(true, 3), first);
    let given = all(false, 3);
    let end = first.len() - 3;
    assert_eq!(given[end..], bits(&[0.25; 3]), "no theta, no gradient of it");
    assert_eq!(given[..end], first[..end]);
}

#[test]
fn one_hypothesis_or_none_has_no_gradient() {
    let cuda = device();
    let case = Case { offsets: vec![0.0], errors: vec![3], starts: vec![0, 1, 1] };
    let found = run(&cuda, &case, &[2.0], 0.0, true, 0);
    assert_eq!((found.losses, found.d_scores, found.gradient), (vec![0.0; 2], vec![0.0], vec![0.25; 3]));
}

#[test]
fn no_utterances_have_no_loss_and_no_gradient() {
    let cuda = device();
    let case = Case { offsets: vec![], errors: vec![], starts: vec![0] };
    let found = run(&cuda, &case, &[], 0.0, true, 3);
    assert_eq!((found.losses, found.d_scores, found.gradient), (vec![0.0; 2], vec![], vec![0.25; 3]));
}

/// More hypotheses than a block has threads, and the last is the likely one.
#[test]
fn the_best_of_a_long_list_may_be_the_last() {
    let cuda = device();
    let (mut offsets, mut errors) = (vec![-1000.0; 300], vec![2; 300]);
    (offsets[299], errors[299]) = (0.0, 302);
    let case = Case { offsets, errors, starts: vec![0, 300] };
    let found = run(&cuda, &case, &[0.0; 300], 0.0, true, 0);
    assert_eq!((found.losses, found.d_scores), (vec![299.0; 2], vec![0.0; 300]));
}

/// Of 1,024 hypotheses one has no error: a loss of some 1e-5, where the mean is near 1.
#[test]
fn a_small_loss_is_not_lost_beside_the_mean() {
    let cuda = device();
    for list in 0..8 {
        let mut errors = vec![1; 1024];
        errors[0] = 0;
        let scores: Vec<f32> = Random::new(23 + list).values(1024).iter().map(|g| g / 64.0).collect();
        let case = Case { offsets: vec![0.0; 1024], errors, starts: vec![0, 1024] };
        let weights = scores.iter().map(|&g| f64::from(g).exp());
        let expected = 1.0 / 1024.0 - f64::from(scores[0]).exp() / weights.sum::<f64>();
        let loss = run(&cuda, &case, &scores, 0.0, true, 0).losses[0];
        assert!((f64::from(loss) - expected).abs() <= 1e-9, "{loss} not {expected}");
    }
}
