//! The arithmetic that no engine can avoid: what scoring is measured against.

use std::collections::HashSet;

use super::Config;

/// FLOP (multiply-adds counted twice) of scoring sequences together, with what they share exactly left out: equal
/// sequences count once, layer 0's query, key and value once for each distinct (token, position), and the last layer's
/// rows other than [CLS] only for key and value. Softmax, LayerNorm, GELU and the low-rank products, which could be
/// merged, are outside it.
pub fn forward_flop<S: AsRef<[u32]>>(config: &Config, sequences: &[S]) -> f64 {
    let distinct: HashSet<&[u32]> = sequences.iter().map(AsRef::as_ref).collect();
    let pairs: HashSet<(usize, u32)> = distinct.iter().flat_map(|s| s.iter().copied().enumerate()).collect();
    let tokens: usize = distinct.iter().map(|s| s.len()).sum();
    let squares: usize = distinct.iter().map(|s| s.len() * s.len()).sum();
    let (sequences, tokens, pairs) = (distinct.len() as f64, tokens as f64, pairs.len() as f64);
    let (h, f) = (config.hidden as f64, config.intermediate as f64);
    let rest = h * h + 2.0 * h * f;
    let mut sum = sequences * (h * h + h);
    for layer in 0..config.layers {
        let last = layer + 1 == config.layers;
        let rows = if layer == 0 { pairs } else { tokens };
        let queries = if last { sequences.min(rows) } else { rows };
        sum += (2.0 * rows + queries) * h * h;
        sum += 2.0 * h * if last { tokens } else { squares as f64 };
        sum += rest * if last { sequences } else { tokens };
    }
    2.0 * sum
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

    #[test]
    fn it_counts_what_is_left_of_two_layers() {
        // Five tokens, of which the first of both sequences are one pair: four pairs.
        let sequences = [vec![1, 5, 9], vec![1, 6], vec![1, 6]];
        let first = 3 * 4 * 100 + 2 * 10 * (9 + 4) + 5 * (100 + 800);
        let last = (2 * 5 + 2) * 100 + 2 * 10 * 5 + 2 * (100 + 800);
        let head = 2 * (100 + 10);
        assert_eq!(forward_flop(&config(2), &sequences), 2.0 * f64::from(first + last + head));
    }

    #[test]
    fn more_sequences_cost_no_less() {
        let (few, more) = ([vec![1, 2]], [vec![1, 2], vec![1, 3]]);
        assert!(forward_flop(&config(6), &few) < forward_flop(&config(6), &more));
    }
}
