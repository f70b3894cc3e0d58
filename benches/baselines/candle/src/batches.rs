//! As ../batches.py: equal sequences once, the others by length in padded batches, by several workers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use anyhow::Result;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::lists::Tokens;
use crate::model::Model;

pub struct Batched {
    model: Model,
    limit: Option<usize>,
    /// Of each worker, so that what candle runs in parallel stays with it.
    pools: Vec<ThreadPool>,
}

pub struct Scored {
    pub scores: Vec<f32>,
    /// Distinct tokens, and those that were computed for them.
    pub real: usize,
    pub computed: usize,
}

impl Batched {
    pub fn new(model: Model, limit: Option<usize>, workers: usize) -> Result<Batched> {
        let pools = (0..workers).map(|_| ThreadPoolBuilder::new().build()).collect::<Result<_, _>>()?;
        Ok(Batched { model, limit, pools })
    }

    pub fn scores(&self, sequences: &[Tokens]) -> Result<Scored> {
        let mut distinct: Vec<&[u32]> = sequences.iter().map(|s| &s[..]).collect();
        distinct.sort_by_key(|s| (s.len(), *s));
        distinct.dedup();
        let lengths: Vec<usize> = distinct.iter().map(|s| s.len()).collect();
        let ranges = cut(&lengths, self.limit, self.pools.len());
        let computed = ranges.iter().map(|r| r.len() * lengths[r.end - 1]).sum();

        // Taken from the end: the longest come first, so that workers end together.
        let left = Mutex::new(ranges);
        let work = |pool: &ThreadPool| -> Result<HashMap<&[u32], f32>> {
            let mut scored = HashMap::new();
            loop {
                let Some(range) = left.lock().expect("no worker panics").pop() else { return Ok(scored) };
                let batch = &distinct[range];
                scored.extend(batch.iter().copied().zip(pool.install(|| self.model.scores(batch))?));
            }
        };
        let mut of = HashMap::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = self.pools.iter().map(|pool| scope.spawn(|| work(pool))).collect();
            workers.into_iter().try_for_each(|worker| {
                of.extend(worker.join().expect("no worker panics")?);
                anyhow::Ok(())
            })
        })?;
        let scores = sequences.iter().map(|s| of[&s[..]]).collect();
        Ok(Scored { scores, real: lengths.iter().sum(), computed })
    }
}

/// Neighbours of rising length whose padded tokens stay within `limit`, in at least `workers` batches of about as many
/// tokens where there are as many sequences.
fn cut(lengths: &[usize], limit: Option<usize>, workers: usize) -> Vec<Range<usize>> {
    let total: usize = lengths.iter().sum();
    let (mut batches, mut first, mut done) = (Vec::new(), 0, 0);
    for (i, length) in lengths.iter().enumerate() {
        let full = limit.is_some_and(|limit| (i + 1 - first) * length > limit);
        if i > first && (full || done * workers >= (batches.len() + 1) * total) {
            batches.push(first..i);
            first = i;
        }
        done += length;
    }
    batches.push(first..lengths.len());
    batches
}
