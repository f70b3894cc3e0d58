use lorb_engine::device::Memory;
use lorb_engine::device::cpu::{Cpu, Matrix};
use lorb_engine::ops::attention::{Attention, Inputs, Shape};

use crate::autodiff::{Operation, Real};
use crate::harness::{Oracle, Random, ULP, check_derivatives, devices, row_bits};
use crate::oracle::{Rows, attention, dot, rows, sum};

/// The relative error of a probability that two exponentials of the documented 2e-7 make.
const SOFTMAX: f64 = 4e-7;

#[derive(Clone, Debug)]
struct Case {
    /// Tokens of each sequence.
    keys: Vec<usize>,
    /// Queries of each, where they are apart from the keys; otherwise every token is one.
    queries: Option<Vec<usize>>,
    heads: usize,
    size: usize,
    /// The size of the inputs' values: the larger, the fewer keys matter.
    range: f32,
}

fn offsets(lengths: &[usize]) -> Vec<u32> {
    let mut all = vec![0];
    all.extend(lengths.iter().scan(0, |sum, &n| {
        *sum += n as u32;
        Some(*sum)
    }));
    all
}

impl Case {
    fn new(keys: &[usize], heads: usize, size: usize) -> Case {
        Case { keys: keys.to_vec(), queries: None, heads, size, range: 1.0 }
    }

    fn hidden(&self) -> usize {
        self.heads * self.size
    }

    fn query_lengths(&self) -> &[usize] {
        self.queries.as_deref().unwrap_or(&self.keys)
    }

    fn query_count(&self) -> usize {
        self.query_lengths().iter().sum()
    }

    fn key_count(&self) -> usize {
        self.keys.iter().sum()
    }

    /// [T, 3 H], or [Q, H] and [T, 2 H].
    fn inputs(&self) -> Vec<f32> {
        let per_token = if self.queries.is_some() { 2 } else { 3 };
        let apart = self.queries.as_ref().map_or(0, |q| q.iter().sum());
        let n = (apart + per_token * self.key_count()) * self.hidden();
        Random::new(14).values(n).into_iter().map(|x| x * self.range).collect()
    }

    fn split<R: Real>(&self, x: &[R]) -> [Rows<R>; 3] {
        let h = self.hidden();
        let part = |rows: &Rows<R>, i: usize| rows.iter().map(|r| r[i * h..(i + 1) * h].to_vec()).collect();
        match self.queries {
            None => [0, 1, 2].map(|i| part(&rows(x, 3 * h), i)),
            Some(_) => {
                let (q, kv) = x.split_at(self.query_count() * h);
                let kv = rows(kv, 2 * h);
                [rows(q, h), part(&kv, 0), part(&kv, 1)]
            }
        }
    }

    fn upload(&self, cpu: &Cpu, x: &[f32]) -> Inputs<Matrix> {
        let h = self.hidden();
        match self.queries {
            None => Inputs::Fused(cpu.upload(x, self.key_count(), 3 * h)),
            Some(_) => {
                let (q, kv) = x.split_at(self.query_count() * h);
                let kv = cpu.upload(kv, self.key_count(), 2 * h);
                Inputs::Split(cpu.upload(q, self.query_count(), h), kv)
            }
        }
    }
}

impl Operation for Case {
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R> {
        let [q, k, v] = self.split(x);
        let (of_queries, of_keys) = (offsets(self.query_lengths()), offsets(&self.keys));
        let sequence = |s: usize| {
            let queries = of_queries[s] as usize..of_queries[s + 1] as usize;
            let keys = of_keys[s] as usize..of_keys[s + 1] as usize;
            attention(&q[queries], &k[keys.clone()], &v[keys], self.heads).concat()
        };
        (0..self.keys.len()).flat_map(sequence).collect()
    }
}

/// The log-sum-exp of each query's scores: [queries, heads].
struct LogSumExp<'c>(&'c Case);

impl Operation for LogSumExp<'_> {
    fn naive<R: Real>(&self, x: &[R]) -> Vec<R> {
        let case = self.0;
        let [q, k, _] = case.split(x);
        let (of_queries, of_keys) = (offsets(case.query_lengths()), offsets(&case.keys));
        let mut all = Vec::new();
        for (queries, keys) in of_queries.windows(2).zip(of_keys.windows(2)) {
            for q in &q[queries[0] as usize..queries[1] as usize] {
                let keys = &k[keys[0] as usize..keys[1] as usize];
                let of_head = |h: usize| {
                    let columns = h * case.size..(h + 1) * case.size;
                    let scale = R::of(case.size as f64).sqrt();
                    let score = |k: &Vec<R>| dot(&q[columns.clone()], &k[columns.clone()]) / scale;
                    sum(keys.iter().map(|k| score(k).exp())).ln()
                };
                all.extend((0..case.heads).map(of_head));
            }
        }
        all
    }
}

fn forward(cpu: &Cpu, case: &Case, inputs: &Inputs<Matrix>) -> (Matrix, Matrix) {
    let (queries, keys) = (cpu.index(&offsets(case.query_lengths())), cpu.index(&offsets(&case.keys)));
    cpu.attention(shape(case, &queries, &keys), inputs)
}

