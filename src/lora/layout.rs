//! Where each trainable parameter lies in the one flat vector that the optimiser sees.

use std::ops::Range;

use super::{LoraConfig, Target};
use crate::bert;

/// What a parameter is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// A and B of the adapted layers.
    Lora,
    /// A pooler in place of the base's, or because it has none.
    Pooler,
    /// The classifier's weight.
    Head,
    /// theta, the logarithm of the weight of the language-model score.
    Beta,
}

/// What a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    LoraA,
    /// Transposed: `[rank, output]`.
    LoraB,
    PoolerWeight,
    PoolerBias,
    Classifier,
    Theta,
}

impl Kind {
    pub fn group(self) -> Group {
        match self {
            Kind::LoraA | Kind::LoraB => Group::Lora,
            Kind::PoolerWeight | Kind::PoolerBias => Group::Pooler,
            Kind::Classifier => Group::Head,
            Kind::Theta => Group::Beta,
        }
    }

    /// Whether weight decay is for it: a bias has none, and theta is a logarithm.
    pub fn decays(self) -> bool {
        !matches!(self, Kind::PoolerBias | Kind::Theta)
    }
}

/// One tensor of the flat vector, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// "encoder.layer.0.attention.self.query.lora_A.weight", "pooler.dense.bias", "classifier.weight", "theta".
    pub name: String,
    pub kind: Kind,
    pub offset: usize,
    /// Vectors and scalars have one row.
    pub rows: usize,
    pub cols: usize,
}

impl Entry {
    /// Its place in the flat vector.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.rows * self.cols
    }
}

/// The low-rank pair of one layer and target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraSlot {
    /// A, `[rank, input]`, as in PEFT.
    pub a: Range<usize>,
    /// B transposed, `[rank, output]`: the kernels read it row by row as they do A.
    pub b: Range<usize>,
    pub rank: usize,
    pub input: usize,
    pub output: usize,
}

/// The order of all trainable parameters: layer by layer and target by target A then B, then pooler weight
/// `[H, H]` and bias `[H]`, classifier weight `[1, H]`, theta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    /// By layer, then by [`Target`].
    slots: Vec<[Option<LoraSlot>; 6]>,
    pooler: Option<(Range<usize>, Range<usize>)>,
    classifier: Range<usize>,
    theta: Option<usize>,
}

impl Layout {
    /// The layout for a base with the sizes of `config`, with or without a trained pooler and theta.
    pub fn new(config: &bert::Config, lora: &LoraConfig, pooler: bool, learned_beta: bool) -> Self {
        let (h, rank) = (config.hidden, lora.rank);
        let mut entries = Vec::new();
        let mut push = |name: String, kind, rows, cols| {
            let offset = entries.last().map_or(0, |e: &Entry| e.range().end);
            let entry = Entry { name, kind, offset, rows, cols };
            let range = entry.range();
            entries.push(entry);
            range
        };
        let mut slots = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            slots.push(Target::ALL.map(|target| {
                lora.targets.contains(target).then(|| {
                    let (input, output) = target.sizes(config);
                    let name = |part| format!("encoder.layer.{layer}.{}.lora_{part}.weight", target.module());
                    let a = push(name("A"), Kind::LoraA, rank, input);
                    let b = push(name("B"), Kind::LoraB, rank, output);
                    LoraSlot { a, b, rank, input, output }
                })
            }));
        }
        let pooler = pooler.then(|| {
            let weight = push("pooler.dense.weight".into(), Kind::PoolerWeight, h, h);
            (weight, push("pooler.dense.bias".into(), Kind::PoolerBias, 1, h))
        });
        let classifier = push("classifier.weight".into(), Kind::Classifier, 1, h);
        let theta = learned_beta.then(|| push("theta".into(), Kind::Theta, 1, 1).start);
        Layout { entries, slots, pooler, classifier, theta }
    }

    /// A and B of `target` in `layer`, where adapted.
    pub fn lora(&self, layer: usize, target: Target) -> Option<&LoraSlot> {
        self.slots.get(layer)?[target as usize].as_ref()
    }

    /// Whether A, B, pooler and classifier have the same sizes and places as in `other`.
    pub fn matches(&self, other: &Layout) -> bool {
        (&self.slots, &self.pooler, &self.classifier) == (&other.slots, &other.pooler, &other.classifier)
    }

    /// Weight and bias of the pooler, where trained.
    pub fn pooler(&self) -> Option<(Range<usize>, Range<usize>)> {
        self.pooler.clone()
    }

    /// The classifier's weight. Its bias is not trained: all scores of a list shift alike with it.
    pub fn classifier(&self) -> Range<usize> {
        self.classifier.clone()
    }

    /// The place of theta, where beta = exp(theta) is learned. It is the last parameter.
    pub fn theta(&self) -> Option<usize> {
        self.theta
    }

    /// All tensors, in order and without gaps.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number of trainable parameters, at least one.
    #[expect(clippy::len_without_is_empty, reason = "the classifier is always there")]
    pub fn len(&self) -> usize {
        self.entries.last().map_or(0, |e| e.range().end)
    }

    /// The parameters of the network: all but theta.
    pub fn of_network(&self) -> usize {
        self.len() - self.count(Group::Beta)
    }

    /// The number of parameters in `group`.
    pub fn count(&self, group: Group) -> usize {
        self.entries.iter().filter(|e| e.kind.group() == group).map(|e| e.range().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_cover_the_vector_without_gaps() {
        let lora =
            LoraConfig { rank: 2, targets: "query,output.dense".parse().unwrap(), ..Default::default() };
        let layout = Layout::new(&bert::Config::tiny(), &lora, true, true);
        let mut end = 0;
        for entry in layout.entries() {
            assert_eq!(entry.offset, end, "{}", entry.name);
            end = entry.range().end;
        }
        assert_eq!(end, layout.len());
        assert_eq!(layout.count(Group::Lora), 3 * 2 * ((6 + 6) + (10 + 6)));
        assert_eq!(layout.count(Group::Pooler), 6 * 6 + 6);
        assert_eq!((layout.count(Group::Head), layout.count(Group::Beta)), (6, 1));
        assert_eq!(layout.theta(), Some(layout.len() - 1));
        assert_eq!(layout.classifier().end, layout.len() - 1);
    }

    #[test]
    fn a_slot_is_where_its_entries_are() {
        let lora = LoraConfig { rank: 2, targets: "all".parse().unwrap(), ..Default::default() };
        let layout = Layout::new(&bert::Config::tiny(), &lora, false, false);
        let slot = layout.lora(1, Target::Output).unwrap();
        assert_eq!((slot.rank, slot.input, slot.output), (2, 10, 6));
        let find = |name: &str| layout.entries().iter().find(|e| e.name == name).unwrap();
        assert_eq!(slot.a, find("encoder.layer.1.output.dense.lora_A.weight").range());
        let b = find("encoder.layer.1.output.dense.lora_B.weight");
        assert_eq!((slot.b.clone(), b.rows, b.cols), (b.range(), 2, 6));
        assert_eq!(layout.lora(3, Target::Query), None);
        assert_eq!((layout.pooler(), layout.theta()), (None, None));
        let none = LoraConfig { targets: "none".parse().unwrap(), ..lora };
        assert_eq!(Layout::new(&bert::Config::tiny(), &none, false, false).len(), 6);
    }
}
