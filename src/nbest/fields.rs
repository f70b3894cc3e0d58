//! The fields of utterances and hypotheses: what they are called, and which of them hold the scores of the first pass.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Of an utterance: its name, what was said, its hypotheses.
pub(crate) const ID: &str = "id";
pub(crate) const REF: &str = "ref";
pub(crate) const HYPS: &str = "hyps";

/// Of a hypothesis: its words, and where no other field is named the scores of the first pass and its language model.
pub(crate) const TEXT: &str = "text";
pub(crate) const AM: &str = "am";
pub(crate) const LM: &str = "lm";
/// The field that ranks a list in the formats of recognisers.
pub(crate) const SCORE: &str = "score";

/// What rescoring writes into each hypothesis.
pub(crate) const LORB: &str = "lorb";
pub(crate) const NGRAM: &str = "lorb_ngram";
pub(crate) const TOTAL: &str = "total";

/// What it writes into an utterance: the words of the best hypothesis, how sure it is, the hypotheses best first, and
/// those that it did not score.
pub(crate) const BEST: &str = "best";
pub(crate) const CONFIDENCE: &str = "confidence";
pub(crate) const ORDER: &str = "order";
pub(crate) const PRUNED: &str = "pruned";

/// Which fields of a hypothesis hold the scores of the first pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// The first-pass log-score; every hypothesis must have it.
    pub first_pass: String,
    /// The language-model score; `None` leaves it unread.
    pub lm: Option<String>,
    /// Whether a list without the language-model score is an error: so where the user named the field.
    pub lm_required: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Fields { first_pass: AM.into(), lm: Some(LM.into()), lm_required: false }
    }
}

impl Fields {
    /// Refuses to rescore from a field that rescoring would overwrite in the output.
    pub fn check_kept_by_rescoring(&self) -> Result<()> {
        let overwritten = |name: &&str| [LORB, NGRAM, TOTAL].contains(name);
        match [Some(self.first_pass.as_str()), self.lm.as_deref()].into_iter().flatten().find(overwritten) {
            Some(name) => Err(Error::Usage(format!(
                "cannot rescore from the field \"{name}\": rescoring overwrites it; rename it in the lists"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_rescoring_overwrites_is_refused() {
        Fields::default().check_kept_by_rescoring().unwrap();
        let error = Fields { lm: Some("total".into()), ..Fields::default() }.check_kept_by_rescoring();
        assert!(matches!(error, Err(Error::Usage(m)) if m.contains("\"total\"")));
    }
}