fn shape<'a>(
    case: &Case,
    queries: &'a std::sync::Arc<[u32]>,
    keys: &'a std::sync::Arc<[u32]>,
) -> Shape<'a, Cpu> {
    Shape { heads: case.heads, head_size: case.size, query_offsets: queries, key_offsets: keys }
}

fn cases() -> Vec<Case> {
    let ragged = [5, 1, 17, 2, 8, 9, 3, 33];
    let cls = |case: Case| Case { queries: Some(vec![1; case.keys.len()]), ..case };
    let sharp = |case: Case| Case { range: 4.0, ..case };
    vec![
        Case::new(&[1], 1, 1),
        Case::new(&[1, 1, 1], 2, 24),
        Case::new(&ragged, 2, 24),
        sharp(Case::new(&ragged, 3, 8)),
        cls(Case::new(&ragged, 2, 32)),
        cls(sharp(Case::new(&[70, 64, 2], 1, 64))),
        // One and several blocks of queries.
        Case::new(&[63, 64, 65, 70], 1, 24),
        sharp(Case::new(&[130], 1, 32)),
        Case::new(&[20, 41], 1, 64),
        Case { queries: Some(vec![70, 3]), ..Case::new(&[512, 7], 1, 24) },
        Case { queries: Some(vec![2, 130, 1]), ..Case::new(&[31, 40, 16], 2, 7) },
    ]
}

#[test]
fn both_directions_are_those_of_the_oracle() {
    for case in cases() {
        let inputs = case.inputs();
        let dy = Random::new(15).values(case.query_count() * case.hidden());
        let oracle = Oracle::forward(&case, &inputs);
        let of_log = Oracle::forward(&LogSumExp(&case), &inputs);
        let gradients = Oracle::backward(&case, &inputs, &dy);
        for cpu in devices() {
            let name = format!("on {}, {case:?}", cpu.isa().name());
            let x = case.upload(&cpu, &inputs);
            let (y, log_sum_exp) = forward(&cpu, &case, &x);
            let floor = SOFTMAX * f64::from(case.range);
            oracle.check(format!("attention {name}"), &y.values(), floor);
            let what = format!("attention's log-sum-exp {name}");
            let floor = SOFTMAX + ULP * of_log.largest();
            of_log.check(what, &log_sum_exp.values(), floor);

            let dy = cpu.upload(&dy, y.rows(), y.columns());
            let (queries, keys) =
                (cpu.index(&offsets(case.query_lengths())), cpu.index(&offsets(&case.keys)));
            let d = cpu.attention_backward(shape(&case, &queries, &keys), &x, &y, &log_sum_exp, &dy);
            let d = match &d {
                Inputs::Fused(d) => d.values(),
                Inputs::Split(dq, dkv) => [dq.values(), dkv.values()].concat(),
            };
            let floor = SOFTMAX * gradients.largest();
            gradients.check(format!("attention_backward {name}"), &d, floor);
        }
    }
}

#[test]
fn long_sequences_are_those_of_the_oracle() {
    let case = Case::new(&[512, 3], 1, 32);
    let inputs = case.inputs();
    let oracle = Oracle::forward(&case, &inputs);
    for cpu in devices() {
        let (y, _) = forward(&cpu, &case, &case.upload(&cpu, &inputs));
        oracle.check(format!("attention on {}, {case:?}", cpu.isa().name()), &y.values(), SOFTMAX);
    }
}

#[test]
fn the_oracle_follows_finite_differences() {
    for queries in [None, Some(vec![1, 2, 1])] {
        let case = Case { queries, range: 2.0, ..Case::new(&[4, 1, 3], 2, 3) };
        let dy = Random::new(16).values(case.query_count() * case.hidden());
        check_derivatives(format!("{case:?}"), &case, &case.inputs(), &dy);
    }
}

/// Alone, in a batch, and as a lone query: the same bits.
#[test]
fn a_sequence_does_not_depend_on_the_others() {
    let case = Case::new(&[5, 1, 17, 130, 8], 2, 24);
    let inputs = case.inputs();
    let starts = offsets(&case.keys);
    let h = case.hidden();
    for cpu in devices() {
        let (y, _) = forward(&cpu, &case, &case.upload(&cpu, &inputs));
        for (s, &length) in case.keys.iter().enumerate() {
            let first = starts[s] as usize;
            let tokens = &inputs[first * 3 * h..][..length * 3 * h];
            let alone = Case::new(&[length], 2, 24);
            let (one, _) = forward(&cpu, &alone, &alone.upload(&cpu, tokens));
            let cls = Case { queries: Some(vec![1]), ..alone };
            let kv: Vec<f32> = tokens.chunks_exact(3 * h).flat_map(|t| t[h..].to_vec()).collect();
            let (first_query, _) = forward(&cpu, &cls, &cls.upload(&cpu, &[&tokens[..h], &kv].concat()));
            for i in 0..length {
                assert_eq!(row_bits(&one, i), row_bits(&y, first + i), "token {i} of sequence {s}");
            }
            assert_eq!(row_bits(&first_query, 0), row_bits(&y, first), "the query of sequence {s}");
        }
    }
}
