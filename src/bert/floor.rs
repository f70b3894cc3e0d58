//! The work that no engine can avoid: what scoring and training are measured against.
//!
//! What sequences share exactly is left out: equal ones count once, layer 0's query, key and value once for each
//! distinct (token, position), and the last layer's rows other than [CLS] only for key and value. The gradient of a
//! frozen weight is no part of it, nor any gradient below the lowest adapted module. Softmax, LayerNorm, GELU, the
//! low-rank products, which could be merged, and the optimizer are outside it: nothing reaches it.
//!
//! Its bytes are those of f32 weights, each read once a pass, and of the embedding rows that are needed. Caches that hold
//! them from the call before have them at another rate, not for nothing.

use std::collections::HashSet;

use super::Config;
use crate::lora::{Target, Targets};
use crate::profile::Work;

/// How much there is of the distinct sequences.
struct Size {
    sequences: usize,
    tokens: usize,
    /// Distinct (token, position).
    distinct: usize,
    /// Pairs of tokens of one sequence.
    pairs: usize,
    /// Rows of the embedding tables: distinct tokens, and positions.
    rows: usize,
}

impl Size {
    fn of<S: AsRef<[u32]>>(sequences: &[S]) -> Size {
        let sequences: HashSet<&[u32]> = sequences.iter().map(AsRef::as_ref).collect();
        let distinct: HashSet<(usize, u32)> =
            sequences.iter().flat_map(|s| s.iter().copied().enumerate()).collect();
        let words: HashSet<u32> = distinct.iter().map(|(_, token)| *token).collect();
        Size {
            sequences: sequences.len(),
            tokens: sequences.iter().map(|s| s.len()).sum(),
            distinct: distinct.len(),
            pairs: sequences.iter().map(|s| s.len() * s.len()).sum(),
            rows: words.len() + sequences.iter().map(|s| s.len()).max().unwrap_or(0),
        }
    }

    /// Rows of a layer behind its keys and values, and pairs of query and key.
    fn of_layer(&self, config: &Config, layer: usize) -> (usize, usize) {
        if layer + 1 == config.layers { (self.sequences, self.tokens) } else { (self.tokens, self.pairs) }
    }
}

/// The floor of scoring sequences together.
pub fn scoring<S: AsRef<[u32]>>(config: &Config, sequences: &[S]) -> Work {
    forward(config, &Size::of(sequences))
}

/// The floor of one training step on sequences: forward, and back to low-rank adapters of these targets, to the
/// classifier, and to the pooler where that is trained.
pub fn training<S: AsRef<[u32]>>(
    config: &Config,
    targets: Targets,
    trained_pooler: bool,
    sequences: &[S],
) -> Work {
    let size = Size::of(sequences);
    forward(config, &size) + backward(config, targets, trained_pooler, &size)
}

/// One of attention's products: as many pairs of query and key, each a row of `hidden`.
fn attention(pairs: usize, hidden: usize) -> Work {
    Work::product(pairs, hidden, 1)
}

fn forward(config: &Config, size: &Size) -> Work {
    let (h, wide) = (config.hidden, config.intermediate);
    let mut floor = Work::bytes(4.0 * (size.rows * h) as f64);
    for layer in 0..config.layers {
        let (rows, pairs) = size.of_layer(config, layer);
        let keys = if layer == 0 { size.distinct } else { size.tokens };
        floor += Work::weights(rows.min(keys), h * h);
        floor += Work::weights(keys, 2 * h * h);
        floor += attention(2 * pairs, h);
        floor += Work::weights(rows, h * h + 2 * h * wide);
    }
    floor += Work::weights(size.sequences, h * h + h);
    floor
}

