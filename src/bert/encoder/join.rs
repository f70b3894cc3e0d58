//! Operands of several adapters out of those of each, on the CPU: they are shared, not copied.

use super::Operands;
use super::layer::LayerOperands;
use crate::device::cpu::Cpu;
use crate::ops::lora_linear::LoraLinear;
use crate::ops::score_head::ScoreHead;

type Lora = <Cpu as LoraLinear>::Lora;
type Pooler = <Cpu as ScoreHead>::Pooler;
type Classifier = <Cpu as ScoreHead>::Classifier;

impl Operands<Cpu> {
    /// The adapters of all `parts`, one after the other.
    ///
    /// # Panics
    /// Where there is none. Their layouts must [match](crate::lora::Layout::matches).
    pub(crate) fn join(parts: &[&Operands<Cpu>]) -> Operands<Cpu> {
        let of_layer = |l: usize| {
            let join = |of: fn(&LayerOperands<Cpu>) -> &Lora| {
                Lora::join(parts.iter().filter_map(|part| part.layers.as_ref()).map(|all| of(&all[l])))
            };
            LayerOperands {
                qkv: join(|layer| &layer.qkv),
                attention_output: join(|layer| &layer.attention_output),
                intermediate: join(|layer| &layer.intermediate),
                output: join(|layer| &layer.output),
            }
        };
        let poolers: Option<Vec<&Pooler>> = parts.iter().map(|part| part.pooler.as_ref()).collect();
        let classifiers: Vec<&Classifier> = parts.iter().map(|part| &part.classifier).collect();
        Operands {
            layers: parts[0].layers.as_ref().map(|layers| (0..layers.len()).map(of_layer).collect()),
            pooler: poolers.map(|poolers| Pooler::join(&poolers)),
            classifier: Classifier::join(&classifiers),
        }
    }

    /// The memory that the adapters take.
    pub(crate) fn bytes(&self) -> usize {
        let of = |layer: &LayerOperands<Cpu>| {
            let all = [&layer.qkv, &layer.attention_output, &layer.intermediate, &layer.output];
            all.into_iter().map(Lora::bytes).sum::<usize>()
        };
        self.layers.iter().flatten().map(of).sum::<usize>()
            + self.pooler.as_ref().map_or(0, Pooler::bytes)
            + self.classifier.bytes()
    }
}
