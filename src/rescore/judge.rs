//! How good choices from lists are: word errors of the first pass, of weights, and of the best one could do.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::domains::Routes;
use super::prune::{Comparison, Margin};
use super::read_ahead::ReadAhead;
use super::rescorer::Rescorer;
use super::tune::ScoredList;
use super::weights::{Weights, order};
use crate::nbest::normalise::{Normaliser, Unit, units};
use crate::nbest::wer::{BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED, Change, Pair, Wer, bootstrap_change};
use crate::nbest::word_errors::{Alignment, Reference};
use crate::nbest::{Fields, Reading, Utterance};
use crate::{Error, Result};

/// What errors are counted for, in the order of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// The highest first-pass score.
    FirstPass,
    /// The best that weights do without this engine's score.
    TunedWithoutLorb,
    /// What this engine chooses.
    Rescored,
    /// What it chooses where it scores only what is near enough to the best of the first pass.
    Pruned,
    /// The fewest errors in each list.
    Oracle,
}

impl System {
    /// As JSON and the names of files have it.
    pub fn name(self) -> &'static str {
        match self {
            System::FirstPass => "first_pass",
            System::TunedWithoutLorb => "tuned_without_lorb",
            System::Rescored => "rescored",
            System::Pruned => "pruned",
            System::Oracle => "oracle",
        }
    }
}

impl Serialize for System {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How one hypothesis is chosen from a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// From the whole list.
    Combined(Weights),
    /// From those that this engine scored, within a margin.
    Scored(Weights, Margin),
    /// By the "total" that rescoring wrote into the list, "score" in formats other than JSON lines.
    OwnTotals,
    FewestErrors,
}

/// Lists with references that belong to one evaluation: all have the same scores.
pub struct JudgedLists<'a> {
    /// Scores the lists; without it their own scores count.
    pub rescorer: Option<&'a Rescorer>,
    /// Which of its adapters scores an utterance.
    pub routes: &'a Routes,
    /// How the files are read.
    pub reading: &'a Reading,
    pub normaliser: &'a Normaliser,
    pub unit: Unit,
    /// What the first utterance has.
    pub scores: Option<Scores>,
    /// Scores with and without pruning, to compare what they cost, where that is asked.
    pub comparison: Option<Comparison>,
}

/// Which scores lists have besides that of the first pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scores {
    pub lm: bool,
    pub lorb: bool,
}

impl JudgedLists<'_> {
    /// Goes through `path` in its order, in constant memory.
    ///
    /// # Errors
    /// Where a line is not what it should be, has no reference, no adapter or not the scores of the lines before it,
    /// and whatever `each` refuses, as a problem and a hint; it is told the number of the utterance's adapter.
    pub fn read(
        &mut self,
        path: &Path,
        fields: &Fields,
        mut each: impl FnMut(&Utterance, usize, ScoredList) -> Result<(), Refusal>,
    ) -> Result<()> {
        let mut reader = ReadAhead::start(Some(path), fields, self.reading);
        while let Some(batch) = reader.next_batch() {
            let routes: Vec<_> = batch.utterances.iter().map(|u| self.routes.of(u)).collect();
            let score = |rescorer: &Rescorer| match &mut self.comparison {
                Some(comparison) => comparison.score(rescorer, &batch.utterances),
                None => {
                    // An utterance without one is refused below, after what is wrong with those before it.
                    let adapters: Vec<usize> = routes.iter().map(|r| *r.as_ref().unwrap_or(&0)).collect();
                    rescorer.score_by(&batch.utterances, &adapters)
                }
            };
            let scored = self.rescorer.map(score).transpose()?;
            for (i, (utterance, route)) in batch.utterances.iter().zip(routes).enumerate() {
                let of_line = |(problem, hint): Refusal| Error::List {
                    path: path.into(),
                    line: batch.lines[i],
                    problem: format!("utterance {}: {problem}", utterance.id),
                    hint: hint.into(),
                };
                let scores = scored.as_ref().map(|s| &s.features[i][..]);
                let route = route.map_err(of_line)?;
                self.check_scores(utterance).map_err(of_line)?;
                let list = ScoredList::new(utterance, scores, self.normaliser, self.unit);
                let list = list.ok_or(("there is no \"ref\"".into(), "write what was said in \"ref\""));
                list.and_then(|list| each(utterance, route, list)).map_err(of_line)?;
            }
            if let Some(failure) = batch.failure {
                return Err(failure.error);
            }
        }
        Ok(())
    }

    fn check_scores(&mut self, utterance: &Utterance) -> Result<(), Refusal> {
        let first = &utterance.hypotheses[0];
        let lorb = self.rescorer.is_some() || utterance.is_rescored();
        let found = Scores { lm: first.lm.is_some(), lorb };
        let expected = *self.scores.get_or_insert(found);
        let name = match found {
            _ if found == expected => return Ok(()),
            Scores { lorb, .. } if lorb != expected.lorb => "\"lorb\"",
            _ => "language-model score",
        };
        let (before, here) = if expected.lm && !found.lm || expected.lorb && !found.lorb {
            ("have", "has none")
        } else {
            ("lack", "has one")
        };
        let problem = format!("the utterances before {before} a {name}, this one {here}");
        Err((problem, "evaluate together only lists with the same scores"))
    }
}