fn backward(config: &Config, targets: Targets, trained_pooler: bool, size: &Size) -> Work {
    let (h, wide) = (config.hidden, config.intermediate);
    // The classifier's gradient and that of its argument.
    let mut floor = Work::weights(size.sequences, 2 * h);
    if trained_pooler {
        floor += Work::weights(size.sequences, h * h);
    }
    if targets.is_empty() {
        return floor;
    }
    floor += Work::weights(size.sequences, h * h);
    for layer in (0..config.layers).rev() {
        let (rows, pairs) = size.of_layer(config, layer);
        // In every layer but the lowest one, a gradient is asked for by those below.
        let beneath = |module: Target| layer > 0 || targets.iter().any(|t| t < module);
        for (module, weights) in
            [(Target::Output, h * wide), (Target::Intermediate, h * wide), (Target::AttentionOutput, h * h)]
        {
            if beneath(module) {
                floor += Work::weights(rows, weights);
            }
        }
        let wanted = |module: Target| layer > 0 || targets.contains(module);
        let [query, key, value] = [Target::Query, Target::Key, Target::Value].map(wanted);
        // Those of the values, of the probabilities, of the queries and of the keys.
        for needed in [value, query || key, query, key] {
            floor += attention(if needed { pairs } else { 0 }, h);
        }
        if layer > 0 {
            floor += Work::weights(rows, h * h);
            floor += Work::weights(size.tokens, 2 * h * h);
        }
    }
    floor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(layers: usize) -> Config {
        let json = format!(
            r#"{{"model_type": "bert", "vocab_size": 100, "hidden_size": 10, "num_hidden_layers": {layers},
                "num_attention_heads": 2, "intermediate_size": 40, "max_position_embeddings": 32,
                "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}}"#
        );
        Config::from_bytes(json.as_bytes(), "config.json").unwrap()
    }

    /// Five tokens, of which the first of both sequences are one pair of token and position: four of those.
    fn sequences() -> [Vec<u32>; 3] {
        [vec![1, 5, 9], vec![1, 6], vec![1, 6]]
    }

    const WEIGHTS: u32 = 2 * 1200 + 110;

    #[test]
    fn it_counts_what_is_left_of_two_layers() {
        let first = 3 * 4 * 100 + 2 * 10 * (9 + 4) + 5 * (100 + 800);
        let last = (2 * 5 + 2) * 100 + 2 * 10 * 5 + 2 * (100 + 800);
        let head = 2 * (100 + 10);
        let floor = scoring(&config(2), &sequences());
        assert_eq!(floor.flop, 2.0 * f64::from(first + last + head));
        // The rows of four tokens and three positions.
        assert_eq!(floor.bytes, 4.0 * f64::from(WEIGHTS + 7 * 10));
    }

    #[test]
    fn one_layer_is_both_the_first_and_the_last() {
        let layer = (2 + 2 * 4) * 100 + 2 * 10 * 5 + 2 * (100 + 800);
        let head = 2 * (100 + 10);
        assert_eq!(scoring(&config(1), &sequences()).flop, 2.0 * f64::from(layer + head));
    }

    fn back(targets: &str, trained_pooler: bool) -> Work {
        let all = training(&config(2), targets.parse().unwrap(), trained_pooler, &sequences());
        let forward = scoring(&config(2), &sequences());
        Work { flop: all.flop - forward.flop, bytes: all.bytes - forward.bytes }
    }

    #[test]
    fn it_counts_the_way_back_as_far_as_it_goes() {
        let head = 2 * 20;
        assert_eq!(back("none", false).flop, 2.0 * f64::from(head));
        assert_eq!(back("none", true).flop, 2.0 * f64::from(head + 2 * 100));

        // Through the pooler and the last layer: [CLS] rows, four products of attention, and three of rows.
        let last = 2 * 100 + 2 * (800 + 100) + 4 * 10 * 5 + (2 + 2 * 5) * 100;
        assert_eq!(back("output.dense", false).flop, 2.0 * f64::from(head + last));
        assert_eq!(back("intermediate.dense", false).flop, 2.0 * f64::from(head + last + 5 * 400));
        let attention_output = head + last + 5 * 800;
        assert_eq!(back("attention.output.dense", false).flop, 2.0 * f64::from(attention_output));
        let into_attention = attention_output + 5 * 100;
        assert_eq!(back("value", false).flop, 2.0 * f64::from(into_attention + 13 * 10));
        assert_eq!(back("query", false).flop, 2.0 * f64::from(into_attention + 2 * 13 * 10));
        let all = back("all", false);
        assert_eq!(all.flop, 2.0 * f64::from(into_attention + 4 * 13 * 10));
        // Every weight once but layer 0's query, key and value; the classifier's twice.
        assert_eq!(all.bytes, 4.0 * f64::from(WEIGHTS - 300 + 10));
    }

    #[test]
    fn more_sequences_cost_no_less() {
        let (few, more) = ([vec![1, 2]], [vec![1, 2], vec![1, 3]]);
        assert!(scoring(&config(6), &few).flop < scoring(&config(6), &more).flop);
    }
}
