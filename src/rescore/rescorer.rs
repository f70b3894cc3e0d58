//! Scores of utterances: text is normalised, tokenised on all cores, and scored.

use std::sync::Arc;

use rayon::prelude::*;

use super::head::Head;
use super::ngram::{DomainModel, Likelihood};
use super::prune::Margin;
use super::scorer::{Pending, Scorer};
use super::weights::Features;
use crate::Result;
use crate::bert::{Encoded, Tokenizer};
use crate::device::AnyDevice;
use crate::lora::Adapter;
use crate::model::BaseModel;
use crate::nbest::Utterance;
use crate::nbest::normalise::{Normaliser, Unit, units};
use crate::profile::{Recorder, Work};

/// A model with its head, or several, ready for the text of hypotheses.
pub struct Rescorer {
    scorer: Scorer,
    tokenizer: Tokenizer,
    max_tokens: usize,
    normaliser: Normaliser,
    unit: Unit,
    /// By adapter.
    ngrams: Vec<Option<Arc<DomainModel>>>,
    recorder: Recorder,
}

/// What came out of some utterances.
pub struct Scored {
    /// By utterance and hypothesis; `None` for those that were pruned.
    pub features: Vec<Vec<Option<Features>>>,
    /// Of those that were scored.
    pub tokens: u64,
    /// Hypotheses that were longer than the model can take, and cut.
    pub cut: u64,
}

impl Rescorer {
    /// Packs the model for `device`.
    ///
    /// # Errors
    /// Where a tensor of the base is missing or has another shape.
    pub fn new(
        device: AnyDevice,
        model: BaseModel,
        adapter: &Adapter,
        normaliser: Normaliser,
        unit: Unit,
    ) -> Result<Self> {
        Rescorer::of_adapters(device, model, &[adapter], normaliser, unit)
    }

    /// What scores as `head` says.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and where its settings hold a bad regular expression.
    pub fn of_head(device: AnyDevice, head: Head) -> Result<Self> {
        let Head { model, adapter, settings, .. } = head;
        let (rescoring, ngram) = (settings.rescoring, settings.ngram);
        let normaliser = Normaliser::new(&rescoring.normalise)?;
        let rescorer = Rescorer::new(device, model, &adapter, normaliser, rescoring.unit)?;
        Ok(rescorer.with_ngrams(vec![ngram]))
    }

    /// The same with the n-gram models that the adapters have, by their numbers.
    pub fn with_ngrams(self, ngrams: Vec<Option<Arc<DomainModel>>>) -> Self {
        Rescorer { ngrams, ..self }
    }