/// What is wrong with an utterance, and what to do about it.
pub type Refusal = (String, &'static str);

/// Counts the errors of systems.
pub struct Judge<'a> {
    pub normaliser: &'a Normaliser,
    pub unit: Unit,
    pub alignment: Alignment,
    pub systems: Vec<(System, Choice)>,
}

impl Judge<'_> {
    /// Adds an utterance to `tally`; `list` is what [`ScoredList::new`] made of it. Gives the index of the
    /// hypothesis that each system chose.
    ///
    /// # Errors
    /// Where the choice needs what the utterance lacks.
    pub fn add(
        &self,
        utterance: &Utterance,
        list: &ScoredList,
        tally: &mut Tally,
    ) -> Result<Vec<(System, usize)>, Refusal> {
        let reference = self.normaliser.normalise(utterance.reference.as_deref().unwrap_or_default());
        let reference = Reference::new(&units(&reference, self.unit));
        tally.hypotheses += utterance.hypotheses.len() as u64;
        let mut all_chosen = Vec::with_capacity(self.systems.len());
        for (system, choice) in &self.systems {
            let chosen = match choice {
                Choice::Combined(weights) => list.chosen(weights),
                Choice::Scored(weights, margin) => list.chosen_within(weights, *margin),
                Choice::OwnTotals => best_of_totals(utterance)?,
                Choice::FewestErrors => list.oracle(),
            };
            let text = self.normaliser.normalise(&utterance.hypotheses[chosen].text);
            let errors = reference.errors_on(self.alignment, &units(&text, self.unit));
            let wer = Wer { errors, reference_units: list.reference_units };
            tally.systems.entry(*system).or_default().push(wer);
            all_chosen.push((*system, chosen));
        }
        Ok(all_chosen)
    }
}

fn best_of_totals(utterance: &Utterance) -> Result<usize, Refusal> {
    let scored = utterance.hypotheses.iter().enumerate().filter(|(_, h)| h.lorb.is_some());
    let totals = scored.map(|(i, h)| Some((i, h.total()?)));
    let (indices, totals): (Vec<usize>, Vec<f64>) = totals.collect::<Option<_>>().unwrap_or_default();
    order(&totals).first().map(|&best| indices[best]).ok_or((
        "\"lorb\" is there, but not \"total\"".into(),
        "rescore the list, or give weights with --tune",
    ))
}

/// The errors of some systems, utterance by utterance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub hypotheses: u64,
    systems: BTreeMap<System, Vec<Wer>>,
}

impl Tally {
    /// The same systems on more utterances.
    pub fn extend(&mut self, other: &Tally) {
        self.hypotheses += other.hypotheses;
        for (system, wers) in &other.systems {
            self.systems.entry(*system).or_default().extend(wers);
        }
    }

    /// How many utterances there are.
    pub fn utterances(&self) -> usize {
        self.systems.values().next().map_or(0, Vec::len)
    }

