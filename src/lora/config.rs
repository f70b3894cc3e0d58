//! What a low-rank adapter is: its rank, its scale, and the layers it adapts.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::{Error, Result, bert};

/// A linear layer that can be adapted, in each of the encoder's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Query,
    Key,
    Value,
    AttentionOutput,
    Intermediate,
    Output,
}

impl Target {
    /// All, in the order of the model.
    pub const ALL: [Target; 6] = [
        Target::Query,
        Target::Key,
        Target::Value,
        Target::AttentionOutput,
        Target::Intermediate,
        Target::Output,
    ];

    /// The name of the module inside an encoder layer.
    pub fn module(self) -> &'static str {
        match self {
            Target::Query => "attention.self.query",
            Target::Key => "attention.self.key",
            Target::Value => "attention.self.value",
            Target::AttentionOutput => "attention.output.dense",
            Target::Intermediate => "intermediate.dense",
            Target::Output => "output.dense",
        }
    }

    /// The name that users give: the module's, where query, key and value need no more.
    pub fn name(self) -> &'static str {
        self.module().trim_start_matches("attention.self.")
    }

    /// Inputs and outputs of the layer.
    pub fn sizes(self, config: &bert::Config) -> (usize, usize) {
        match self {
            Target::Intermediate => (config.hidden, config.intermediate),
            Target::Output => (config.intermediate, config.hidden),
            _ => (config.hidden, config.hidden),
        }
    }
}

/// A set of [`Target`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Targets(u8);

impl Targets {
    /// Whether `target` is among them.
    pub fn contains(self, target: Target) -> bool {
        self.0 >> target as u8 & 1 == 1
    }

    /// The targets, in the order of the model.
    pub fn iter(self) -> impl Iterator<Item = Target> {
        Target::ALL.into_iter().filter(move |&t| self.contains(t))
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Target> for Targets {
    fn from_iter<I: IntoIterator<Item = Target>>(targets: I) -> Self {
        Targets(targets.into_iter().fold(0, |set, t| set | 1 << t as u8))
    }
}

/// "query,value", "all", "none".
impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim() {
            "all" => return Ok(Target::ALL.into_iter().collect()),
            "none" => return Ok(Targets::default()),
            _ => {}
        }
        let target = |name: &str| {
            let name = name.trim();
            let found = Target::ALL.into_iter().find(|t| t.name() == name || t.module() == name);
            let known = Target::ALL.map(Target::name).join(", ");
            found.ok_or_else(|| {
                Error::Usage(format!("no target {name:?}: give all, none, or some of {known}"))
            })
        };
        text.split(',').map(target).collect()
    }
}

impl TryFrom<String> for Targets {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.iter().map(Target::name).collect::<Vec<_>>().join(","))
    }
}

/// The hyperparameters of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f32,
    /// Probability that training zeroes an input of A.
    pub dropout: f32,
    /// Scale by alpha / sqrt(rank) (rsLoRA) rather than alpha / rank.
    pub rslora: bool,
    pub targets: Targets,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets = [Target::Query, Target::Value].into_iter().collect();
        LoraConfig { rank: 8, alpha: 8.0, dropout: 0.0, rslora: false, targets }
    }
}

impl LoraConfig {
    /// The largest rank; BERT is at most 1,024 wide, and beyond its width a rank is not low.
    pub const MAX_RANK: usize = 1024;

    /// The factor of B A.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Refuses what cannot be computed.
    ///
    /// # Errors
    /// [`Error::Usage`] with the number that is wrong.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::Usage(problem));
        if self.rank == 0 || self.rank > Self::MAX_RANK {
            return refuse(format!("rank {} is not from 1 to {}", self.rank, Self::MAX_RANK));
        }
        if !self.alpha.is_finite() {
            return refuse(format!("alpha {} is not finite", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("dropout {} is not from 0 to below 1", self.dropout));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_what_they_write() {
        for text in ["query,value", "attention.output.dense,output.dense", "none"] {
            assert_eq!(text.parse::<Targets>().unwrap().to_string(), text);
        }
        let all: Targets = "all".parse().unwrap();
        assert_eq!(all.iter().count(), 6);
        assert_eq!(all, all.to_string().parse().unwrap());
        assert_eq!("value, attention.self.query".parse::<Targets>().unwrap(), "query,value".parse().unwrap());
        let refused = "query,vlaue".parse::<Targets>().unwrap_err().to_string();
        assert!(refused.contains("\"vlaue\"") && refused.contains("intermediate.dense"), "{refused}");
        assert!("".parse::<Targets>().is_err());
    }

    #[test]
    fn the_scale_is_that_of_peft() {
        let config = LoraConfig { rank: 16, alpha: 8.0, ..Default::default() };
        assert_eq!(config.scale(), 0.5);
        assert_eq!(LoraConfig { rslora: true, ..config }.scale(), 2.0);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let good = LoraConfig::default();
        assert!(good.check().is_ok());
        assert!(LoraConfig { rank: 0, ..good.clone() }.check().is_err());
        assert!(LoraConfig { rank: 1 << 40, ..good.clone() }.check().is_err());
        assert!(LoraConfig { alpha: f32::NAN, ..good.clone() }.check().is_err());
        assert!(LoraConfig { dropout: 1.0, ..good }.check().is_err());
    }
}
