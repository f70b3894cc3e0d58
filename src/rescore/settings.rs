//! How lists are rescored with a head, and where that was said.

use std::path::Path;

use super::weights::{RescoringFile, Weights};
use crate::Result;
use crate::card::Card;
use crate::nbest::jsonl::Fields;
use crate::nbest::normalise::{NormaliseOptions, Unit};

/// What rescoring does, and who says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub rescoring: RescoringFile,
    /// For people.
    pub source: String,
}

impl Settings {
    /// What applies to the head in `directory` (an adapter's or a merged model's): the weights that were tuned
    /// for it, else those that it was trained with, else 1 for the first pass and for its own score.
    ///
    /// # Errors
    /// Where a file is there but cannot be read.
    pub fn of(directory: Option<&Path>) -> Result<Settings> {
        if let Some(directory) = directory {
            if let Some(rescoring) = RescoringFile::load(directory)? {
                let mut source = directory.join(RescoringFile::NAME).display().to_string();
                let tuned_on: Vec<&str> = rescoring.tuned_on.iter().map(|t| t.list.as_str()).collect();
                if !tuned_on.is_empty() {
                    source += &format!(", tuned on {}", tuned_on.join(", "));
                }
                return Ok(Settings { rescoring, source });
            }
            if let Some(card) = Card::load(directory)? {
                let file = directory.join(Card::NAME);
                let source =
                    format!("those of training, from {}; evaluate --tune finds better ones", file.display());
                return Ok(Settings { rescoring: trained(card), source });
            }
        }
        let rescoring = RescoringFile {
            weights: Weights { lorb: 1.0, ..Weights::default() },
            confidence_scale: 1.0,
            fields: Fields::default(),
            normalise: NormaliseOptions::default(),
            unit: Unit::Word,
            tuned_on: Vec::new(),
        };
        Ok(Settings { rescoring, source: "the default; evaluate --tune finds better ones".into() })
    }
}

fn trained(card: Card) -> RescoringFile {
    let Card { fields, normalise, unit, training_weights: weights, .. } = card;
    RescoringFile { weights, confidence_scale: 1.0, fields, normalise, unit, tuned_on: Vec::new() }
}
