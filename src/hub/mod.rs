//! Models and adapters by name: a folder, or a repository of the Hugging Face Hub, fetched into the cache that all
//! of its programs share. What computes knows folders alone.

mod fetch;
mod files;
mod listing;
mod place;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::model::BaseModel;
use crate::{Error, Result};

pub use files::Kind;
use place::Place;

/// What a name led to.
#[derive(Debug, Clone)]
pub struct Found {
    /// The folder with its files. Where `id` is given it lies in the cache: nothing may be written into it.
    pub dir: PathBuf,
    /// As it was named.
    pub name: String,
    /// Where it was found on the Hub.
    pub id: Option<Id>,
}

impl Found {
    /// Opens it as a base, under the name that it was given.
    ///
    /// # Errors
    /// As for [`BaseModel::open`].
    pub fn base(&self) -> Result<BaseModel> {
        Ok(BaseModel { name: self.name.clone(), ..BaseModel::open(&self.dir)? })
    }
}

/// `org/name`, or `org/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// `org/name`.
    pub repository: String,
    /// A branch, a tag or a commit; `main` unless it was given.
    pub revision: String,
}

/// Why a repository cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("there is no such repository, or not this revision of it")]
    NotFound,
    /// The Hub answers so too where it would not tell that there is nothing.
    #[error("refused with {status}: it does not exist, or it is private or gated; {hint}")]
    NeedsToken { status: u16, hint: &'static str },
    #[error("HF_HUB_OFFLINE is set, and {what} is not in the cache, {}", cache.display())]
    NotInCache { what: String, cache: PathBuf },
    #[error("{what}; {hint}")]
    Incomplete { what: String, hint: &'static str },
    #[error("cannot fetch it from {endpoint}: {reason}")]
    Network { endpoint: String, reason: String },
}

impl Problem {
    /// Whether the user can mend it.
    pub(crate) fn is_the_users(&self) -> bool {
        !matches!(self, Problem::Network { .. })
    }
}

/// The folder that `given` is, or else the repository of the Hub that it names; `note` takes lines about what is
/// fetched. HF_HUB_CACHE, HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HF_HUB_OFFLINE mean what they mean to
/// Hugging Face's own programs.
///
/// # Errors
/// [`Error::Usage`] where it can be neither, [`Error::Hub`] where the Hub or the cache does not have it.
pub fn locate(given: &Path, kind: Kind, note: &dyn Fn(String)) -> Result<Found> {
    let name = given.display().to_string();
    if given.exists() {
        return Ok(Found { dir: given.into(), name, id: None });
    }
    let Some(id) = given.to_str().and_then(Id::parse) else {
        return Err(Error::Usage(format!(
            "{name} is neither a folder that exists nor an id on the Hugging Face Hub, org/name or \
             org/name@revision"
        )));
    };
    let dir = fetch::fetch(&id, kind, &Place::from_environment()?, note)?;
    Ok(Found { dir, name, id: Some(id) })
}

impl Id {
    /// `None` where `text` is no id; a name without an organisation is more likely a folder that is not there.
    pub fn parse(text: &str) -> Option<Id> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (organisation, name) = repository.split_once('/')?;
        let part = |part: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let ends = |c| part.starts_with(c) || part.ends_with(c);
            (1..=96).contains(&part.len())
                && part.chars().all(good)
                && !ends('-')
                && !ends('.')
                && !part.contains("--")
                && !part.contains("..")
        };
        (part(organisation) && part(name) && is_revision(revision))
            .then(|| Id { repository: repository.into(), revision: revision.into() })
    }
}

/// As it was given: without "main".
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

/// It becomes part of paths and addresses: no more than branches, tags and commits need.
fn is_revision(text: &str) -> bool {
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
    };
    text.len() <= 200 && text.split('/').all(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_folders() {
        let id = |text| Id::parse(text).map(|id| (id.repository, id.revision));
        let of = |repository: &str, revision: &str| Some((repository.into(), revision.into()));
        assert_eq!(id("org/some-Model_1.5"), of("org/some-Model_1.5", "main"));
        assert_eq!(id("org/name@v1.0"), of("org/name", "v1.0"));
        assert_eq!(id("org/name@refs/pr/7"), of("org/name", "refs/pr/7"));
        for text in [
            "bert", "a/b/c", "/a/b", "../b", "./b", "a/", "a/b@", "a/b@../c", "a/b@/c", "a/b@c d", "a b/c",
            "a/b.", "a/-b", "a/b--c", "ä/b", "a/b@c@d", "a/b@.git",
        ] {
            assert_eq!(id(text), None, "{text}");
        }
    }
}
