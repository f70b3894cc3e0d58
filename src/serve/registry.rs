//! The adapters of a service: folders of one directory, loaded when first asked for, the least recently used out.
//!
//! Their memory counts for as long as anybody scores with them, so that only those make room with which nobody does.
//! Nobody waits for room: whoever finds none lets go of the adapters that it has, and is told to come again.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use axum::http::StatusCode;
use lru::LruCache;
use sha2::{Digest, Sha256};

use super::cache::Identity;
use super::metrics;
use super::problem::Problem;
use crate::card::{no_head, open_adapter, own_head};
use crate::lora::Adapter;
use crate::lora::name::{self, is_name};
use crate::model::BaseModel;
use crate::nbest::normalise::Normaliser;
use crate::rescore::ngram::DomainModel;
use crate::rescore::scorer::{Bank, Seat};
use crate::rescore::settings::Settings;
use crate::rescore::weights::RescoringFile;
use crate::{Error, Result};

/// An adapter that is ready to score, with what its folder says about text and weights.
pub(super) struct Loaded {
    /// `None` for the model's own head.
    pub name: Option<String>,
    pub seat: Arc<Seat>,
    pub settings: RescoringFile,
    pub ngram: Option<Arc<DomainModel>>,
    pub normaliser: Normaliser,
    pub identity: Identity,
    /// Hypotheses that were asked for.
    pub hypotheses: AtomicU64,
    /// `None` for the model's own head, which is always there.
    taken: Option<Taken>,
}

/// Memory of the adapters that counts until this is dropped.
struct Taken {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

pub(super) struct Registry {
    model: Arc<BaseModel>,
    bank: Arc<Bank>,
    /// As the operating system knows it, without links.
    directory: Option<PathBuf>,
    budget: usize,
    /// Of all adapters that somebody has: the residents, and those that were replaced or forgotten since.
    in_use: Arc<AtomicUsize>,
    residents: Mutex<Residents>,
    /// An adapter is loaded once, however many ask for it: by a hash of its name.
    loading: [tokio::sync::Mutex<()>; 64],
    hasher: RandomState,
    own: Option<Arc<Loaded>>,
}

/// By name, the least recently used last.
type Residents = LruCache<String, Arc<Loaded>>;

/// An adapter as the list of them tells it.
pub(super) struct Listed {
    pub name: String,
    /// Its memory and the hypotheses that it was asked for, where it is loaded.
    pub loaded: Option<(usize, u64)>,
}

impl Registry {
    /// # Errors
    /// Where the directory cannot be read, the model has a head of its own that cannot be read, or neither is there.
    pub fn new(
        model: Arc<BaseModel>,
        bank: Arc<Bank>,
        directory: Option<&Path>,
        budget: usize,
    ) -> Result<Registry> {
        let open = |path: &Path| {
            fs::read_dir(path)
                .and_then(|_| fs::canonicalize(path))
                .map_err(|e| Error::io(path, "open the adapters' folder", e))
        };
        let directory = directory.map(open).transpose()?;
        let own = match own_head(&model)? {
            Some(head) => {
                let settings = Settings::of(model.dir.as_deref())?;
                Some(Arc::new(Loaded::new(None, &bank, head, settings)?))
            }
            None if directory.is_some() => None,
            None => return Err(no_head(&model, "--adapters DIR")),
        };
        let (in_use, residents) = (Arc::default(), Mutex::new(LruCache::unbounded()));
        let loading = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
        let hasher = RandomState::new();
        Ok(Registry { model, bank, directory, budget, in_use, residents, loading, hasher, own })
    }

    /// The adapter of that name, loaded if need be; the model's own head for `None`. The same request holds adapters of
    /// `held` bytes already.
    ///
    /// # Errors
    /// Where its files are no good, where it never fits beside those that the request holds, and where it does not fit
    /// now.
    pub async fn get(self: &Arc<Self>, name: Option<&str>, held: usize) -> Result<Arc<Loaded>, Problem> {
        let Some(name) = name else {
            let missing = || Problem::field("adapter", "name one: the model has no head of its own");
            return self.own.clone().ok_or_else(missing);
        };
        if let Some(loaded) = self.resident(name) {
            return Ok(loaded);
        }
        let _one = self.one_at_a_time(name).await;
        match self.resident(name) {
            Some(loaded) => Ok(loaded),
            None => self.read(name, held).await,
        }
    }

