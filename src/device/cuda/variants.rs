//! Which kernels an operation may use where several compute the same, and what is tried of them.

use std::fmt;
use std::str::FromStr;

use super::Precision;

/// What kernels compute with. Where a level's kernels do not fit (sizes that are not aligned, say), those of a
/// level below run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Multiply-adds in f32, whatever the operands are kept in.
    Plain,
    /// Tensor cores by mma.sync: bf16 alone.
    Tensor,
}

impl Level {
    /// Those that there are for activations of `precision`, the best first.
    pub fn of(precision: Precision) -> &'static [Level] {
        match precision {
            Precision::Bf16 => &[Level::Tensor, Level::Plain],
            Precision::F32 => &[Level::Plain],
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Level::Plain => "plain kernels, which multiply and add in f32",
            Level::Tensor => "tensor cores, by mma.sync",
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
    pub const BEST: Variants = Variants { linear: Level::Tensor, attention: Level::Tensor };
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
    /// All that there are for a precision.
    pub fn all(precision: Precision) -> impl Iterator<Item = Trial> {
        let of = |subject: fn(Level) -> Subject| Level::of(precision).iter().copied().map(subject);
        let subjects = [Subject::Common].into_iter().chain(of(Subject::Linear)).chain(of(Subject::Attention));
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
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        let (operations, level) = match self.subject {
            Subject::Common => return write!(f, "{precision} common"),
            Subject::Linear(level) => ("lora_linear", level),
            Subject::Attention(level) => ("attention", level),
        };
        let level = match level {
            Level::Plain => "plain",
            Level::Tensor => "tensor",
        };
        write!(f, "{precision} {operations} {level}")
    }
}

impl FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Trial, String> {
        let mut all = [Precision::F32, Precision::Bf16].into_iter().flat_map(Trial::all);
        all.find(|trial| trial.to_string() == text).ok_or_else(|| format!("there are no kernels {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_found_by_its_name() {
        let all: Vec<Trial> = [Precision::F32, Precision::Bf16].into_iter().flat_map(Trial::all).collect();
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|trial| trial.to_string().parse() == Ok(*trial)));
        assert!("f32 lora_linear tensor".parse::<Trial>().is_err());
    }
}
