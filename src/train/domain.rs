//! Domains that are trained one after the other from the same start, each to an adapter of its own.

use std::path::PathBuf;
use std::str::FromStr;

use super::ValidationLists;
use super::job::Job;
use crate::lora::name::{self, is_name};
use crate::{Error, Result, atomic};

/// A domain and its lists to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Also of the folder of its adapter.
    pub name: String,
    /// Never empty.
    pub files: Vec<PathBuf>,
}

impl Domain {
    /// # Errors
    /// A name that cannot be one of a folder, no file, or one without a name.
    pub fn new(name: &str, files: Vec<PathBuf>) -> Result<Domain, String> {
        if !is_name(name) {
            return Err(format!("found the name {name:?}: {}", name::RULE));
        }
        if files.is_empty() || files.iter().any(|file| file.as_os_str().is_empty()) {
            return Err(match files.is_empty() {
                true => format!("found no file for {name}"),
                false => "found a file without a name".into(),
            });
        }
        Ok(Domain { name: name.into(), files })
    }
}

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Domain, String> {
        let expected = "expected NAME=FILE[,FILE...]";
        let (name, files) = text.split_once('=').ok_or_else(|| format!("{expected}, found no \"=\""))?;
        let files = files.split(',').map(PathBuf::from).collect();
        Domain::new(name, files).map_err(|problem| format!("{expected}, {problem}"))
    }
}

impl Job {
    /// A job for each domain, in order: what this one says, on the domain's lists, into the folder of its name in
    /// `out`.
    ///
    /// # Errors
    /// [`Error::Usage`] beside lists of this one, where two domains have the same name but for its case, which some file systems do not see;
    /// where `valid` is no fraction, since lists to choose on are the domain's own; and where an adapter would be
    /// written over the one that all start from.
    pub fn of_domains(&self, domains: &[Domain]) -> Result<Vec<Job>> {
        if !self.train.is_empty() {
            return Err(Error::Usage(
                "--domain and --train are two ways to name the lists: leave one out".into(),
            ));
        }
        let names = domains.iter().map(|domain| &domain.name).enumerate();
        if let Some((_, name)) =
            names.clone().find(|(i, name)| names.clone().take(*i).any(|(_, n)| n.eq_ignore_ascii_case(name)))
        {
            return Err(Error::Usage(format!(
                "--domain {name}: another domain has this name, and their folders would be one"
            )));
        }
        if let ValidationLists::File(file) = &self.valid {
            let file = file.display();
            return Err(Error::Usage(format!(
                "--valid {file}: with --domain, expected the fraction of each domain's lists to choose on, not a file"
            )));
        }
        let job = |Domain { name, files }: &Domain| {
            let out = self.out.join(name);
            match &self.init_adapter {
                Some(start) if atomic::is_same(&start.dir, &out) => Err(Error::Usage(format!(
                    "--domain {name}: {} is the adapter that all domains start from: give another --out",
                    out.display()
                ))),
                _ => Ok(Job { train: files.clone(), out, ..self.clone() }),
            }
        };
        domains.iter().map(job).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_name_and_its_files() {
        let domain: Domain = "en-US_v2=a.jsonl,dir/b=c.jsonl.gz".parse().unwrap();
        assert_eq!(domain.name, "en-US_v2");
        assert_eq!(domain.files, [PathBuf::from("a.jsonl"), PathBuf::from("dir/b=c.jsonl.gz")]);
        for (text, words) in [
            ("a.jsonl", "found no \"=\""),
            ("=a.jsonl", "found the name \"\""),
            ("../a=b", "found the name \"../a\""),
            (".a=b", "does not begin with '.'"),
            ("a=", "a file without a name"),
            ("a=b,,c", "a file without a name"),
            ("a=b,", "a file without a name"),
        ] {
            let refusal = text.parse::<Domain>().unwrap_err();
            assert!(
                refusal.starts_with("expected NAME=FILE[,FILE...], ") && refusal.contains(words),
                "{refusal}"
            );
        }
    }
}
