//! Which head scores which utterance: by their domains.

use std::path::PathBuf;
use std::{fs, iter};

use serde_json::{Value, json};

use super::head::Head;
use super::judge::Refusal;
use super::settings::{ListOptions, Settings};
use super::weights::RescoringFile;
use crate::card::open_adapter;
use crate::hub::Found;
use crate::lora::Adapter;
use crate::model::BaseModel;
use crate::nbest::Utterance;
use crate::nbest::sample::Sample;
use crate::{Error, Result, builtin};

/// The field of an utterance that says what it is about. Formats that have fields of hypotheses alone have it there.
const DOMAIN: &str = "domain";

/// A base, and the heads that score the utterances of an evaluation. All read the lists in the same way.
pub struct Heads {
    pub model: BaseModel,
    /// Never empty.
    pub heads: Vec<DomainHead>,
}

/// A head, and the utterances that are its own.
pub struct DomainHead {
    /// `None` for those that no other head is for.
    pub domain: Option<String>,
    /// As it was named.
    pub name: String,
    pub adapter: Adapter,
    /// Where its settings are kept, and may be changed: not in the cache of the Hub.
    pub dir: Option<PathBuf>,
    pub settings: Settings,
    /// Empty where no card says it.
    pub trained_on: Sample,
}

/// The only head, for all utterances.
impl From<Head> for Heads {
    fn from(head: Head) -> Heads {
        let Head { model, adapter, dir, settings, trained_on } = head;
        let name = model.name.clone();
        Heads { model, heads: vec![DomainHead { domain: None, name, adapter, dir, settings, trained_on }] }
    }
}

impl Heads {
    /// Opens the base, or the embedded one, the adapter of each domain, and the one for all others, where there is
    /// one; `lists` come before what the files say.
    ///
    /// # Errors
    /// [`Error::Usage`] where a domain is there twice, or adapters differ in how lists are read; and whatever is
    /// wrong with a file.
    pub fn open(
        base: Option<&Found>,
        by_domain: Vec<(String, Found)>,
        others: Option<Found>,
        lists: &ListOptions,
    ) -> Result<Heads> {
        for (i, (domain, _)) in by_domain.iter().enumerate() {
            if by_domain[..i].iter().any(|(before, _)| before == domain) {
                return Err(Error::Usage(format!(
                    "--adapter-for {domain}: the domain has an adapter already"
                )));
            }
        }
        let model = base.map_or_else(builtin::model, Found::base)?;
        let by_domain = by_domain.into_iter().map(|(domain, found)| (Some(domain), found));
        let open = |(domain, found): (Option<String>, Found)| {
            let (adapter, card) = open_adapter(&found.dir, &model)?;
            let trained_on = card.map(|card| card.trained_on).unwrap_or_default();
            let mut settings = Settings::of(Some(&found.dir))?;
            lists.override_in(&mut settings.rescoring);
            let Found { dir, name, id } = found;
            Ok(DomainHead { domain, name, adapter, dir: id.is_none().then_some(dir), settings, trained_on })
        };
        let heads: Vec<DomainHead> =
            by_domain.chain(others.map(|found| (None, found))).map(open).collect::<Result<_>>()?;
        heads.iter().try_for_each(|head| agree(&heads[0], head))?;
        Ok(Heads { model, heads })
    }

    /// Refuses to save the weights of two domains in one folder.
    ///
    /// # Errors
    /// [`Error::Usage`] with both.
    pub fn check_folders(&self) -> Result<()> {
        let real = |head: &DomainHead| head.dir.as_ref().and_then(|dir| fs::canonicalize(dir).ok());
        for (i, head) in self.heads.iter().enumerate() {
            let same = |before: &&DomainHead| real(head).is_some() && real(before) == real(head);
            if let Some(before) = self.heads[..i].iter().find(same) {
                return Err(Error::Usage(format!(
                    "--tune saves the weights of a domain beside its adapter: give {} and {} adapters of their own, \
                     not both {}",
                    before.title(),
                    head.title(),
                    head.name
                )));
            }
        }
        Ok(())
    }
}

impl DomainHead {
    /// For people.
    pub fn title(&self) -> String {
        self.domain.as_ref().map_or("other domains".into(), |domain| format!("domain {domain}"))
    }
}

/// Refuses heads for which the same list would be read differently.
fn agree(a: &DomainHead, b: &DomainHead) -> Result<()> {
    let read = |head: &DomainHead| {
        let RescoringFile { fields, normalise, unit, .. } = &head.settings.rescoring;
        [
            ("first-pass", json!(fields.first_pass)),
            ("lm", json!(fields.lm)),
            ("case", json!(normalise.case)),
            ("noise", json!(normalise.noise)),
            ("fillers", json!(normalise.fillers)),
            ("unit", json!(unit)),
        ]
    };
    match iter::zip(read(a), read(b)).find(|(a, b)| a != b) {
        Some(((option, of_a), (_, of_b))) => Err(Error::Usage(format!(
            "the adapters {} and {} do not read lists in the same way: --{option} is {of_a} for the one, {of_b} for \
             the other; give --{option} for both, or evaluate them apart",
            a.name, b.name
        ))),
        None => Ok(()),
    }
}

