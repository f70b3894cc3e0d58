use half::bf16;
use lorb_engine::device::Memory;
use lorb_engine::device::cuda::{Cuda, Index, Precision, Tensor};
use lorb_engine::ops::attention::{Attention, Inputs};

use crate::attention_case::{Case, LogSumExp, SOFTMAX, offsets};
use crate::devices::{devices, rounded};
use crate::harness::{Oracle, Random, ULP, bits};
use crate::oracle::{Rows, dot, rows, softmax};

fn round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

fn columns(rows: &[Vec<f32>], columns: std::ops::Range<usize>) -> Rows<f32> {
    rows.iter().map(|row| row[columns.clone()].to_vec()).collect()
}

/// Adds `scale` times `from` to `to`.
fn add(to: &mut [f32], scale: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += scale * from);
}

/// What attention in bf16 gives where sums are in f32, and P, O and dS are kept in bf16: the output, and the
/// gradients in the form of the inputs.
fn naive_bf16(case: &Case, x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (h, size) = (case.hidden(), case.size);
    let scale = 1.0 / (size as f32).sqrt();
    let [q, k, v] = case.split(x);
    let dy = rows(dy, h);
    let zeros = |n: usize| vec![vec![0.0f32; h]; n];
    let (mut out, mut dq) = (zeros(q.len()), zeros(q.len()));
    let (mut dk, mut dv) = (zeros(k.len()), zeros(k.len()));
    let (of_queries, of_keys) = (offsets(case.query_lengths()), offsets(&case.keys));
    for (queries, keys) in of_queries.windows(2).zip(of_keys.windows(2)) {
        let keys = keys[0] as usize..keys[1] as usize;
        for head in (0..h).step_by(size).map(|first| first..first + size) {
            let (k, v) = (columns(&k[keys.clone()], head.clone()), columns(&v[keys.clone()], head.clone()));
            for i in queries[0] as usize..queries[1] as usize {
                let (q, dy) = (&q[i][head.clone()], &dy[i][head.clone()]);
                let p = softmax(&k.iter().map(|k| dot(q, k) * scale).collect::<Vec<_>>());
                let o = &mut out[i][head.clone()];
                p.iter().zip(&v).for_each(|(&p, v)| add(o, round(p), v));
                o.iter_mut().for_each(|o| *o = round(*o));
                let along = dot(dy, o);
                for (j, key) in keys.clone().enumerate() {
                    let ds = round(p[j] * (dot(dy, &v[j]) - along));
                    add(&mut dv[key][head.clone()], round(p[j]), dy);
                    add(&mut dk[key][head.clone()], ds * scale, q);
                    add(&mut dq[i][head.clone()], ds * scale, &k[j]);
                }
            }
        }
    }
    let out = out.concat();
    let gradients: Vec<f32> = if case.queries.is_some() {
        dq.concat().into_iter().chain(dk.into_iter().zip(dv).flat_map(|(k, v)| [k, v].concat())).collect()
    } else {
        dq.into_iter().zip(dk.into_iter().zip(dv)).flat_map(|(q, (k, v))| [q, k, v].concat()).collect()
    };
    (out, gradients.into_iter().map(round).collect())
}

/// The output, the log-sum-exp, and the gradients in the form of the inputs.
struct Results {
    y: Tensor,
    log_sum_exp: Tensor,
    d: Inputs<Tensor>,
}

fn run(cuda: &Cuda, case: &Case, inputs: &[f32], dy: &[f32]) -> Results {
    run_between(cuda, case, case.offsets(cuda), inputs, dy)
}

/// With these offsets of the queries and of the keys.
fn run_between(cuda: &Cuda, case: &Case, [queries, keys]: [Index; 2], inputs: &[f32], dy: &[f32]) -> Results {
    let x = case.upload(cuda, inputs);
    let (y, log_sum_exp) = cuda.attention(case.shape(&queries, &keys), &x);
    let dy = cuda.upload(dy, case.query_count(), case.hidden());
    let d = cuda.attention_backward(case.shape(&queries, &keys), &x, &y, &log_sum_exp, &dy);
    Results { y, log_sum_exp, d }
}

impl Results {
    /// The gradients as one vector.
    fn gradients(&self, cuda: &Cuda) -> Vec<f32> {
        match &self.d {
            Inputs::Fused(d) => cuda.download(d).unwrap(),
            Inputs::Split(dq, dkv) => [cuda.download(dq).unwrap(), cuda.download(dkv).unwrap()].concat(),
        }
    }

