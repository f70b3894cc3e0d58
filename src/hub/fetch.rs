//! A snapshot of a repository in the shared cache, with the files that are needed and no others.

use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::HumanBytes;
use sha2::{Digest, Sha256};

use super::files::INDEX;
use super::listing::Listing;
use super::{Id, Kind, Place, Problem};
use crate::bert::checkpoint::shard_files;
use crate::text::hex;
use crate::{Error, Result};

/// The folder of a snapshot of `id` that has the files of `kind`.
///
/// What the revision is at present is asked first, and what of that commit the cache has already is not fetched
/// again. Where the Hub cannot be reached, the commit that the revision was when it was last seen will do.
///
/// # Errors
/// [`Error::Hub`], and whatever the file system refuses.
pub fn fetch(id: &Id, kind: Kind, place: &Place, note: &dyn Fn(String)) -> Result<PathBuf> {
    let hub = Hub { id, kind, place, cache: Cache::new(place.cache.clone()) };
    if place.offline {
        return hub
            .cached(note)
            .map_err(|what| hub.error(Problem::NotInCache { what, cache: place.cache.clone() }));
    }
    match hub.fetch(note) {
        Err(Error::Hub { problem: Problem::Network { endpoint, reason }, name }) => match hub.cached(note) {
            Ok(dir) => {
                note(format!(
                    "{name}: cannot ask {endpoint} ({reason}): taken from the cache as it is there"
                ));
                Ok(dir)
            }
            Err(_) => Err(hub.error(Problem::Network { endpoint, reason })),
        },
        done => done,
    }
}

struct Hub<'a> {
    id: &'a Id,
    kind: Kind,
    place: &'a Place,
    cache: Cache,
}

impl Hub<'_> {
    fn error(&self, problem: Problem) -> Error {
        Error::Hub { name: self.id.to_string(), problem }
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.repository.clone(), RepoType::Model, revision.into())
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo(commit)).pointer_path(commit)
    }

    fn folder_name(&self) -> String {
        self.repo(&self.id.revision).folder_name()
    }

    fn folder(&self) -> PathBuf {
        self.place.cache.join(self.folder_name())
    }

    /// The commit that the revision was when it was last seen.
    fn last_seen(&self) -> Option<String> {
        let commit = fs::read_to_string(self.folder().join("refs").join(&self.id.revision)).ok()?;
        Some(commit.trim().to_string())
    }

    /// The snapshot that the cache has of the revision, or what it lacks. One that [`fetch`](Self::fetch) did not end lacks
    /// what is needed; of another program's it is told what may be missing, where that is not known.
    fn cached(&self, note: &dyn Fn(String)) -> Result<PathBuf, String> {
        let revision = &self.id.revision;
        let commit = self.last_seen().unwrap_or_else(|| revision.clone());
        let dir = self.snapshot(&commit);
        if !is_commit(&commit) || !dir.is_dir() {
            return Err(format!("revision {revision} of it"));
        }
        let missing = |what: String| format!("all of it ({what})");
        let files = self.kind.files(|file| dir.join(file).exists());
        let files = files.map_err(|problem| missing(problem.to_string()))?;
        if files.contains(&INDEX) {
            let shards = shard_files(&dir.join(INDEX)).map_err(|e| missing(e.to_string()))?;
            if let Some(shard) = shards.iter().find(|shard| !dir.join(shard).exists()) {
                return Err(missing(format!("it has no {shard}")));
            }
        }
        let listing = Listing::of(&self.folder(), &commit);
        let mut unknown = Vec::new();
        for file in self.kind.absent(|file| dir.join(file).exists()) {
            match listing.has(file) {
                Some(true) => return Err(missing(format!("it has no {file}"))),
                Some(false) => {}
                None => unknown.push(file),
            }
        }
        if !unknown.is_empty() {
            let (id, unknown) = (self.id, unknown.join(", "));
            note(format!(
                "{id}: the cache, as another program filled it, does not tell whether it has {unknown}: taken without; \
                 a run that reaches the Hub fetches what there is"
            ));
        }
        Ok(dir)
    }

    fn fetch(&self, note: &dyn Fn(String)) -> Result<PathBuf> {
        let api = self.api()?;
        let info = api.repo(self.repo(&self.id.revision)).info().map_err(|e| self.failed(e))?;
        let commit = info.sha;
        if !is_commit(&commit) {
            return Err(self.network(format!("its answer names the commit {commit:?}")));
        }
        let has = |file: &str| info.siblings.iter().any(|s| s.rfilename == file);
        let files = self.kind.files(has);
        let files = files.map_err(|problem| self.error(problem))?;
        // By the commit: a branch may move on between two files.
        let snapshot =
            Snapshot { hub: self, repo: api.repo(self.repo(&commit)), api, dir: self.snapshot(&commit) };
        for file in &files {
            snapshot.ensure(file, note)?;
        }
        if files.contains(&INDEX) {
            for shard in shard_files(&snapshot.dir.join(INDEX))? {
                snapshot.ensure(&shard, note)?;
            }
        }
        let listing = Listing::of(&self.folder(), &commit);
        self.kind.absent(has).for_each(|file| listing.lacks(file));
        if self.last_seen().as_ref() != Some(&commit) {
            let revision = self.cache.repo(self.repo(&self.id.revision));
            revision
                .create_ref(&commit)
                .map_err(|e| Error::io(self.cache.path(), "write a reference into it", e))?;
        }
        Ok(snapshot.dir)
    }

    fn api(&self) -> Result<Api> {
        let builder = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.place.endpoint.clone())
            .with_token(self.place.token.clone())
            .with_retries(2)
            .with_progress(io::stderr().is_terminal())
            .with_user_agent("lorb-engine", env!("CARGO_PKG_VERSION"));
        builder.build().map_err(|e| self.failed(e))
    }

    fn network(&self, reason: String) -> Error {
        self.error(Problem::Network { endpoint: self.place.endpoint.clone(), reason })
    }

    fn failed(&self, error: ApiError) -> Error {
        use io::ErrorKind::*;
        match error {
            ApiError::RequestError(e) => match *e {
                ureq::Error::StatusCode(404) => self.error(Problem::NotFound),
                ureq::Error::StatusCode(status @ (401 | 403)) => {
                    let hint = match self.place.token {
                        None => "set HF_TOKEN to a token that may read it",
                        Some(_) => "the token that is set may not read it",
                    };
                    self.error(Problem::NeedsToken { status, hint })
                }
                e => self.network(e.to_string()),
            },
            ApiError::TooManyRetries(e) => self.failed(*e),
            // One kind of error for both ends of a copy: what a disk can say is the disk's.
            ApiError::IoError(e) => match e.kind() {
                NotFound | PermissionDenied | ReadOnlyFilesystem | NotADirectory | StorageFull
                | QuotaExceeded | FileTooLarge => Error::io(self.cache.path(), "fetch into it", e),
                _ => self.network(e.to_string()),
            },
            e => self.network(e.to_string()),
        }
    }
}

