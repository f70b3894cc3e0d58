//! An evaluation as users ask for it, from the paths of lists to a report: what the command line and the Python
//! package share.

mod prune;
mod report;
mod transcripts;

use std::fs;
use std::path::{Path, PathBuf};

pub use self::prune::{Prune, Pruning};
pub use self::report::{FileReport, Report};
use self::transcripts::Transcripts;
use super::confidence::fit_confidence_scale;
use super::evaluation::{Choice, Judge, Lists as Judged, System, Tally};
use super::head::Head;
use super::prune::{Comparison, Costs, Margin};
use super::rescorer::Rescorer;
use super::settings::{ListOptions, Settings};
use super::tune::tune_weights;
use super::weights::{RescoringFile, TunedOn, Weights};
use crate::device::AnyDevice;
use crate::nbest::normalise::Normaliser;
use crate::nbest::word_errors::Alignment;
use crate::{Error, Result};

/// What is to be evaluated.
pub struct Evaluate {
    /// Lists with references.
    pub files: Vec<PathBuf>,
    /// Lists to tune the weights on first.
    pub tune: Vec<PathBuf>,
    /// Compare with what pruning would choose and cost.
    pub prune: Option<Prune>,
    pub alignment: Alignment,
    /// A folder for .trn files of what was said and of what each system chose.
    pub transcripts: Option<PathBuf>,
    pub lists: ListOptions,
}

/// This engine's choice.
fn unpruned(weights: Weights) -> Choice {
    Choice::Scored(weights, Margin::NONE)
}

/// The weights of an evaluation.
struct Plan {
    rescoring: RescoringFile,
    /// Where its weights come from; `None` where they do not count.
    source: Option<String>,
    /// The best weights that tuning found without this engine's score.
    without_lorb: Option<Weights>,
    /// How this engine chooses, where the lists have its scores.
    rescored: Option<Choice>,
    pruning: Option<Pruning>,
    saved_to: Option<PathBuf>,
}

