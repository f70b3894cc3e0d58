mod prune;
mod report;
mod transcripts;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use lorb_engine::nbest::normalise::Normaliser;
use lorb_engine::nbest::word_errors::Alignment;
use lorb_engine::rescore::confidence::fit_confidence_scale;
use lorb_engine::rescore::evaluation::{Choice, Judge, Lists as Judged, System, Tally};
use lorb_engine::rescore::prune::{Comparison, Costs, Margin};
use lorb_engine::rescore::rescorer::Rescorer;
use lorb_engine::rescore::settings::Settings;
use lorb_engine::rescore::tune::tune_weights;
use lorb_engine::rescore::weights::{RescoringFile, TunedOn, Weights};
use lorb_engine::{Error, Result};

use self::prune::{Prune, Pruning};
use self::report::{FileReport, Report};
use self::transcripts::Transcripts;
use super::output::{note, print};
use super::scoring::Scoring;
use super::{Compute, Lists};

/// Count the word errors of lists, and tune the weights of their scores
///
/// With --model or --adapter the lists are scored anew. Without, their own scores count: those of the first
/// pass, and those that rescore wrote.
#[derive(Args)]
pub struct Evaluate {
    /// The lists to evaluate, with references
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    scoring: Scoring,
    /// Tune the weights on this list first, and save them beside the adapter; may be repeated
    #[arg(long, value_name = "FILE")]
    tune: Vec<PathBuf>,
    /// Compare with what rescore --prune MARGIN would choose and cost; auto finds the smallest margin that costs
    /// at most 0.01 points of WER on the lists of --tune
    #[arg(long, value_name = "MARGIN", value_parser = Prune::parse, allow_negative_numbers = true)]
    prune: Option<Prune>,
    /// Align as sclite does, so that substitutions, deletions and insertions are those that sclite -s counts, rather
    /// than count the fewest errors
    #[arg(long, value_name = "levenshtein|sclite", default_value = "levenshtein", value_parser = parse_alignment)]
    align: Alignment,
    /// Write what was said and what each system chose into this folder, as .trn files for sclite
    #[arg(long, value_name = "DIR")]
    trn: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    compute: Compute,
}

fn parse_alignment(text: &str) -> Result<Alignment, String> {
    match text {
        "levenshtein" => Ok(Alignment::Levenshtein),
        "sclite" => Ok(Alignment::Sclite),
        _ => Err("expected levenshtein or sclite".into()),
    }
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
    pub fn run(self) -> Result<()> {
        self.refuse_tuning_on_the_evaluated()?;
        let scores_anew = self.scoring.model.is_some() || self.scoring.adapter.is_some();
        if self.prune.is_some() && !scores_anew {
            return Err(Error::Usage("--prune needs --model: it measures what pruning saves".into()));
        }
        if self.prune == Some(Prune::Auto) && self.tune.is_empty() {
            return Err(Error::Usage("--prune auto needs --tune FILE: lists to find the margin on".into()));
        }
        let device = self.compute.start()?;
        let head = scores_anew.then(|| self.scoring.open(&self.lists)).transpose()?;
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
        let report = self.evaluate(lists, plan)?;
        let text = if self.json { report.json() } else { report.text() };
        print(&text)
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
        match dir {
            Some(dir) => rescoring.save(dir)?,
            None if lists.rescorer.is_some() => {
                note("the weights are not saved: what the Hub's cache holds is not changed");
            }
            None => {}
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
        let mut transcripts = self.trn.as_deref().map(Transcripts::create).transpose()?;
        let alignment = self.align;
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
                let chosen =
                    Judge { normaliser, unit, alignment, systems }.add(utterance, &list, &mut tally)?;
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