/// A commit as files of it are fetched.
struct Snapshot<'a> {
    hub: &'a Hub<'a>,
    api: Api,
    repo: ApiRepo,
    dir: PathBuf,
}

impl Snapshot<'_> {
    /// Fetches `file` unless it is there.
    fn ensure(&self, file: &str, note: &dyn Fn(String)) -> Result<()> {
        let path = self.dir.join(file);
        if path.exists() {
            return Ok(());
        }
        let Hub { id, cache, .. } = self.hub;
        let metadata = self.api.metadata(&self.repo.url(file)).map_err(|e| self.hub.failed(e))?;
        let etag = metadata.etag();
        // It becomes the name of a file.
        if etag.is_empty() || !etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(self.hub.network(format!("its answer has the ETag {etag:?}")));
        }
        let blob = cache.repo(self.hub.repo(metadata.commit_hash())).blob_path(etag);
        let size = metadata.size() as u64;
        let waiting = || note(format!("waiting for another process, which fetches {id}: {file}"));
        // That of Python's client, held until the file is there: between a look and its own lock, hf-hub lets others in.
        let locks = cache.path().join(".locks").join(self.hub.folder_name());
        let _turn = lock(&locks.join(format!("{etag}.lock")), waiting)?;
        loop {
            // While another program of hf-hub fetches it this waits, and there is nothing left to do.
            let lock = lock(&blob.with_extension("lock"), waiting)?;
            if blob.exists() {
                return self.link(etag, &path);
            }
            discard_what_cannot_go_on(&blob.with_extension("part"), size)?;
            // The download takes the lock itself.
            drop(lock);
            note(format!("fetching {id}: {file}, {}", HumanBytes(size)));
            match self.repo.download(file) {
                Ok(_) => break,
                Err(ApiError::LockAcquisition(_)) => {}
                // Another process has linked it in the meantime.
                Err(ApiError::IoError(e)) if e.kind() == io::ErrorKind::AlreadyExists && path.exists() => {
                    break;
                }
                Err(e) => return Err(self.hub.failed(e)),
            }
        }
        if !is_whole(&path, size, etag)? {
            for path in [&path, &blob] {
                fs::remove_file(path).map_err(|e| Error::io(path, "remove it", e))?;
            }
            return Err(self.hub.network(format!("{file} arrived damaged")));
        }
        Ok(())
    }

    /// Makes `path` of content that the cache has.
    fn link(&self, etag: &str, path: &Path) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, "create it", e))?;
        match symlink(Path::new("../../blobs").join(etag), path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io(path, "link it", e)),
            _ => Ok(()),
        }
    }
}

/// The lock of a file of the cache, as soon as nobody has it; `waiting` is told where someone does.
fn lock(path: &Path, waiting: impl FnOnce()) -> Result<File> {
    let failed = |e| Error::io(path, "lock it", e);
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    let file = File::create(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            waiting();
            file.lock().map_err(failed)?;
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    Ok(file)
}

/// A download that was broken off goes on where it ended, but not where nothing is left to ask for.
fn discard_what_cannot_go_on(part: &Path, size: u64) -> Result<()> {
    match fs::metadata(part) {
        Ok(found) if found.len() >= size => {
            fs::remove_file(part).map_err(|e| Error::io(part, "remove it", e))
        }
        _ => Ok(()),
    }
}

/// Whether `path` has this size and, where the ETag is a SHA-256, this content.
fn is_whole(path: &Path, size: u64, etag: &str) -> Result<bool> {
    let failed = |e| Error::io(path, "read it", e);
    let mut file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() != size {
        return Ok(false);
    }
    if etag.len() != 64 {
        return Ok(true);
    }
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => break,
            read => hash.update(&chunk[..read]),
        }
    }
    Ok(hex(&hash.finalize()).eq_ignore_ascii_case(etag))
}

fn is_commit(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit())
}
