use super::compare::{Bound, Output};
use super::{Case, Check, Checked, Site, check};
use crate::Result;
use crate::ops::attention::{Inputs, Shape};

/// Sizes of BERT's heads, and one that no tensor core takes.
pub const CHECKS: &[Check] = &[
    check("attention, heads of 32", |site| general(site, 32)),
    check("attention, heads of 64", |site| general(site, 64)),
    check("attention, heads of 24", |site| general(site, 24)),
];

struct Heads {
    lengths: &'static [usize],
    heads: usize,
    size: usize,
    /// Queries apart from keys and values, one for each sequence; else side by side with them.
    queries: Option<Vec<f32>>,
    others: Vec<f32>,
    dy: Vec<f32>,
}

impl Case for Heads {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>> {
        let (sequences, h) = (self.lengths.len(), self.heads * self.size);
        let mut offsets = vec![0u32];
        for &n in self.lengths {
            offsets.push(offsets[offsets.len() - 1] + n as u32);
        }
        let tokens = offsets[sequences] as usize;
        let of_keys = device.index(&offsets);
        let (inputs, of_queries, count) = match &self.queries {
            Some(queries) => {
                let q = device.upload(queries, sequences, h);
                let each: Vec<u32> = (0..=sequences as u32).collect();
                (Inputs::Split(q, device.upload(&self.others, tokens, 2 * h)), device.index(&each), sequences)
            }
            None => (Inputs::Fused(device.upload(&self.others, tokens, 3 * h)), of_keys.clone(), tokens),
        };
        let shape = Shape {
            heads: self.heads,
            head_size: self.size,
            query_offsets: &of_queries,
            key_offsets: &of_keys,
            single_query: self.queries.is_some(),
        };
        let dy = device.upload(&self.dy, count, h);
        let inputs = match inputs {
            Inputs::Split(q, kv) => {
                Inputs::Split(device.just_written(&q, sequences, h), device.just_written(&kv, tokens, 2 * h))
            }
            Inputs::Fused(all) => Inputs::Fused(device.just_written(&all, tokens, 3 * h)),
        };
        let (y, log_sum_exp) = device.attention(shape, &inputs);
        let dy = device.just_written(&dy, count, h);
        let gradients = match device.attention_backward(shape, &inputs, &y, &log_sum_exp, &dy) {
            Inputs::Fused(d) => vec![device.download(&d)?],
            Inputs::Split(q, kv) => vec![device.download(&q)?, device.download(&kv)?],
        };
        // P is kept on the way to y; P, y and dS on the way back.
        let longest = self.lengths.iter().copied().max().unwrap_or(0).max(self.size);
        let mut outputs = vec![
            Output::new("y", device.download(&y)?, Bound::sum(longest).after(1)),
            Output::new("log-sum-exp", device.download(&log_sum_exp)?, Bound::sum(longest).in_f32()),
        ];
        let gradient = |d| Output::new("gradients", d, Bound::sum(longest).after(3));
        outputs.extend(gradients.into_iter().map(gradient));
        Ok(outputs)
    }
}

/// Queries, keys and values of this size make scores some units apart, as a trained BERT has them.
const SIZE: f32 = 2.0;

fn general(site: &Site<'_>, size: usize) -> Result<f64> {
    let (lengths, heads, mut inputs) = (site.sizes.lengths, site.sizes.heads, site.inputs());
    let n = site.sizes.tokens() * heads * size;
    let (others, dy) = (inputs.values(3 * n, SIZE), inputs.values(n, 1.0));
    site.check(&Heads { lengths, heads, size, queries: None, others, dy })
}

/// Of the one query that a sequence has in the last layer.
pub fn cls(site: &Site<'_>) -> Result<f64> {
    let (lengths, heads, mut inputs) = (site.sizes.lengths, site.sizes.heads, site.inputs());
    let h = site.sizes.hidden;
    let queries = Some(inputs.values(lengths.len() * h, SIZE));
    let others = inputs.values(site.sizes.tokens() * 2 * h, SIZE);
    let dy = inputs.values(lengths.len() * h, 1.0);
    site.check(&Heads { lengths, heads, size: h / heads, queries, others, dy })
}
