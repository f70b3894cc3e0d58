//! What the cache knows of the files of a commit, whichever program filled it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Which files a commit has. Both places are those of Python's client.
pub struct Listing {
    /// Names of empty files there are those of files that the commit lacks.
    no_exist: PathBuf,
    /// All that the commit has, where that was asked.
    tree: Option<Map<String, Value>>,
}

impl Listing {
    /// `folder` is the repository's in the cache.
    pub fn of(folder: &Path, commit: &str) -> Listing {
        let tree = fs::read(folder.join("trees").join(format!("{commit}.json"))).ok();
        // What cannot be read is not known.
        let tree = tree.and_then(|json| serde_json::from_slice(&json).ok()).and_then(|mut tree: Value| {
            let is_known = tree["format_version"] == 1;
            tree["files"].as_object_mut().filter(|_| is_known).map(std::mem::take)
        });
        Listing { no_exist: folder.join(".no_exist").join(commit), tree }
    }

    /// Whether the commit has `file`; `None` where that is not known.
    pub fn has(&self, file: &str) -> Option<bool> {
        match &self.tree {
            Some(tree) => Some(tree.contains_key(file)),
            None => self.no_exist.join(file).exists().then_some(false),
        }
    }

    /// Remembers that the commit lacks `file`. Where that cannot be written it is not known later: no reason to fail.
    pub fn lacks(&self, file: &str) {
        if self.has(file).is_none() {
            let _ = fs::create_dir_all(&self.no_exist).and_then(|()| fs::write(self.no_exist.join(file), ""));
        }
    }
}
