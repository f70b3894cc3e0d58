//! What one head does in an evaluation: its weights, where they come from, and how it chooses.

use std::path::PathBuf;

use super::prune::Pruning;
use super::report::Weighing;
use crate::Result;
use crate::nbest::Fields;
use crate::rescore::confidence::fit_confidence_scale;
use crate::rescore::domains::DomainHead;
use crate::rescore::judge::{Choice, System};
use crate::rescore::prune::Margin;
use crate::rescore::tune::{ScoredList, tune_weights};
use crate::rescore::weights::{RescoringFile, TunedOn, Weights};

/// The part of a head, or of the scores that lists have already.
pub(super) struct Part {
    pub rescoring: RescoringFile,
    /// Where its weights come from; `None` where they do not count.
    source: Option<String>,
    /// The best weights that tuning found without this engine's score.
    without_lorb: Option<Weights>,
    /// How this engine chooses, where the lists have its scores.
    rescored: Option<Choice>,
    /// Where tuned weights go.
    dir: Option<PathBuf>,
    saved_to: Option<PathBuf>,
}

impl Part {
    pub fn of_head(head: &DomainHead) -> Part {
        let rescoring = head.settings.rescoring.clone();
        Part {
            source: Some(head.settings.source.clone()),
            rescored: Some(unpruned(rescoring.weights)),
            dir: head.dir.clone(),
            ..Part::of_lists(rescoring)
        }
    }

    pub fn of_lists(rescoring: RescoringFile) -> Part {
        Part { rescoring, source: None, without_lorb: None, rescored: None, dir: None, saved_to: None }
    }

    /// Finds the weights on `scored`, which has this engine's scores if `lorb`, and those that do without them.
    pub fn tune(&mut self, scored: &[ScoredList], tuned_on: Vec<TunedOn>, lorb: bool) {
        let without_lorb = tune_weights(scored, false);
        let weights = if lorb { tune_weights(scored, true) } else { without_lorb };
        let on: Vec<&str> = tuned_on.iter().map(|t| t.list.as_str()).collect();
        self.source = Some(format!("tuned on {}", on.join(", ")));
        self.without_lorb = Some(without_lorb);
        self.rescored = lorb.then_some(unpruned(weights));
        self.rescoring.weights = weights;
        self.rescoring.confidence_scale = fit_confidence_scale(scored, &weights);
        self.rescoring.tuned_on = tuned_on;
    }

    /// Saves the weights beside the head, where that may be changed.
    pub fn save(&mut self) -> Result<()> {
        if let Some(dir) = &self.dir {
            self.rescoring.save(dir)?;
            self.saved_to = Some(dir.join(RescoringFile::NAME));
        }
        Ok(())
    }

    /// What utterances that were rescored already have counts, unless weights do.
    pub fn takes_own_totals(&mut self) {
        if self.source.is_none() {
            self.source = Some("the totals in the lists".into());
            self.rescored = Some(Choice::OwnTotals);
        }
    }

    /// The fields that lists must have.
    pub fn fields(&self) -> Fields {
        match self.weights() {
            Some(_) => self.rescoring.required_fields(),
            None => self.rescoring.fields.clone(),
        }
    }

    pub fn systems(&self, pruning: Option<&Pruning>) -> Vec<(System, Choice)> {
        let mut systems = vec![
            (System::FirstPass, Choice::Combined(Weights::default())),
            (System::Oracle, Choice::FewestErrors),
        ];
        systems.extend(self.without_lorb.map(|w| (System::TunedWithoutLorb, Choice::Combined(w))));
        systems.extend(self.rescored.map(|choice| (System::Rescored, choice)));
        systems.extend(pruning.map(|p| (System::Pruned, Choice::Scored(self.rescoring.weights, p.margin))));
        systems
    }

    pub fn weighing(self) -> Weighing {
        let weights = self.weights();
        Weighing {
            weights,
            weights_without_lorb: self.without_lorb.filter(|_| self.rescored.is_some()),
            confidence_scale: weights.map(|_| self.rescoring.confidence_scale),
            weights_from: self.source,
            saved_to: self.saved_to,
        }
    }

    fn weights(&self) -> Option<Weights> {
        let weighs = self.source.is_some() && self.rescored != Some(Choice::OwnTotals);
        weighs.then_some(self.rescoring.weights)
    }
}

/// This engine's choice.
fn unpruned(weights: Weights) -> Choice {
    Choice::Scored(weights, Margin::NONE)
}
