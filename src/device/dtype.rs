//! What the base's weights are kept in, and what multiplies them.

use std::str::FromStr;

/// A type of numbers. Adapters, sums, softmax and LayerNorm are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    Bf16,
    /// On the CPU, for rescoring: weights with a scale for each output, activations with one for each row.
    Int8,
}

impl Dtype {
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::Int8 => "int8",
        }
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Dtype, String> {
        let known = [Dtype::F32, Dtype::Bf16, Dtype::Int8];
        known.into_iter().find(|d| d.name() == text).ok_or_else(|| "expected f32, bf16 or int8".into())
    }
}