impl Evaluate {
    /// Refuses what makes no sense, before anything is opened; `scores_anew` says whether there will be a head.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, scores_anew: bool) -> Result<()> {
        self.refuse_tuning_on_the_evaluated()?;
        if self.prune.is_some() && !scores_anew {
            return Err(Error::Usage("--prune needs --model: it measures what pruning saves".into()));
        }
        if self.prune == Some(Prune::Auto) && self.tune.is_empty() {
            return Err(Error::Usage("--prune auto needs --tune FILE: lists to find the margin on".into()));
        }
        Ok(())
    }

    /// Counts errors. With a head the lists are scored anew on `device`, and tuned weights are saved beside it;
    /// without, their own scores count.
    ///
    /// # Errors
    /// As for [`check`](Self::check), and whatever is wrong with a list.
    pub fn run(&self, device: AnyDevice, head: Option<Head>) -> Result<Report> {
        self.check(head.is_some())?;
        let settings = match &head {
            Some(head) => head.settings.clone(),
            None => {
                let mut settings = Settings::of(None)?;
                self.lists.override_in(&mut settings.rescoring);
                settings
            }
        };
        let normaliser = Normaliser::new(&settings.rescoring.normalise)?;
        let unit = settings.rescoring.unit;
        let dir = head.as_ref().and_then(|h| h.dir.clone());
        let rescorer = head
            .map(|head| Rescorer::new(device, head.model, &head.adapter, normaliser.clone(), unit))
            .transpose()?;
        let mut lists = Judged {
            rescorer: rescorer.as_ref(),
            reading: &self.lists.reading,
            normaliser: &normaliser,
            unit,
            scores: None,
            comparison: None,
        };

        let plan = if self.tune.is_empty() {
            let Settings { rescoring, source } = settings;
            let weights = rescorer.is_some().then_some(rescoring.weights);
            let pruning = self.prune.map(|prune| prune.on(&[], &rescoring.weights));
            let (source, rescored) = (weights.map(|_| source), weights.map(unpruned));
            Plan { rescoring, source, without_lorb: None, rescored, pruning, saved_to: None }
        } else {
            self.tune(&mut lists, settings.rescoring, dir.as_deref())?
        };
        self.evaluate(lists, plan)
    }

    /// Weights that were tuned on a list do well on it whatever they are worth.
    fn refuse_tuning_on_the_evaluated(&self) -> Result<()> {
        for tuned in &self.tune {
            // A file that is not there is reported when it is opened.
            let real = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            if self.files.iter().any(|file| real(file) == real(tuned)) {
                let tuned = tuned.display();
                return Err(Error::Usage(format!("{tuned} cannot be both tuned on and evaluated")));
            }
        }
        Ok(())
    }

    /// Finds the weights, and those that do without this engine's score; saves them in `dir`.
    fn tune(&self, lists: &mut Judged, mut rescoring: RescoringFile, dir: Option<&Path>) -> Result<Plan> {
        let mut scored = Vec::new();
        rescoring.tuned_on.clear();
        for path in &self.tune {
            let before = scored.len();
            lists.read(path, &rescoring.fields, |_, list| {
                if list.hypotheses.iter().any(|h| h.pruned) {
                    let hint = "tune on lists that were rescored without --prune, or give --model";
                    return Err(("hypotheses of it were pruned, and have no \"lorb\"".into(), hint));
                }
                scored.push(list);
                Ok(())
            })?;
            let utterances = (scored.len() - before) as u64;
            rescoring.tuned_on.push(TunedOn { list: path.display().to_string(), utterances });
        }
        let lorb = lists.scores.unwrap_or_default().lorb;
        let without_lorb = tune_weights(&scored, false);
        rescoring.weights = if lorb { tune_weights(&scored, true) } else { without_lorb };
        rescoring.confidence_scale = fit_confidence_scale(&scored, &rescoring.weights);
        if let Some(dir) = dir {
            rescoring.save(dir)?;
        }
        let on: Vec<&str> = rescoring.tuned_on.iter().map(|t| t.list.as_str()).collect();
        Ok(Plan {
            source: Some(format!("tuned on {}", on.join(", "))),
            without_lorb: Some(without_lorb),
            rescored: lorb.then_some(unpruned(rescoring.weights)),
            pruning: self.prune.map(|prune| prune.on(&scored, &rescoring.weights)),
            rescoring,
            saved_to: dir.map(|dir| dir.join(RescoringFile::NAME)),
        })
    }

    fn evaluate(&self, mut lists: Judged, plan: Plan) -> Result<Report> {
        let Plan { rescoring, mut source, without_lorb, mut rescored, pruning, saved_to } = plan;
        let weights = source.is_some().then_some(rescoring.weights);
        let fields = if weights.is_some() { rescoring.required_fields() } else { rescoring.fields };
        let (mut files, mut all, mut all_costs) = (Vec::new(), Tally::default(), Costs::default());
        lists.comparison = pruning.map(|p| Comparison::new(p.margin));
        let mut transcripts = self.transcripts.as_deref().map(Transcripts::create).transpose()?;
        let alignment = self.alignment;
        for path in &self.files {
            let mut tally = Tally::default();
            let (normaliser, unit) = (lists.normaliser, lists.unit);
            lists.read(path, &fields, |utterance, list| {
                if source.is_none() && utterance.is_rescored() {
                    source = Some("the totals in the lists".into());
                    rescored = Some(Choice::OwnTotals);
                }
                let mut systems = vec![
                    (System::FirstPass, Choice::Combined(Weights::default())),
                    (System::Oracle, Choice::FewestErrors),
                ];
                systems.extend(without_lorb.map(|w| (System::TunedWithoutLorb, Choice::Combined(w))));
                systems.extend(rescored.map(|choice| (System::Rescored, choice)));
                let pruned = pruning.map(|p| Choice::Scored(rescoring.weights, p.margin));
                systems.extend(pruned.map(|choice| (System::Pruned, choice)));
                let judge = Judge { normaliser, unit, alignment, systems };
                let chosen = judge.add(utterance, &list, &mut tally)?;
                let transcripts = transcripts.as_mut();
                transcripts.map_or(Ok(()), |files| files.add(utterance, &chosen, normaliser, unit))
            })?;
            let costs = lists.comparison.as_mut().map(Comparison::take);
            files.push(FileReport::new(path.display().to_string(), &tally, costs));
            all.extend(&tally);
            all_costs += costs.unwrap_or_default();
        }
        transcripts.map_or(Ok(()), Transcripts::finish)?;
        Ok(Report {
            unit: lists.unit,
            alignment,
            weights,
            weights_from: source,
            weights_without_lorb: without_lorb.filter(|_| rescored.is_some()),
            confidence_scale: weights.map(|_| rescoring.confidence_scale),
            pruning,
            saved_to,
            all: (files.len() > 1).then(|| {
                let costs = pruning.map(|_| all_costs);
                FileReport::new(format!("all {} files", files.len()), &all, costs)
            }),
            files,
        })
    }
}
