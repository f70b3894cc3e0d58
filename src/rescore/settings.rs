//! How lists are rescored with a head, and where that was said.

use std::path::Path;
use std::sync::Arc;

use super::ngram::{DomainModel, Familiarity, Ngram};
use super::weights::{RescoringFile, Weights};
use crate::card::Card;
use crate::nbest::normalise::{Case, NormaliseOptions, Unit};
use crate::nbest::{Fields, Reading};
use crate::{Error, Result};

/// What rescoring does, and who says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub rescoring: RescoringFile,
    /// Of the head's domain, where it has one.
    pub ngram: Option<Arc<DomainModel>>,
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
                let ngram =
                    rescoring.ngram.map(|familiarity| domain_model(directory, familiarity)).transpose()?;
                return Ok(Settings { rescoring, ngram, source });
            }
            if let Some(card) = Card::load(directory)? {
                let file = directory.join(Card::NAME);
                let source =
                    format!("those of training, from {}; evaluate --tune finds better ones", file.display());
                return Ok(Settings { rescoring: trained(card), ngram: None, source });
            }
        }
        let rescoring = RescoringFile {
            weights: Weights { lorb: 1.0, ..Weights::default() },
            confidence_scale: 1.0,
            fields: Fields::default(),
            normalise: NormaliseOptions::default(),
            unit: Unit::Word,
            ngram: None,
            tuned_on: Vec::new(),
        };
        Ok(Settings {
            rescoring,
            ngram: None,
            source: "the default; evaluate --tune finds better ones".into(),
        })
    }
}

/// How lists are to be read, where the user says so.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// The format of the files, and what it lacks.
    pub reading: Reading,
    /// The field of the first pass's log-score.
    pub first_pass: Option<String>,
    /// The field of the language model's score, which must be there then.
    pub lm: Option<String>,
    pub case: Option<Case>,
    /// See [`NormaliseOptions::noise`].
    pub noise: Option<String>,
    pub fillers: Option<Vec<String>>,
    pub unit: Option<Unit>,
}

impl ListOptions {
    /// These over those that an adapter was trained with, if any.
    pub fn over(
        &self,
        trained: Option<(&Fields, &NormaliseOptions, Unit)>,
    ) -> (Fields, NormaliseOptions, Unit) {
        let (mut fields, mut normalise, mut unit) = match trained {
            Some((fields, normalise, unit)) => (fields.clone(), normalise.clone(), unit),
            None => (Fields::default(), NormaliseOptions::default(), Unit::Word),
        };
        if let Some(name) = &self.first_pass {
            fields.first_pass = name.clone();
        }
        if let Some(name) = &self.lm {
            fields.lm = Some(name.clone());
            fields.lm_required = true;
        }
        normalise.case = self.case.unwrap_or(normalise.case);
        normalise.noise = self.noise.clone().or(normalise.noise);
        if let Some(fillers) = &self.fillers {
            normalise.fillers = fillers.clone();
        }
        unit = self.unit.unwrap_or(unit);
        (fields, normalise, unit)
    }

    /// These over what lists are rescored with otherwise.
    pub fn override_in(&self, file: &mut RescoringFile) {
        let saved = (&file.fields, &file.normalise, file.unit);
        (file.fields, file.normalise, file.unit) = self.over(Some(saved));
    }
}

fn trained(card: Card) -> RescoringFile {
    let Card { fields, normalise, unit, training_weights: weights, .. } = card;
    RescoringFile {
        weights,
        confidence_scale: 1.0,
        fields,
        normalise,
        unit,
        ngram: None,
        tuned_on: Vec::new(),
    }
}

/// The n-gram model that the weights in `directory` are for.
fn domain_model(directory: &Path, familiarity: Familiarity) -> Result<Arc<DomainModel>> {
    match Ngram::load(directory)? {
        Some(ngram) => Ok(Arc::new(DomainModel { ngram, familiarity })),
        None => Err(Error::file(
            directory.join(Ngram::FILE),
            format!("it is missing, and the weights in {} are for it", RescoringFile::NAME),
            "copy it from where the adapter was trained, or train it again",
        )),
    }
}