    /// Reads an adapter again, whether it is loaded or not. Where its files are no good, the one that is loaded
    /// stays; batches that have begun go on with what they began with.
    pub async fn load(self: &Arc<Self>, name: &str) -> Result<Arc<Loaded>, Problem> {
        let _one = self.one_at_a_time(name).await;
        self.read(name, 0).await
    }

    /// Forgets an adapter until it is asked for again. Whether it was there.
    pub fn unload(&self, name: &str) -> bool {
        self.lock().pop(name).is_some()
    }

    /// Every folder that may be an adapter, and what is loaded, by name.
    pub fn list(&self) -> Result<Vec<Listed>, Problem> {
        let mut names = match &self.directory {
            Some(directory) => names(directory).map_err(|e| unreadable(directory, &e))?,
            None => Vec::new(),
        };
        // Links may lead where nothing is read from.
        names.retain(|name| self.folder(name).is_ok());
        let residents = self.lock();
        names.extend(residents.iter().map(|(name, _)| name.clone()));
        names.sort();
        names.dedup();
        let listed = |name: String| {
            let loaded = residents.peek(&name);
            let loaded = loaded.map(|l| (l.bytes(), l.hypotheses.load(Ordering::Relaxed)));
            Listed { name, loaded }
        };
        Ok(names.into_iter().map(listed).collect())
    }

    /// Bytes in use and the most that may be.
    pub fn memory(&self) -> (usize, usize) {
        (self.in_use.load(Ordering::Relaxed), self.budget)
    }

    /// How many are loaded.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether requests may leave the adapter out.
    pub fn has_own_head(&self) -> bool {
        self.own.is_some()
    }

    fn resident(&self, name: &str) -> Option<Arc<Loaded>> {
        self.lock().get(name).cloned()
    }

    async fn one_at_a_time(&self, name: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(name) as usize % self.loading.len();
        self.loading[at].lock().await
    }

    async fn read(self: &Arc<Self>, name: &str, held: usize) -> Result<Arc<Loaded>, Problem> {
        let (registry, name) = (self.clone(), name.to_string());
        let read = move || {
            let folder = registry.folder(&name)?;
            let loaded = registry.open(&folder, &name).map_err(|e| {
                let hidden = folder.display().to_string();
                let reason = e.to_string().replace(&hidden, &name);
                tracing::warn!(adapter = name, error = %e, "an adapter was refused");
                metrics::refused_adapter();
                Problem { code: "bad_adapter", ..Problem::field("adapter", reason) }
            })?;
            registry.keep(loaded, held)
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| Err(Problem::field("adapter", "it could not be read")))
    }

    /// Where an adapter is; nowhere outside the directory, also by a link.
    fn folder(&self, name: &str) -> Result<PathBuf, Problem> {
        let missing = || {
            let problem = Problem::field("adapter", format!("there is no adapter {name:?}"));
            Problem { status: StatusCode::NOT_FOUND, code: "no_adapter", ..problem }
        };
        if !is_name(name) {
            return Err(Problem::field("adapter", name::RULE));
        }
        let directory = self.directory.as_ref().ok_or_else(missing)?;
        let folder = fs::canonicalize(directory.join(name)).map_err(|_| missing())?;
        if !folder.starts_with(directory) || !folder.is_dir() {
            return Err(missing());
        }
        Ok(folder)
    }

    fn open(&self, folder: &Path, name: &str) -> Result<Loaded> {
        let (adapter, _) = open_adapter(folder, &self.model)?;
        let settings = Settings::of(Some(folder))?;
        Loaded::new(Some(name.into()), &self.bank, adapter, settings)
    }

