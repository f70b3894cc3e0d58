//! Which kernels an operation may use where several compute the same, and what is tried of them.

use std::fmt;
use std::str::FromStr;

use super::{Precision, Properties};

/// What kernels compute with. Where a level's kernels do not fit (sizes that are not aligned, say), those of a
/// level below run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Multiply-adds in f32, whatever the operands are kept in.
    Plain,
    /// Tensor cores that warps feed, by mma.sync: bf16 alone.
    Tensor,
    /// Tensor cores that read shared memory themselves (wgmma), and the engine that fills it (TMA): bf16 alone.
    Hopper,
}

impl Level {
    /// Those of linear layers with activations of `precision` on a device, the best first. Code for sm_90a runs on
    /// compute capability 9.0 and on no other, later ones included.
    pub fn linear(precision: Precision, capability: (u32, u32)) -> &'static [Level] {
        match (precision, capability) {
            (Precision::Bf16, (9, 0)) => &[Level::Hopper, Level::Tensor, Level::Plain],
            _ => Level::attention(precision),
        }
    }

    /// Those of attention.
    pub fn attention(precision: Precision) -> &'static [Level] {
        match precision {
            Precision::Bf16 => &[Level::Tensor, Level::Plain],
            Precision::F32 => &[Level::Plain],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Plain => "plain",
            Level::Tensor => "tensor",
            Level::Hopper => "hopper",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Level::Plain => "plain kernels, which multiply and add in f32",
            Level::Tensor => "tensor cores, by mma.sync",
            Level::Hopper => "tensor cores, by wgmma and TMA",
        }
    }
}

/// The highest level of each operation that has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variants {
    pub linear: Level,
    pub attention: Level,
}

impl Variants {
    pub const PLAIN: Variants = Variants { linear: Level::Plain, attention: Level::Plain };

    /// All that a device has.
    pub fn best(precision: Precision, properties: &Properties) -> Variants {
        let linear = Level::linear(precision, properties.compute_capability)[0];
        Variants { linear, attention: Level::attention(precision)[0] }
    }
}

/// Kernels that are trusted or not as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Those of all operations that have no variants.
    Common,
    /// Whatever a linear layer runs at this level.
    Linear(Level),
    /// Whatever attention runs at this level.
    Attention(Level),
}

/// What one check is of: a subject, with activations of a precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    pub precision: Precision,
    pub subject: Subject,
}

impl Trial {
    /// All that there are for a precision on a device.
    pub fn all(precision: Precision, capability: (u32, u32)) -> impl Iterator<Item = Trial> {
        let of =
            |levels: &'static [Level], subject: fn(Level) -> Subject| levels.iter().copied().map(subject);
        let linear = of(Level::linear(precision, capability), Subject::Linear);
        let attention = of(Level::attention(precision), Subject::Attention);
        let subjects = [Subject::Common].into_iter().chain(linear).chain(attention);
        subjects.map(move |subject| Trial { precision, subject })
    }

    /// What a device may use while it is tried.
    pub fn limits(self) -> Variants {
        match self.subject {
            Subject::Common => Variants::PLAIN,
            Subject::Linear(linear) => Variants { linear, ..Variants::PLAIN },
            Subject::Attention(attention) => Variants { attention, ..Variants::PLAIN },
        }
    }
}

/// "bf16 lora_linear tensor", by which processes and files name it.
impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let precision = self.precision.name();
        let (operations, level) = match self.subject {
            Subject::Common => return write!(f, "{precision} common"),
            Subject::Linear(level) => ("lora_linear", level),
            Subject::Attention(level) => ("attention", level),
        };
        write!(f, "{precision} {operations} {}", level.name())
    }
}

impl FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Trial, String> {
        let of_hopper = |precision| Trial::all(precision, (9, 0));
        let mut all = [Precision::F32, Precision::Bf16].into_iter().flat_map(of_hopper);
        all.find(|trial| trial.to_string() == text).ok_or_else(|| format!("there are no kernels {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_found_by_its_name() {
        let of_hopper = |precision| Trial::all(precision, (9, 0));
        let all: Vec<Trial> = [Precision::F32, Precision::Bf16].into_iter().flat_map(of_hopper).collect();
        assert_eq!(all.len(), 9);
        assert!(all.iter().all(|trial| trial.to_string().parse() == Ok(*trial)));
        assert!("f32 lora_linear tensor".parse::<Trial>().is_err());
    }

    #[test]
    fn hopper_is_9_0_alone() {
        let best = |precision, capability| Level::linear(precision, capability)[0];
        for capability in [(8, 0), (8, 9), (9, 1), (10, 0), (12, 0)] {
            assert_eq!(best(Precision::Bf16, capability), Level::Tensor, "{capability:?}");
        }
        assert_eq!(best(Precision::Bf16, (9, 0)), Level::Hopper);
        assert_eq!(best(Precision::F32, (9, 0)), Level::Plain);
    }
}