    /// The errors of each system.
    pub fn totals(&self) -> BTreeMap<System, Wer> {
        self.systems.iter().map(|(&system, wers)| (system, wers.iter().copied().sum())).collect()
    }

    /// How the WER changes from one system to another, over 10,000 resamples of the utterances. `None` where
    /// one of them was not counted, or nothing was said.
    pub fn change(&self, from: System, to: System) -> Option<Change> {
        let pair = |(before, after): (&Wer, &Wer)| Pair {
            reference_units: before.reference_units,
            errors_before: before.errors.total(),
            errors_after: after.errors.total(),
        };
        let pairs: Vec<Pair> =
            self.systems.get(&from)?.iter().zip(self.systems.get(&to)?).map(pair).collect();
        bootstrap_change(&pairs, BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbest::normalise::NormaliseOptions;

    fn write(lines: &[&str]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        file
    }

    fn tally(lines: &[&str], systems: &[(System, Choice)]) -> Result<Tally> {
        let normaliser = Normaliser::new(&NormaliseOptions::default())?;
        let alignment = Alignment::default();
        let systems = systems.to_vec();
        let judge = Judge { normaliser: &normaliser, unit: Unit::Word, alignment, systems };
        let mut lists = JudgedLists {
            rescorer: None,
            routes: &Routes::single(),
            reading: &Reading::default(),
            normaliser: &normaliser,
            unit: Unit::Word,
            scores: None,
            comparison: None,
        };
        let mut tally = Tally::default();
        lists.read(write(lines).path(), &Fields::default(), |utterance, _, list| {
            judge.add(utterance, &list, &mut tally).map(|_| ())
        })?;
        Ok(tally)
    }

    const PLAIN: &str = r#"{"id":"u","ref":"a b","hyps":[{"text":"a c","am":2},{"text":"a b","am":1}]}"#;
    const RESCORED: &str = r#"{"id":"v","ref":"a b","hyps":[{"text":"a c","am":2,"lorb":0,"total":1},{"text":"a b d","am":1,"lorb":5,"total":3}]}"#;

    #[test]
    fn every_system_is_counted() {
        let systems = [
            (System::FirstPass, Choice::Combined(Weights::default())),
            (System::Rescored, Choice::OwnTotals),
            (System::Oracle, Choice::FewestErrors),
        ];
        let tally = tally(&[RESCORED], &systems).unwrap();
        let totals = tally.totals();
        let kinds = |s| {
            let e = totals[&s].errors;
            (e.substitutions, e.deletions, e.insertions)
        };
        assert_eq!(kinds(System::FirstPass), (1, 0, 0));
        assert_eq!(kinds(System::Rescored), (0, 0, 1));
        assert_eq!(kinds(System::Oracle), (1, 0, 0));
        assert_eq!((tally.utterances(), tally.hypotheses), (1, 2));
        assert_eq!(tally.change(System::FirstPass, System::Rescored).unwrap().absolute.point, 0.0);
        assert_eq!(tally.change(System::FirstPass, System::TunedWithoutLorb), None);
        let mut twice = tally.clone();
        twice.extend(&tally);
        assert_eq!(twice.totals()[&System::Oracle], totals[&System::Oracle] + totals[&System::Oracle]);
    }

    #[test]
    fn what_cannot_be_compared_is_named_with_its_line() {
        let refusal =
            |lines: &[&str], choice| tally(lines, &[(System::Rescored, choice)]).unwrap_err().to_string();
        let mixed = refusal(&[PLAIN, RESCORED], Choice::FewestErrors);
        assert!(
            mixed.contains(":2: utterance v: the utterances before lack a \"lorb\", this one has one"),
            "{mixed}"
        );
        let unsaid = refusal(&[&PLAIN.replace("ref", "said")], Choice::FewestErrors);
        assert!(unsaid.contains(":1: utterance u: there is no \"ref\""), "{unsaid}");
        let untotalled = refusal(&[&RESCORED.replace("total", "sum")], Choice::OwnTotals);
        assert!(untotalled.contains("not \"total\""), "{untotalled}");
    }
}