    /// Keeps it in place of another of its name, beside those of `held` bytes that its request holds.
    fn keep(&self, mut loaded: Loaded, held: usize) -> Result<Arc<Loaded>, Problem> {
        let (bytes, budget) = (loaded.bytes(), self.budget);
        if bytes > budget {
            let problem = format!("it takes {bytes} bytes, and all adapters may take {budget}");
            return Err(Problem { code: "bad_adapter", ..Problem::field("adapter", problem) });
        }
        if held + bytes > budget {
            let together = held + bytes;
            let problem =
                format!("those of the request up to it take {together} bytes, and {budget} are the most");
            return Err(Problem::too_large(Some("adapter".into()), problem));
        }
        let name = loaded.name.clone().expect("only the own head has none");
        let mut residents = self.lock();
        self.make_room(&mut residents, &name, bytes)?;
        loaded.taken = Some(Taken::new(bytes, &self.in_use));
        let loaded = Arc::new(loaded);
        residents.put(name, loaded.clone());
        Ok(loaded)
    }

    /// Lets go of the adapter of that name, and of others with which nobody scores, until `bytes` more are within the
    /// budget; of none where that is not enough.
    fn make_room(&self, residents: &mut Residents, name: &str, bytes: usize) -> Result<(), Problem> {
        // While the residents are locked nobody takes one of them, or more memory.
        let is_idle = |(_, loaded): &(&String, &Arc<Loaded>)| Arc::strong_count(loaded) == 1;
        let idle: usize = residents.iter().filter(is_idle).map(|(_, loaded)| loaded.bytes()).sum();
        let in_use = || self.in_use.load(Ordering::Relaxed);
        if in_use() - idle + bytes > self.budget {
            return Err(Problem::busy("adapters that are in use leave no room for another", 1));
        }
        residents.pop(name);
        while in_use() + bytes > self.budget {
            let oldest = residents.iter().rev().find(is_idle).map(|(name, _)| name.clone());
            residents.pop(&oldest.expect("without the idle ones there is room"));
            metrics::evicted();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Residents> {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn new(bytes: usize, of: &Arc<AtomicUsize>) -> Taken {
        of.fetch_add(bytes, Ordering::Relaxed);
        Taken { bytes, of: of.clone() }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Loaded {
    fn new(name: Option<String>, bank: &Bank, adapter: Adapter, settings: Settings) -> Result<Loaded> {
        let Settings { rescoring: settings, ngram, .. } = settings;
        let normaliser = Normaliser::new(&settings.normalise)?;
        let identity = identity(&adapter);
        let seat = Arc::new(bank.seat(adapter)?);
        let hypotheses = AtomicU64::new(0);
        Ok(Loaded { name, seat, settings, ngram, normaliser, identity, hypotheses, taken: None })
    }

    /// Memory of the device and of the n-gram model.
    pub fn bytes(&self) -> usize {
        self.seat.bytes() + self.ngram.as_ref().map_or(0, |domain| domain.ngram.bytes())
    }

    /// Of these, what counts as memory of adapters.
    pub fn taken(&self) -> usize {
        self.taken.as_ref().map_or(0, |taken| taken.bytes)
    }

    /// The name in figures.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("(own head)")
    }
}

/// What scores depend on, hashed.
fn identity(adapter: &Adapter) -> Identity {
    let mut hash = Sha256::new();
    hash.update(format!("{:?} {}", adapter.config, adapter.layout.pooler().is_some()));
    hash.update(adapter.classifier_bias.to_le_bytes());
    hash.update(bytemuck::cast_slice(&adapter.values));
    let hash: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|i| hash[i])
}

/// Of all folders with a PEFT configuration.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && is_name(&name)
            && entry.path().join("adapter_config.json").is_file()
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn unreadable(directory: &Path, error: &io::Error) -> Problem {
    tracing::error!(directory = %directory.display(), %error, "the adapters' folder cannot be read");
    Problem::unavailable("the adapters' folder cannot be read")
}
