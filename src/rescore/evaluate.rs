//! An evaluation as users ask for it, from the paths of lists to a report: what the command line and the Python
//! package share.

mod part;
mod prune;
mod report;
mod transcripts;

use std::path::PathBuf;

use self::part::Part;
pub use self::prune::{Prune, Pruning};
pub use self::report::{DomainReport, FileReport, Report, Weighing};
use self::transcripts::Transcripts;
use super::domains::{DomainHead, Heads, Routes};
use super::judge::{Judge, JudgedLists, Tally};
use super::prune::{Comparison, Costs};
use super::rescorer::Rescorer;
use super::settings::{ListOptions, Settings};
use super::tune::ScoredList;
use super::weights::TunedOn;
use crate::device::AnyDevice;
use crate::nbest::Fields;
use crate::nbest::normalise::Normaliser;
use crate::nbest::word_errors::Alignment;
use crate::{Error, Result, atomic};

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

    /// Counts errors. With heads the lists are scored anew on `device`, each utterance by the one that is for its
    /// domain, and tuned weights are saved beside them; without, their own scores count.
    ///
    /// # Errors
    /// As for [`check`](Self::check), and whatever is wrong with a list.
    pub fn run(&self, device: AnyDevice, heads: Option<Heads>) -> Result<Report> {
        self.check(heads.is_some())?;
        let routes = heads.as_ref().map_or_else(Routes::single, |heads| Routes::new(&heads.heads));
        if routes.by_domain() && self.prune.is_some() {
            return Err(Error::Usage("--prune is for one adapter, not for some by --adapter-for".into()));
        }
        if let Some(heads) = heads.as_ref().filter(|_| !self.tune.is_empty()) {
            heads.check_folders()?;
        }
        let (model, heads) = heads.map_or((None, Vec::new()), |heads| (Some(heads.model), heads.heads));
        let mut parts: Vec<Part> = heads.iter().map(Part::of_head).collect();
        if parts.is_empty() {
            let mut rescoring = Settings::of(None)?.rescoring;
            self.lists.override_in(&mut rescoring);
            parts.push(Part::of_lists(rescoring));
        }
        // All parts agree on both.
        let unit = parts[0].rescoring.unit;
        let normaliser = Normaliser::new(&parts[0].rescoring.normalise)?;
        let adapters: Vec<_> = heads.iter().map(|head| &head.adapter).collect();
        let rescorer = model
            .map(|model| Rescorer::of_adapters(device, model, &adapters, normaliser.clone(), unit))
            .transpose()?
            .map(|rescorer| {
                rescorer.with_ngrams(heads.iter().map(|head| head.settings.ngram.clone()).collect())
            });
        let mut lists = JudgedLists {
            rescorer: rescorer.as_ref(),
            routes: &routes,
            reading: &self.lists.reading,
            normaliser: &normaliser,
            unit,
            scores: None,
            comparison: None,
        };
        let (scored, warnings) = self.tune(&mut lists, &heads, &mut parts)?;
        let pruning = self.prune.map(|prune| prune.on(&scored, &parts[0].rescoring.weights));
        drop(scored);
        let Counted { files, all, of_parts } = self.count(&mut lists, &mut parts, pruning)?;
        if !self.tune.is_empty() {
            // Now that nothing can be wrong with a list any more.
            parts.iter_mut().try_for_each(Part::save)?;
        }
        let mut weighings = parts.into_iter().map(Part::weighing);
        let (weighing, domains) = match routes.by_domain() {
            false => (weighings.next().unwrap_or_default(), Vec::new()),
            true => {
                let domains = heads.iter().zip(weighings).zip(&of_parts);
                let report = |((head, weighing), tally)| DomainReport::new(head, weighing, tally);
                (Weighing::default(), domains.map(report).collect())
            }
        };
        Ok(Report { unit, alignment: self.alignment, weighing, pruning, files, all, domains, warnings })
    }

    /// Weights that were tuned on a list do well on it whatever they are worth.
    fn refuse_tuning_on_the_evaluated(&self) -> Result<()> {
        for tuned in &self.tune {
            if self.files.iter().any(|file| atomic::is_same(file, tuned)) {
                let tuned = tuned.display();
                return Err(Error::Usage(format!("{tuned} cannot be both tuned on and evaluated")));
            }
        }
        Ok(())
    }

    /// Finds the weights of all parts on their own utterances of the lists to tune on, where there are any; gives the
    /// lists of the first, and what to warn of.
    fn tune(
        &self,
        lists: &mut JudgedLists,
        heads: &[DomainHead],
        parts: &mut [Part],
    ) -> Result<(Vec<ScoredList>, Vec<String>)> {
        if self.tune.is_empty() {
            return Ok(Default::default());
        }
        let (mut tunings, warnings) = self.read_to_tune(lists, heads, parts)?;
        if let Some((_, head)) = tunings.iter().zip(heads).find(|(tuning, _)| tuning.lists.is_empty()) {
            return Err(Error::Usage(format!(
                "the lists of --tune have no utterance of {} to tune the weights of {} on: add some, or leave the \
                 adapter out",
                head.title(),
                head.name
            )));
        }
        let lorb = lists.scores.unwrap_or_default().lorb;
        for (part, tuning) in parts.iter_mut().zip(&mut tunings) {
            part.tune(&tuning.lists, std::mem::take(&mut tuning.tuned_on), lorb);
        }
        Ok((tunings.swap_remove(0).lists, warnings))
    }

    /// The lists to tune each part on, and what to warn of.
    fn read_to_tune(
        &self,
        lists: &mut JudgedLists,
        heads: &[DomainHead],
        parts: &[Part],
    ) -> Result<(Vec<Tuning>, Vec<String>)> {
        let mut tunings: Vec<Tuning> = parts.iter().map(|_| Tuning::default()).collect();
        let mut warnings = Vec::new();
        let fields = all_fields(parts.iter().map(|part| part.rescoring.fields.clone()));
        let normaliser = lists.normaliser;
        for path in &self.tune {
            let before: Vec<usize> = tunings.iter().map(|tuning| tuning.lists.len()).collect();
            let mut trained_on = false;
            lists.read(path, &fields, |utterance, place, list| {
                if list.hypotheses.iter().any(|h| h.pruned) {
                    let hint = "tune on lists that were rescored without --prune, or give --model";
                    return Err(("hypotheses of it were pruned, and have no \"lorb\"".into(), hint));
                }
                // One is enough to know.
                trained_on = trained_on
                    || heads.get(place).is_some_and(|head| {
                        let said = normaliser.normalise(utterance.reference.as_deref().unwrap_or_default());
                        head.trained_on.has(&utterance.id, &said)
                    });
                tunings[place].lists.push(list);
                Ok(())
            })?;
            let list = path.display().to_string();
            if trained_on {
                warnings.push(format!(
                    "{list} has utterances that the adapter was trained on: on those its scores are better than on any \
                     others, and the weights trust them too much; tune on other lists"
                ));
            }
            for (tuning, before) in tunings.iter_mut().zip(before) {
                let utterances = (tuning.lists.len() - before) as u64;
                if utterances > 0 {
                    tuning.tuned_on.push(TunedOn { list: list.clone(), utterances });
                }
            }
        }
        Ok((tunings, warnings))
    }

    /// Counts the errors of the lists to evaluate, and writes their transcripts.
    fn count(
        &self,
        lists: &mut JudgedLists,
        parts: &mut [Part],
        pruning: Option<Pruning>,
    ) -> Result<Counted> {
        let fields = all_fields(parts.iter().map(Part::fields));
        let (mut files, mut all, mut all_costs) = (Vec::new(), Tally::default(), Costs::default());
        let mut of_parts = vec![Tally::default(); parts.len()];
        lists.comparison = pruning.map(|p| Comparison::new(p.margin));
        let mut transcripts = self.transcripts.as_deref().map(Transcripts::create).transpose()?;
        let (normaliser, unit, alignment) = (lists.normaliser, lists.unit, self.alignment);
        let by_domain = lists.routes.by_domain();
        for path in &self.files {
            let mut tally = Tally::default();
            lists.read(path, &fields, |utterance, place, list| {
                let part = &mut parts[place];
                if utterance.is_rescored() {
                    part.takes_own_totals();
                }
                let systems = part.systems(pruning.as_ref());
                let judge = Judge { normaliser, unit, alignment, systems };
                let mut one = Tally::default();
                let chosen = judge.add(utterance, &list, &mut one)?;
                tally.extend(&one);
                if by_domain {
                    of_parts[place].extend(&one);
                }
                let transcripts = transcripts.as_mut();
                transcripts.map_or(Ok(()), |files| files.add(utterance, &chosen, normaliser, unit))
            })?;
            let costs = lists.comparison.as_mut().map(Comparison::take);
            files.push(FileReport::new(path.display().to_string(), &tally, costs));
            all.extend(&tally);
            all_costs += costs.unwrap_or_default();
        }
        transcripts.map_or(Ok(()), Transcripts::finish)?;
        let all = (files.len() > 1).then(|| {
            let costs = pruning.map(|_| all_costs);
            FileReport::new(format!("all {} files", files.len()), &all, costs)
        });
        Ok(Counted { files, all, of_parts })
    }
}

/// What the weights of a part are tuned on.
#[derive(Default)]
struct Tuning {
    lists: Vec<ScoredList>,
    tuned_on: Vec<TunedOn>,
}

/// The errors of the evaluated lists.
struct Counted {
    files: Vec<FileReport>,
    /// Where there are several files.
    all: Option<FileReport>,
    /// Of the utterances of each part, where they are by domain.
    of_parts: Vec<Tally>,
}

/// The fields that lists must have for all of some, which name the same.
fn all_fields(fields: impl Iterator<Item = Fields>) -> Fields {
    let both = |a: Fields, b: Fields| Fields { lm_required: a.lm_required || b.lm_required, ..a };
    fields.reduce(both).unwrap_or_default()
}