    fn all_bits(&self, cuda: &Cuda) -> Vec<u32> {
        let values = [cuda.download(&self.y).unwrap(), cuda.download(&self.log_sum_exp).unwrap()];
        bits(&[values.concat(), self.gradients(cuda)].concat())
    }
}

/// Inputs and dy as the device keeps them.
fn data(case: &Case, cuda: &Cuda) -> (Vec<f32>, Vec<f32>) {
    let dy = Random::new(15).values(case.query_count() * case.hidden());
    (rounded(&case.inputs(), cuda.precision()), rounded(&dy, cuda.precision()))
}

fn check(cuda: &Cuda, case: &Case) {
    let (inputs, dy) = data(case, cuda);
    let (results, of_log) = check_gradients(cuda, case, &inputs, &dy);
    let log_sum_exp = cuda.download(&results.log_sum_exp).unwrap();
    let floor = SOFTMAX + truncation(cuda, case) + ULP * of_log.largest();
    of_log.check(format!("attention's log-sum-exp {:?}, {case:?}", cuda.precision()), &log_sum_exp, floor);
}

/// What tensor cores lose in a score: they truncate sums.
fn truncation(cuda: &Cuda, case: &Case) -> f64 {
    let size = case.size as f64;
    match cuda.precision() {
        Precision::F32 => 0.0,
        Precision::Bf16 => {
            (size / 16.0 + 2.0) / f64::from(1 << 22) * size.sqrt() * f64::from(case.range).powi(2)
        }
    }
}

/// Checks the output and the gradients. Also gives what the log-sum-exp should be.
fn check_gradients(cuda: &Cuda, case: &Case, inputs: &[f32], dy: &[f32]) -> (Results, Oracle) {
    let name = format!("{:?}, {case:?}", cuda.precision());
    let mut forward = Oracle::forward(case, inputs);
    let mut backward = Oracle::backward(case, inputs, dy);
    if cuda.precision() == Precision::Bf16 {
        (forward.naive, backward.naive) = naive_bf16(case, inputs, dy);
    }
    let results = run(cuda, case, inputs, dy);
    let floor = SOFTMAX + truncation(cuda, case);
    let y = cuda.download(&results.y).unwrap();
    forward.check(format!("attention {name}"), &y, floor * f64::from(case.range));
    let d = results.gradients(cuda);
    // Probabilities are computed again from a log-sum-exp that was rounded, which the naive form has no use for: as
    // many of them are off alike.
    let of_log = Oracle::forward(&LogSumExp(case), inputs);
    let floor = floor + ULP * of_log.largest();
    backward.check(format!("attention_backward {name}"), &d, floor * backward.largest());
    (results, of_log)
}

fn split(queries: &[usize], case: Case) -> Case {
    Case { queries: Some(queries.to_vec()), ..case }
}

#[test]
fn any_size_of_head_is_that_of_the_oracle() {
    let cases = [
        Case::new(&[1], 1, 1),
        Case::new(&[5, 1, 17, 2], 2, 24),
        Case::new(&[33, 64], 1, 37).sharp(),
        Case::new(&[6], 1, 128),
        split(&[18, 3], Case::new(&[2, 40], 1, 7)),
        split(&[1, 1, 1], Case::new(&[2, 40, 1], 2, 24)),
    ];
    for cuda in devices() {
        cases.iter().for_each(|case| check(&cuda, case));
    }
}

#[test]
fn heads_of_32_and_64_are_those_of_the_oracle() {
    let cases = [
        Case::new(&[1], 1, 32),
        Case::new(&[5, 1, 17, 33], 2, 32),
        Case::new(&[15, 16, 48], 1, 64).sharp(),
        // A tile of queries and keys, and more.
        Case::new(&[64, 65], 1, 32),
        Case::new(&[130], 1, 64),
        split(&[70, 1], Case::new(&[3, 129], 1, 32)),
        split(&[1, 1, 1], Case::new(&[2, 70, 1], 2, 64)),
    ];
    for cuda in devices() {
        cases.iter().for_each(|case| check(&cuda, case));
    }
}

#[test]
fn a_single_query_is_that_of_the_oracle() {
    let cases = [
        Case::new(&[1], 1, 32).cls(),
        Case::new(&[5, 1, 17, 33], 3, 32).cls(),
        Case::new(&[31, 32, 70], 1, 64).sharp().cls(),
        Case::new(&[9, 40], 2, 37).cls(),
        Case::new(&[3], 1, 128).cls(),
    ];
    for cuda in devices() {
        cases.iter().for_each(|case| check(&cuda, case));
    }
}

