//! Scores of utterances: text is normalised, tokenised on all cores, and scored.

use rayon::prelude::*;

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

/// A model with its head, ready for the text of hypotheses.
pub struct Rescorer {
    scorer: Scorer,
    tokenizer: Tokenizer,
    max_tokens: usize,
    normaliser: Normaliser,
    unit: Unit,
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
        let recorder = device.recorder();
        let scorer = Scorer::new(device, &model, &[adapter])?;
        let max_tokens = model.config.max_positions;
        Ok(Rescorer { scorer, tokenizer: model.tokenizer, max_tokens, normaliser, unit, recorder })
    }

    /// The longest text, in tokens, that is not cut.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Scores every hypothesis within `margin` of the best of its list. A score does not depend on what else
    /// is scored.
    ///
    /// # Errors
    /// Where the vocabulary cannot express a text.
    pub fn score(&self, utterances: &[Utterance], margin: Margin) -> Result<Scored> {
        self.finish(utterances, self.start(utterances, margin)?)
    }

    /// g of each text by itself.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    pub fn score_texts(&self, texts: &[String]) -> Result<Vec<f32>> {
        let read: Vec<Read> = texts.par_iter().map(|text| self.read(text)).collect::<Result<_>>()?;
        self.scorer.scores(&read.iter().map(|r| &r.tokens.ids[..]).collect::<Vec<_>>())
    }

    /// Tokenises every hypothesis within `margin`, and asks a GPU for its score without waiting for it.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    pub(super) fn start<'u>(&self, utterances: &'u [Utterance], margin: Margin) -> Result<Started> {
        let kept = |u: &'u Utterance| {
            let kept = margin.keeps(u.hypotheses.iter().map(|h| h.first_pass));
            kept.zip(&u.hypotheses).map(|(kept, h)| kept.then_some(&h.text[..]))
        };
        let texts: Vec<Option<&str>> = utterances.iter().flat_map(kept).collect();
        let read = texts.par_iter().map(|text| text.map(|text| self.read(text)).transpose());
        let read: Vec<Option<Read>> = self.recorder.phase("tokenise", || read.collect::<Result<_>>())?;
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
        let mut scores = scores.into_iter();
        let hypotheses = utterances.iter().flat_map(|u| &u.hypotheses);
        let mut features = hypotheses.zip(&read).map(|(h, read)| {
            let read = read.as_ref()?;
            scores.next().map(|g| Features::new(h, f64::from(g), read.units))
        });
        let of = |u: &Utterance| features.by_ref().take(u.hypotheses.len()).collect();
        Ok(Scored {
            features: utterances.iter().map(of).collect(),
            tokens: read.iter().flatten().map(|r| r.tokens.ids.len() as u64).sum(),
            cut: read.iter().flatten().filter(|r| r.tokens.truncated).count() as u64,
        })
    }

    fn read(&self, text: &str) -> Result<Read> {
        let read = || {
            let text = self.normaliser.normalise(text);
            let tokens = self.tokenizer.encode(&text, self.max_tokens)?;
            Ok(Read { tokens, units: units(&text, self.unit).len() })
        };
        self.recorder.operation("tokenise", |_| Work::default(), read)
    }
}

/// Utterances that are tokenised, and whose scores a GPU was asked for, where there is one.
pub(super) struct Started {
    /// `None` for hypotheses that were pruned.
    read: Vec<Option<Read>>,
    pending: Option<Pending>,
}

/// All of the one adapter.
fn sequences(read: &[Option<Read>]) -> Vec<(usize, &[u32])> {
    read.iter().flatten().map(|r| (0, &r.tokens.ids[..])).collect()
}

/// A text as the model sees it, and how many words (or characters) it has.
struct Read {
    tokens: Encoded,
    units: usize,
}
