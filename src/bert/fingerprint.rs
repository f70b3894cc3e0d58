//! Which base model this is, whatever type its weights are stored in.

use serde::{Deserialize, Serialize};

use super::{Checkpoint, Config};
use crate::Result;

/// Four random projections of a base model's weights, each about N(0, 1) over unrelated models.
///
/// A projection is `sum_i s_i w_i / ||w||` with fixed pseudo-random signs `s_i`. Rounding the weights to
/// BF16 changes each by at most 2^-9 of itself, so the error has a norm below 2^-9 ||w||, and since the signs
/// know nothing of it, the projection moves with a standard deviation below 2^-9 = 0.002 (F16: 0.0005).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint([f64; 4]);

/// Five standard deviations of the rounding, at the least. Two unrelated models come this near in one
/// projection with probability 0.0056, in all four with 1e-9.
const TOLERANCE: f64 = 0.01;

impl Fingerprint {
    /// Whether both are of the same weights, up to their rounding to F16 or BF16.
    pub fn matches(&self, other: &Fingerprint) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| (a - b).abs() <= TOLERANCE)
    }
}

impl Checkpoint {
    /// The fingerprint of the encoder; `config` is its configuration.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) where a tensor that it looks at is missing or wrong.
    pub fn fingerprint(&self, config: &Config) -> Result<Fingerprint> {
        let (h, wide, last) = (config.hidden, config.intermediate, config.layers - 1);
        let query = self.f32("encoder.layer.0.attention.self.query.weight", &[h, h])?;
        let output = self.f32("encoder.layer.0.output.dense.weight", &[h, wide])?;
        let key = self.f32(&format!("encoder.layer.{last}.attention.self.key.weight"), &[h, h])?;
        let words = self.f32("embeddings.word_embeddings.weight", &[config.vocab, h])?;
        let words = &words[..config.vocab.min(64) * h];
        Ok(Fingerprint([projection(&query), projection(&output), projection(&key), projection(words)]))
    }
}

/// The projection of `values` on the signs, 0 for a zero vector.
fn projection(values: &[f32]) -> f64 {
    let (mut sum, mut squares) = (0.0, 0.0);
    for (block, chunk) in values.chunks(64).enumerate() {
        let signs = mix(block as u64);
        for (bit, &value) in chunk.iter().enumerate() {
            let value = f64::from(value);
            sum += if signs >> bit & 1 == 1 { value } else { -value };
            squares += value * value;
        }
    }
    if squares == 0.0 { 0.0 } else { sum / squares.sqrt() }
}

/// SplitMix64 of `index`: 64 signs. Fixed for ever, since fingerprints are stored in files.
fn mix(index: u64) -> u64 {
    let mut z = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signs_are_fixed_and_balanced() {
        // The first output of SplitMix64 seeded with 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(projection(&[0.0; 100]), 0.0);
        assert!(projection(&[1.0; 10_000]).abs() < 4.0);
        assert_eq!(projection(&[2.0; 65]), projection(&[3.0; 65]));
    }

    #[test]
    fn not_a_number_never_matches() {
        let nan = Fingerprint([f64::NAN; 4]);
        assert!(!nan.matches(&nan));
    }

    #[test]
    fn each_projection_must_be_near() {
        let zero = Fingerprint([0.0; 4]);
        for i in 0..4 {
            let mut one = [0.0; 4];
            one[i] = 0.009;
            assert!(zero.matches(&Fingerprint(one)));
            one[i] = -0.011;
            assert!(!zero.matches(&Fingerprint(one)), "{i}");
        }
    }
}