    /// Packs the model with several adapters of it, which have their places as numbers.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn of_adapters(
        device: AnyDevice,
        model: BaseModel,
        adapters: &[&Adapter],
        normaliser: Normaliser,
        unit: Unit,
    ) -> Result<Self> {
        let recorder = device.recorder();
        let scorer = Scorer::new(device, &model, adapters)?;
        let (tokenizer, max_tokens) = (model.tokenizer, model.config.max_positions);
        let ngrams = vec![None; adapters.len()];
        Ok(Rescorer { scorer, tokenizer, max_tokens, normaliser, unit, ngrams, recorder })
    }

    /// The longest text, in tokens, that is not cut.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Scores every hypothesis within `margin` of the best of its list, by the first adapter. A score does not depend
    /// on what else is scored.
    ///
    /// # Errors
    /// Where the vocabulary cannot express a text.
    pub fn score(&self, utterances: &[Utterance], margin: Margin) -> Result<Scored> {
        self.finish(utterances, self.start(utterances, margin)?)
    }

    /// Scores every hypothesis of each utterance by the adapter whose number is at its place in `adapters`.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    ///
    /// # Panics
    /// Where there is no such adapter.
    pub fn score_by(&self, utterances: &[Utterance], adapters: &[usize]) -> Result<Scored> {
        self.finish(utterances, self.start_by(utterances, Margin::NONE, |i| adapters[i])?)
    }

    /// g of each text by itself.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    pub fn score_texts(&self, texts: &[String]) -> Result<Vec<f32>> {
        let read: Vec<Read> = texts.par_iter().map(|text| self.read(0, true, text)).collect::<Result<_>>()?;
        self.scorer.scores_of(&sequences(&read))
    }

    /// Tokenises every hypothesis within `margin`, and asks a GPU for its score without waiting for it.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    pub(super) fn start(&self, utterances: &[Utterance], margin: Margin) -> Result<Started> {
        self.start_by(utterances, margin, |_| 0)
    }

    /// The same by the adapter that `adapter_of` gives for the place of an utterance.
    fn start_by(
        &self,
        utterances: &[Utterance],
        margin: Margin,
        adapter_of: impl Fn(usize) -> usize,
    ) -> Result<Started> {
        let mut texts: Vec<(usize, bool, &str)> = Vec::new();
        for (i, u) in utterances.iter().enumerate() {
            let (adapter, kept) = (adapter_of(i), margin.keeps(u.hypotheses.iter().map(|h| h.first_pass)));
            texts.extend(kept.zip(&u.hypotheses).map(|(kept, h)| (adapter, kept, &h.text[..])));
        }
        let read = texts.par_iter().map(|&(adapter, kept, text)| self.read(adapter, kept, text));
        let read: Vec<Read> = self.recorder.phase("tokenise", || read.collect::<Result<_>>())?;
        let pending = self.scorer.start(&sequences(&read))?;
        Ok(Started { read, pending })
    }

    /// What came of it; `utterances` are those that it was started with.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    pub(super) fn finish(&self, utterances: &[Utterance], started: Started) -> Result<Scored> {
        let Started { read, pending } = started;
        let scores = match pending {
            Some(pending) => pending.wait()?,
            None => self.scorer.scores_of(&sequences(&read))?,
        };
        let (mut scores, mut left) = (scores.into_iter(), &read[..]);
        let of = |u: &Utterance| {
            let list;
            (list, left) = left.split_at(u.hypotheses.len());
            let features =
                u.hypotheses.iter().zip(list).zip(self.ngram_scores(list)).map(|((h, read), d)| {
                    let g = read.tokens.as_ref().and_then(|_| scores.next())?;
                    Some(Features::new(h, f64::from(g), read.units, d))
                });
            features.collect()
        };
        let kept = || read.iter().filter_map(|r| r.tokens.as_ref());
        Ok(Scored {
            features: utterances.iter().map(of).collect(),
            tokens: kept().map(|tokens| tokens.ids.len() as u64).sum(),
            cut: kept().filter(|tokens| tokens.truncated).count() as u64,
        })
    }

    /// Whether an adapter of it has an n-gram model.
    pub fn has_ngram(&self) -> bool {
        self.ngrams.iter().any(Option::is_some)
    }

    /// d of the hypotheses of a list. What was pruned counts too: it may be what the list is known by.
    fn ngram_scores(&self, list: &[Read]) -> Vec<f64> {
        match list.first().and_then(|first| self.ngrams[first.adapter].as_ref()) {
            Some(domain) => domain.familiarity.scores(list.iter().filter_map(|r| r.likelihood)).collect(),
            None => vec![0.0; list.len()],
        }
    }

    fn read(&self, adapter: usize, kept: bool, text: &str) -> Result<Read> {
        if !kept && self.ngrams[adapter].is_none() {
            return Ok(Read { adapter, tokens: None, units: 0, likelihood: None });
        }
        let read = || {
            let text = self.normaliser.normalise(text);
            let tokens = kept.then(|| self.tokenizer.encode(&text, self.max_tokens)).transpose()?;
            let units = units(&text, self.unit);
            let likelihood = self.ngrams[adapter].as_ref().map(|domain| domain.ngram.likelihood(&units));
            Ok(Read { adapter, tokens, units: units.len(), likelihood })
        };
        self.recorder.operation("tokenise", |_| Work::default(), read)
    }
}

/// Utterances that are tokenised, and whose scores a GPU was asked for, where there is one.
pub(super) struct Started {
    read: Vec<Read>,
    pending: Option<Pending>,
}

/// With the numbers of their adapters.
fn sequences(read: &[Read]) -> Vec<(usize, &[u32])> {
    read.iter().filter_map(|r| Some((r.adapter, &r.tokens.as_ref()?.ids[..]))).collect()
}

/// A text as the model sees it, how many words (or characters) it has, and what the n-gram model says of them.
struct Read {
    /// The number of the one that scores it.
    adapter: usize,
    /// `None` where it was pruned.
    tokens: Option<Encoded>,
    units: usize,
    likelihood: Option<Likelihood>,
}