/// Cases of every form of the kernels.
fn forms() -> Vec<Case> {
    vec![
        Case::new(&[5, 1, 17], 2, 24),
        Case::new(&[5, 1, 66], 2, 32),
        Case::new(&[5, 70], 1, 64),
        Case::new(&[5, 1, 34], 2, 32).cls(),
    ]
}

#[test]
fn long_sequences_are_those_of_the_oracle() {
    for cuda in devices() {
        for case in [Case::new(&[200, 3], 1, 32), Case::new(&[512], 1, 32).cls()] {
            check(&cuda, &case);
        }
    }
}

/// Scores of some hundreds, above and below zero: their exponentials are no numbers of f32.
#[test]
fn scores_may_be_large() {
    for cuda in devices() {
        for case in forms() {
            for sign in [-1.0, 1.0] {
                let case = Case { range: 8.0, ..case.clone() };
                let (mut inputs, dy) = data(&case, &cuda);
                let h = case.hidden();
                let shift = |x: &mut [f32], by: f32| x.iter_mut().for_each(|x| *x = *x / 8.0 + by);
                if case.queries.is_some() {
                    let (q, kv) = inputs.split_at_mut(case.query_count() * h);
                    shift(q, 8.0 * sign);
                    kv.chunks_exact_mut(2 * h).for_each(|kv| shift(&mut kv[..h], 8.0));
                } else {
                    for token in inputs.chunks_exact_mut(3 * h) {
                        shift(&mut token[..h], 8.0 * sign);
                        shift(&mut token[h..2 * h], 8.0);
                    }
                }
                let inputs = rounded(&inputs, cuda.precision());
                check_gradients(&cuda, &case, &inputs, &dy);
            }
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bits() {
    for cuda in devices() {
        for case in forms() {
            let (inputs, dy) = data(&case, &cuda);
            let [a, b] = [(); 2].map(|()| run(&cuda, &case, &inputs, &dy).all_bits(&cuda));
            assert_eq!(a, b, "{:?}, {case:?}", cuda.precision());
        }
    }
}

/// The rows of one of some sequences.
fn part(x: &[f32], lengths: &[usize], width: usize, sequence: usize) -> Vec<f32> {
    let starts = offsets(lengths);
    x[starts[sequence] as usize * width..starts[sequence + 1] as usize * width].to_vec()
}

/// Of inputs or their gradients, those of one sequence.
fn inputs_of(case: &Case, inputs: &[f32], s: usize) -> Vec<f32> {
    let h = case.hidden();
    let Some(queries) = &case.queries else { return part(inputs, &case.keys, 3 * h, s) };
    let (q, kv) = inputs.split_at(case.query_count() * h);
    [part(q, queries, h, s), part(kv, &case.keys, 2 * h, s)].concat()
}

#[test]
fn a_sequence_does_not_depend_on_the_others() {
    for cuda in devices() {
        for case in forms() {
            let (inputs, dy) = data(&case, &cuda);
            let together = run(&cuda, &case, &inputs, &dy);
            let [y, log_sum_exp] = [&together.y, &together.log_sum_exp].map(|t| cuda.download(t).unwrap());
            let d = together.gradients(&cuda);
            for s in 0..case.keys.len() {
                let of_queries = |x: &[f32], width: usize| part(x, case.query_lengths(), width, s);
                let queries = case.queries.as_ref().map(|q| vec![q[s]]);
                let one = Case { keys: vec![case.keys[s]], queries, ..case.clone() };
                let inputs = inputs_of(&case, &inputs, s);
                let alone = run(&cuda, &one, &inputs, &of_queries(&dy, case.hidden()));
                let y = of_queries(&y, case.hidden());
                let expected = [y, of_queries(&log_sum_exp, case.heads), inputs_of(&case, &d, s)].concat();
                assert_eq!(alone.all_bits(&cuda), bits(&expected), "{s} of {case:?}");
            }
        }
    }
}

/// Where fewer sequences are in use than there is room for, nothing is read or written past them.
#[test]
fn rows_past_those_in_use_are_left_alone() {
    for cuda in devices() {
        for case in forms() {
            let (inputs, dy) = data(&case, &cuda);
            let live = case.keys.len() - 1;
            let of_live = |lengths: &[usize]| {
                cuda.index(&offsets(lengths)).with_rows(cuda.live_rows(lengths.len() + 1, live as u32 + 1))
            };
            let whole = run(&cuda, &case, &inputs, &dy);
            let in_use: usize = case.query_lengths()[..live].iter().sum();
            let keys_in_use: usize = case.keys[..live].iter().sum();
            // What is read past the end shows as NaN, what is written there as anything else.
            for past in [f32::NAN, 7.0] {
                let stale = |x: &[f32], width: usize, rows: usize| {
                    let mut x = x.to_vec();
                    x[rows * width..].fill(past);
                    x
                };
                let h = case.hidden();
                let inputs = if case.queries.is_some() {
                    let (q, kv) = inputs.split_at(case.query_count() * h);
                    [stale(q, h, in_use), stale(kv, 2 * h, keys_in_use)].concat()
                } else {
                    stale(&inputs, 3 * h, in_use)
                };
                let dy = stale(&dy, h, in_use);
                let between = [of_live(case.query_lengths()), of_live(&case.keys)];
                let results = run_between(&cuda, &case, between, &inputs, &dy);

                let agree = |found: &Tensor, whole: &Tensor, rows: usize| {
                    let (values, whole) = (cuda.download(found).unwrap(), cuda.download(whole).unwrap());
                    let (live, rest) = values.split_at(rows * found.columns());
                    assert_eq!(bits(live), bits(&whole[..live.len()]), "{case:?}");
                    assert!(rest.iter().all(|x| x.is_nan()), "{case:?}: rows past the end were written");
                };
                agree(&results.y, &whole.y, in_use);
                agree(&results.log_sum_exp, &whole.log_sum_exp, in_use);
                match (&results.d, &whole.d) {
                    (Inputs::Fused(d), Inputs::Fused(whole)) => agree(d, whole, keys_in_use),
                    (Inputs::Split(dq, dkv), Inputs::Split(whole_dq, whole_dkv)) => {
                        agree(dq, whole_dq, in_use);
                        agree(dkv, whole_dkv, keys_in_use);
                    }
                    _ => panic!("the gradients have the form of the inputs"),
                }
            }
        }
    }
}

/// No keys: the output and dQ are zero. No queries: dK and dV are.
#[test]
fn sequences_may_lack_queries_or_keys() {
    for cuda in devices() {
        for size in [24, 32, 64] {
            let case = split(&[2, 0, 3], Case::new(&[0, 4, 5], 1, size));
            let (inputs, dy) = data(&case, &cuda);
            let results = run(&cuda, &case, &inputs, &dy);
            let last = split(&[3], Case::new(&[5], 1, size));
            let dy = part(&dy, case.query_lengths(), size, 2);
            let last = run(&cuda, &last, &inputs_of(&case, &inputs, 2), &dy);

            let after_zeros = |found: &[f32], zeros: usize, last: &Tensor| {
                assert!(found[..zeros * size].iter().all(|&x| x == 0.0), "{case:?}");
                assert_eq!(bits(&found[zeros * size..]), bits(&cuda.download(last).unwrap()), "{case:?}");
            };
            after_zeros(&cuda.download(&results.y).unwrap(), 2, &last.y);
            let log_sum_exp = cuda.download(&results.log_sum_exp).unwrap();
            assert_eq!(log_sum_exp[..2], [f32::NEG_INFINITY; 2]);
            let (Inputs::Split(dq, dkv), Inputs::Split(last_dq, last_dkv)) = (&results.d, &last.d) else {
                panic!("the gradients have the form of the inputs");
            };
            after_zeros(&cuda.download(dq).unwrap(), 2, last_dq);
            after_zeros(&cuda.download(dkv).unwrap(), 8, last_dkv);
        }
    }
}

/// The same of the form for one query a sequence.
#[test]
fn a_single_query_may_lack_keys() {
    for cuda in devices() {
        let case = Case::new(&[0, 4], 1, 32).cls();
        let (inputs, dy) = data(&case, &cuda);
        let results = run(&cuda, &case, &inputs, &dy);
        assert_eq!(cuda.download(&results.y).unwrap()[..32], [0.0; 32]);
        assert_eq!(cuda.download(&results.log_sum_exp).unwrap()[0], f32::NEG_INFINITY);
        let Inputs::Split(dq, _) = &results.d else { panic!("the gradients have the form of the inputs") };
        assert_eq!(cuda.download(dq).unwrap()[..32], [0.0; 32]);
    }
}
