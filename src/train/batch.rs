//! The utterances of a step as a learner takes them.

use std::ops::Range;

use super::examples::Example;
use super::sampling::Sample;
use crate::rescore::weights::Weights;

/// The utterances of a step, or some of them: their hypotheses side by side.
#[derive(Debug, Default)]
pub struct StepBatch {
    /// Token ids of every hypothesis.
    pub sequences: Vec<Vec<u32>>,
    /// The first-pass part of each hypothesis's combined score.
    pub offsets: Vec<f64>,
    /// Word errors of each hypothesis.
    pub errors: Vec<u32>,
    /// The hypotheses of each utterance.
    pub utterances: Vec<Range<usize>>,
    /// Tokens and sequences of the step before these.
    pub first_token: usize,
    pub first_sequence: usize,
    /// Utterances of the whole step.
    pub step_utterances: usize,
}

impl StepBatch {
    /// The `share` of a step's `samples` of `examples`; `weights` are those of the scores that are not trained.
    pub fn new(
        examples: &[Example],
        samples: &[Sample],
        share: Range<usize>,
        weights: &Weights,
    ) -> StepBatch {
        let (before, share) = (&samples[..share.start], &samples[share]);
        let mut batch = StepBatch::default();
        for Sample { example, hypotheses } in share {
            let Example { list, tokens, .. } = &examples[*example];
            batch.push(hypotheses.iter().map(|&h| {
                let hypothesis = &list.hypotheses[h];
                (tokens[h].clone(), weights.combined(&hypothesis.features), hypothesis.errors as u32)
            }));
        }
        StepBatch {
            first_token: before.iter().map(|sample| sample.tokens(examples)).sum(),
            first_sequence: before.iter().map(|sample| sample.hypotheses.len()).sum(),
            step_utterances: samples.len(),
            ..batch
        }
    }

    /// Adds an utterance to the step: of each hypothesis the token ids, the first-pass part of its combined score, and
    /// the word errors.
    pub fn push(&mut self, hypotheses: impl IntoIterator<Item = (Vec<u32>, f64, u32)>) {
        let first = self.sequences.len();
        for (tokens, offset, errors) in hypotheses {
            self.sequences.push(tokens);
            self.offsets.push(offset);
            self.errors.push(errors);
        }
        self.utterances.push(first..self.sequences.len());
        self.step_utterances += 1;
    }

    /// Of each utterance.
    pub(super) fn tokens_of_utterances(&self) -> Vec<usize> {
        let tokens = |u: &Range<usize>| self.sequences[u.clone()].iter().map(Vec::len).sum();
        self.utterances.iter().map(tokens).collect()
    }

    /// Some of its utterances, as a part of the same step.
    pub(super) fn piece(&self, utterances: Range<usize>) -> StepBatch {
        let first = self.utterances[utterances.start].start;
        let range = first..self.utterances[utterances.end - 1].end;
        StepBatch {
            sequences: self.sequences[range.clone()].to_vec(),
            offsets: self.offsets[range.clone()].to_vec(),
            errors: self.errors[range].to_vec(),
            utterances: self.utterances[utterances].iter().map(|u| u.start - first..u.end - first).collect(),
            first_token: self.first_token + self.sequences[..first].iter().map(Vec::len).sum::<usize>(),
            first_sequence: self.first_sequence + first,
            step_utterances: self.step_utterances,
        }
    }
}
