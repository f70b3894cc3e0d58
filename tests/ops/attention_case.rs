//! Cases of attention, and its naive form on them.

use lorb_engine::device::Memory;
use lorb_engine::ops::attention::{Inputs, Shape};

use crate::autodiff::{Operation, Real};
use crate::harness::Random;
use crate::oracle::{Rows, attention, dot, rows, sum};

/// The relative error of a probability that two exponentials of the documented 2e-7 make.
pub const SOFTMAX: f64 = 4e-7;

#[derive(Clone, Debug)]
pub struct Case {
    /// Tokens of each sequence.
    pub keys: Vec<usize>,
    /// Queries of each, where they are apart from the keys; otherwise every token is one.
    pub queries: Option<Vec<usize>>,
    pub heads: usize,
    pub size: usize,
    /// The size of the inputs' values: the larger, the fewer keys matter.
    pub range: f32,
    /// Whether the device is told that there is one query of each sequence.
    pub single_query: bool,
}

/// Where sequences of these lengths start, and where the last ends.
pub fn offsets(lengths: &[usize]) -> Vec<u32> {
    let mut all = vec![0];
    all.extend(lengths.iter().scan(0, |sum, &n| {
        *sum += n as u32;
        Some(*sum)
    }));
    all
}

impl Case {
    pub fn new(keys: &[usize], heads: usize, size: usize) -> Case {
        Case { keys: keys.to_vec(), queries: None, heads, size, range: 1.0, single_query: false }
    }

    /// One query of each sequence, as in the last layer.
    pub fn cls(self) -> Case {
        Case { queries: Some(vec![1; self.keys.len()]), single_query: true, ..self }
    }

    /// Scores so far apart that few keys matter.
    pub fn sharp(self) -> Case {
        Case { range: 4.0, ..self }
    }

    pub fn hidden(&self) -> usize {
        self.heads * self.size
    }

    pub fn query_lengths(&self) -> &[usize] {
        self.queries.as_deref().unwrap_or(&self.keys)
    }

    pub fn query_count(&self) -> usize {
        self.query_lengths().iter().sum()
    }

    pub fn key_count(&self) -> usize {
        self.keys.iter().sum()
    }

    /// [T, 3 H], or [Q, H] and [T, 2 H].
    pub fn inputs(&self) -> Vec<f32> {
        let per_token = if self.queries.is_some() { 2 } else { 3 };
        let apart = self.queries.as_ref().map_or(0, |q| q.iter().sum());
        let n = (apart + per_token * self.key_count()) * self.hidden();
        Random::new(14).values(n).into_iter().map(|x| x * self.range).collect()
    }

    pub fn split<R: Real>(&self, x: &[R]) -> [Rows<R>; 3] {
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

    /// Inputs on a device.
    pub fn upload<D: Memory>(&self, device: &D, x: &[f32]) -> Inputs<D::Tensor> {
        let h = self.hidden();
        match self.queries {
            None => Inputs::Fused(device.upload(x, self.key_count(), 3 * h)),
            Some(_) => {
                let (q, kv) = x.split_at(self.query_count() * h);
                let kv = device.upload(kv, self.key_count(), 2 * h);
                Inputs::Split(device.upload(q, self.query_count(), h), kv)
            }
        }
    }

    /// The offsets of the queries and those of the keys on a device.
    pub fn offsets<D: Memory>(&self, device: &D) -> [D::Index; 2] {
        [device.index(&offsets(self.query_lengths())), device.index(&offsets(&self.keys))]
    }

    pub fn shape<'a, D: Memory>(
        &self,
        query_offsets: &'a D::Index,
        key_offsets: &'a D::Index,
    ) -> Shape<'a, D> {
        let single_query = self.single_query;
        Shape { heads: self.heads, head_size: self.size, query_offsets, key_offsets, single_query }
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
pub struct LogSumExp<'c>(pub &'c Case);

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
