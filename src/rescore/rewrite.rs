//! Lists that stream by, written with their scores.

use serde_json::{Map, Value};

use super::output::{Scores, rescored};
use super::prune::Margin;
use super::read_ahead::{Failure, ReadAhead};
use super::rescorer::Rescorer;
use super::stream::stream;
use super::weights::{Features, RescoringFile};
use crate::Result;
use crate::nbest::{ListWriter, Utterance};

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub utterances: u64,
    /// Those that were scored.
    pub hypotheses: u64,
    pub pruned: u64,
    pub tokens: u64,
    /// Hypotheses that were longer than the model can take, and cut.
    pub cut: u64,
}

/// An utterance of which `rescorer` found `features`, as it is written.
///
/// # Errors
/// As for [`rescored`].
pub fn line(
    rescorer: &Rescorer,
    settings: &RescoringFile,
    utterance: &Utterance,
    features: &[Option<Features>],
) -> Result<Map<String, Value>> {
    let scores = |f: &Features| Scores::new(f, &settings.weights, rescorer.has_ngram());
    let scores: Vec<Option<Scores>> = features.iter().map(|f| f.as_ref().map(scores)).collect();
    rescored(utterance, &scores, settings.confidence_scale)
}

/// Rescores `input` into `output`, which is left to be finished. After each batch `goes_on` hears what was wrong with the
/// line behind it, if anything was, and says whether that is the end.
///
/// # Errors
/// As for [`stream`] and [`ListWriter::write_rescored`]; or what `goes_on` gives.
pub fn rewrite(
    rescorer: &Rescorer,
    settings: &RescoringFile,
    margin: Margin,
    mut input: ReadAhead,
    output: &mut ListWriter,
    mut goes_on: impl FnMut(Option<Failure>) -> Result<()>,
) -> Result<Counts> {
    let mut counts = Counts::default();
    stream(rescorer, margin, &mut input, |batch, scored| {
        for (utterance, features) in batch.utterances.iter().zip(&scored.features) {
            output.write_rescored(line(rescorer, settings, utterance, features)?)?;
            let scored = features.iter().flatten().count();
            counts.hypotheses += scored as u64;
            counts.pruned += (features.len() - scored) as u64;
        }
        counts.utterances += batch.utterances.len() as u64;
        counts.tokens += scored.tokens;
        counts.cut += scored.cut;
        goes_on(batch.failure)
    })?;
    Ok(counts)
}