/// Which head an utterance is for.
pub struct Routes(Vec<Option<String>>);

impl Routes {
    pub fn new(heads: &[DomainHead]) -> Routes {
        Routes(heads.iter().map(|head| head.domain.clone()).collect())
    }

    /// Where no domain counts.
    pub fn single() -> Routes {
        Routes(vec![None])
    }

    /// Whether some utterances are one head's and some another's.
    pub fn by_domain(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    /// The number of the head that is for `utterance`.
    ///
    /// # Errors
    /// Where there is none, or its domain is no name.
    pub fn of(&self, utterance: &Utterance) -> Result<usize, Refusal> {
        if !self.by_domain() {
            return Ok(0);
        }
        let domain = domain(utterance)?;
        let place = |of: Option<&str>| self.0.iter().position(|d| d.as_deref() == of);
        place(domain.as_deref()).or_else(|| place(None)).ok_or_else(|| {
            let found = match domain {
                Some(domain) => format!("its domain is {domain:?}"),
                None => format!("it has no {DOMAIN:?}"),
            };
            let given: Vec<String> = self.0.iter().flatten().map(|domain| format!("{domain:?}")).collect();
            let problem = format!("{found}, and adapters are given for {}", given.join(", "));
            (problem, "give it one with --adapter-for DOMAIN=DIR, or all others one with --adapter DIR")
        })
    }
}

/// What an utterance says that its domain is.
fn domain(utterance: &Utterance) -> Result<Option<String>, Refusal> {
    let hint = "write the domain of an utterance as one string in \"domain\"";
    let mut of_hypotheses = utterance.hypotheses.iter().map(|h| h.fields.get(DOMAIN));
    let found = match utterance.fields.get(DOMAIN) {
        Some(found) => Some(found),
        None => {
            let first = of_hypotheses.next().flatten();
            if of_hypotheses.any(|other| other != first) {
                return Err(("its hypotheses have different domains".into(), hint));
            }
            first
        }
    };
    match found {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(domain)) => Ok(Some(domain.clone())),
        // A table does not tell numbers from text.
        Some(Value::Number(domain)) => Ok(Some(domain.to_string())),
        Some(other) => Err((format!("domain: expected a string, found {other}"), hint)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::nbest::Fields;
    use crate::nbest::jsonl::utterance;

    fn routed(routes: &[Option<&str>], line: Value) -> Result<usize, String> {
        let routes = Routes(routes.iter().map(|domain| domain.map(String::from)).collect());
        let utterance = utterance(line, &Fields::default(), Path::new("list"), 1).unwrap();
        routes.of(&utterance).map_err(|(problem, _)| problem)
    }

    #[test]
    fn the_domain_says_which_head() {
        let two = &[Some("legal"), Some("7")][..];
        let three = &[Some("legal"), Some("7"), None][..];
        let hyps = json!([{"text": "a", "am": 0}, {"text": "b", "am": 0}]);
        let of = |domain: Value| json!({"id": "u", "domain": domain, "hyps": hyps});
        let none = json!({"id": "u", "hyps": hyps});
        assert_eq!(routed(two, of(json!("legal"))), Ok(0));
        assert_eq!(routed(two, of(json!(7))), Ok(1));
        assert_eq!(routed(three, of(json!("Legal"))), Ok(2));
        assert_eq!((routed(three, of(json!(null))), routed(three, none.clone())), (Ok(2), Ok(2)));
        assert_eq!(
            routed(two, of(json!("Legal"))).unwrap_err(),
            "its domain is \"Legal\", and adapters are given for \"legal\", \"7\""
        );
        assert!(routed(two, none.clone()).unwrap_err().starts_with("it has no \"domain\", and "));
        assert!(routed(three, of(json!(["legal"]))).unwrap_err().contains("expected a string"));
        assert_eq!(routed(&[None], of(json!(["legal"]))), Ok(0));
    }

    #[test]
    fn hypotheses_may_have_the_domain() {
        let line = |domains: [&str; 2]| {
            let hyps = domains.map(|domain| json!({"text": "a", "am": 0, "domain": domain}));
            json!({"id": "u", "hyps": hyps})
        };
        let routes = &[Some("legal"), Some("news")];
        assert_eq!(routed(routes, line(["news", "news"])), Ok(1));
        assert!(routed(routes, line(["news", "legal"])).unwrap_err().contains("different domains"));
    }
}
