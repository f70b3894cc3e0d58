//! A sample of the utterances of lists, by which lists are known again that have many of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::text::hex;

/// Lists with a tenth of the utterances have one of so many with a probability of 0.97, those with all of them surely.
const KEPT: usize = 32;

/// The utterances whose digests are the smallest (Broder 1997): neither their order nor their files count, nor what is in
/// the lists beside id and reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sample(BTreeSet<String>);

impl Sample {
    /// Adds an utterance, with what was said in it, normalised.
    pub fn add(&mut self, id: &str, reference: &str) {
        self.0.insert(digest(id, reference));
        if self.0.len() > KEPT {
            self.0.pop_last();
        }
    }

    /// Whether the utterance is one of the sample.
    pub fn has(&self, id: &str, reference: &str) -> bool {
        self.0.contains(&digest(id, reference))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn digest(id: &str, reference: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((id.len() as u64).to_le_bytes());
    hash.update(id);
    hash.update(reference);
    hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(utterances: impl Iterator<Item = u32>) -> Sample {
        let mut sample = Sample::default();
        utterances.for_each(|i| sample.add(&format!("u{i}"), "a b"));
        sample
    }

    #[test]
    fn it_is_the_same_in_any_order_and_grows_by_what_is_added() {
        let whole = sample(0..1000);
        assert_eq!(whole.0.len(), KEPT);
        assert_eq!(sample((0..1000).rev()), whole);
        let mut both = sample(0..400);
        (400..1000).for_each(|i| both.add(&format!("u{i}"), "a b"));
        assert_eq!(both, whole);
    }

    #[test]
    fn it_knows_its_utterances_and_no_others() {
        let sample = sample(0..1000);
        let known =
            |ids: std::ops::Range<u32>, said| ids.filter(|i| sample.has(&format!("u{i}"), said)).count();
        assert_eq!(known(0..1000, "a b"), KEPT);
        assert!((1..KEPT).contains(&known(0..300, "a b")));
        assert_eq!((known(1000..9000, "a b"), known(0..1000, "a c")), (0, 0));
    }
}
