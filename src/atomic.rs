//! Files and directories that appear whole or not at all: written beside, synced, renamed; and files that may be there or
//! not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempDir};

use crate::{Error, Result};

/// How the names of files and directories begin that have not got their own yet.
pub const STAGING_PREFIX: &str = ".lorb-";

/// What has not got its name yet. Things are made and named while it is held, so that [`exit`] finds each of
/// them here or under its name, whole.
static STAGED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// An entry of [`STAGED`], while it lives.
struct Staged(PathBuf);

impl Staged {
    /// Makes something that has not got its name yet.
    fn new<T>(
        make: impl FnOnce() -> io::Result<T>,
        place: impl FnOnce(&T) -> &Path,
    ) -> io::Result<(T, Staged)> {
        let mut staged = staged();
        let made = make()?;
        let path = place(&made).to_path_buf();
        staged.insert(path.clone());
        Ok((made, Staged(path)))
    }

    /// Has `rename` give it its name.
    fn named<T>(self, rename: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _held = staged();
        rename()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        staged().remove(&self.0);
    }
}

fn staged() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // It is whole whatever panics.
    STAGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program, and leaves nothing of what has not got its name yet: for whoever is told to end at once.
pub fn exit(code: i32) -> ! {
    // Nothing is begun or named while it is held, and that is until the end.
    let staged = staged();
    for path in staged.iter() {
        // What fails has nobody to be told to.
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    std::process::exit(code)
}

/// A file that takes its name only on [`commit`](AtomicFile::commit); dropped before, it leaves nothing.
pub struct AtomicFile {
    /// As the user named it.
    path: PathBuf,
    /// Where that leads: a symbolic link stays one, and what it points to is replaced.
    target: PathBuf,
    file: BufWriter<NamedTempFile>,
    staged: Staged,
}

impl AtomicFile {
    /// Opens a temporary file in the directory of `path`, which must exist.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        if path.is_dir() {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(Error::io(path, "write a file", source));
        }
        if is_special(&path) {
            let hint = "give the path of a regular file";
            return Err(Error::file(path, "a device or a pipe cannot be replaced", hint));
        }
        let target = target_of(&path);
        let make = || {
            tempfile::Builder::new()
                .prefix(STAGING_PREFIX)
                .permissions(default_permissions())
                .tempfile_in(directory_of(&target))
        };
        let (file, staged) =
            Staged::new(make, |file| file.path()).map_err(|e| Error::io(&path, "create it", e))?;
        Ok(AtomicFile { path, target, file: BufWriter::with_capacity(1 << 16, file), staged })
    }

    /// Syncs the content to disk and renames it into place.
    pub fn commit(self) -> Result<()> {
        let AtomicFile { path, target, file, staged } = self;
        let file = file.into_inner().map_err(|e| Error::io(&path, "write it", e.into_error()))?;
        file.as_file().sync_all().map_err(|e| Error::io(&path, "sync it", e))?;
        let rename = || file.persist(&target).map_err(|e| e.error);
        staged.named(rename).map_err(|e| Error::io(&path, "rename it into place", e))?;
        sync_directory(directory_of(&target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Whether there is something at `path` that is neither a file nor a directory: a device, a pipe.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Whether both paths lead to the same place, whatever is there.
pub fn is_same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| -> io::Result<PathBuf> {
        let target = target_of(path);
        Ok(fs::canonicalize(directory_of(&target))?.join(target.file_name().unwrap_or_default()))
    };
    matches!([place(a), place(b)], [Ok(a), Ok(b)] if a == b)
}

/// Writes `bytes` to `path` so that a reader sees the old content or the new, never a part.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|e| Error::io(path, "write it", e))?;
    file.commit()
}

/// The content of a file, where there is one.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, "read it", e)),
    }
}

/// Removes a file, where there is one.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "remove it", e)),
        _ => Ok(()),
    }
}

/// A directory that takes its name only on [`commit`](AtomicDirectory::commit); dropped before, it leaves nothing.
pub struct AtomicDirectory {
    path: PathBuf,
    staging: TempDir,
    staged: Staged,
}

impl AtomicDirectory {
    /// Creates a temporary directory beside `path`, which must not exist yet.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let make = || {
            tempfile::Builder::new()
                .prefix(STAGING_PREFIX)
                .permissions(directory_permissions())
                .tempdir_in(directory_of(&path))
        };
        let (staging, staged) =
            Staged::new(make, |staging| staging.path()).map_err(|e| Error::io(&path, "create it", e))?;
        Ok(AtomicDirectory { path, staging, staged })
    }

    /// The same, with an error at once where there is something at `path`.
    pub fn create_new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match path.exists() {
            true => {
                Err(Error::file(path, "there is something of this name", "give a new name for the folder"))
            }
            false => AtomicDirectory::create(path),
        }
    }

    /// Where to put what it is to hold, synced.
    pub fn staging(&self) -> &Path {
        self.staging.path()
    }

    /// Syncs the directory and renames it into place.
    pub fn commit(self) -> Result<()> {
        let AtomicDirectory { path, staging, staged } = self;
        sync_directory(staging.path())?;
        let rename = || {
            fs::rename(staging.path(), &path)?;
            // The directory has its final name now: keep the guard from deleting the old one.
            let _ = staging.keep();
            Ok(())
        };
        staged.named(rename).map_err(|e| Error::io(&path, "rename it into place", e))?;
        sync_directory(directory_of(&path))
    }
}

/// Fills a new directory with `fill`, syncs it, and renames it to `path`, which must not exist yet.
pub fn create_directory(path: impl AsRef<Path>, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let directory = AtomicDirectory::create(path)?;
    fill(directory.staging())?;
    directory.commit()
}

/// Creates `path` and its parents where they are missing.
pub fn ensure_directory(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(|e| Error::io(path, "create the directory", e))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where a path leads: symbolic links are followed, even to where there is nothing yet.
fn target_of(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|e| match fs::read_link(path) {
        // Not those that lead round in a circle.
        Ok(link) if e.kind() == io::ErrorKind::NotFound => target_of(&directory_of(path).join(link)),
        _ => path.to_path_buf(),
    })
}

/// Makes the names in a directory last.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io(path, "sync the directory", e))
}

/// What `open(2)` gives a new file, before the umask; `tempfile` alone would make it private.
fn default_permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

fn directory_permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_only_on_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        assert!(!path.exists());
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        drop(AtomicFile::create(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed_and_a_device_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::remove_file(&file).unwrap();
        write(&link, b"there again").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"there again");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(write("/dev/null", b"x").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_failed_directory_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let failed = create_directory(dir.path().join("d"), |d| {
            write(d.join("f"), b"x")?;
            Err(Error::Usage("stop".into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        create_directory(dir.path().join("d"), |d| write(d.join("f"), b"x")).unwrap();
        assert_eq!(fs::read(dir.path().join("d/f")).unwrap(), b"x");
    }

    #[test]
    fn paths_are_the_same_whether_or_not_there_is_something() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("there"), b"").unwrap();
        std::os::unix::fs::symlink("d/../new", at("link")).unwrap();
        for (a, b, same) in [
            ("there", "d/../there", true),
            ("new", "./d/../new", true),
            ("new", "d/new", false),
            ("there", "new", false),
            ("nowhere/new", "nowhere/new", false),
            ("link", "new", true),
        ] {
            assert_eq!(is_same(&at(a), &at(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn a_missing_directory_is_the_users_mistake() {
        assert_eq!(write("/no/such/place/file", b"").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn what_appears_is_as_open_to_others_as_anything_else() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode();
        fs::write(at("file"), b"x").unwrap();
        write(at("atomic file"), b"x").unwrap();
        assert_eq!(mode("atomic file"), mode("file"));
        fs::create_dir(at("folder")).unwrap();
        create_directory(at("atomic folder"), |_| Ok(())).unwrap();
        assert_eq!(mode("atomic folder"), mode("folder"));
    }

    #[test]
    fn what_has_its_name_or_is_gone_is_not_staged() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || {
            let file = AtomicFile::create(dir.path().join("file")).unwrap();
            let place = file.file.get_ref().path().to_path_buf();
            assert!(staged().contains(&place));
            (file, place)
        };
        let (dropped, place) = begin();
        drop(dropped);
        assert!(!staged().contains(&place));
        let (committed, place) = begin();
        committed.commit().unwrap();
        assert!(!staged().contains(&place));
    }

    /// What `exit` removes is no more than what it sees, and nothing gets a name meanwhile.
    #[test]
    fn nothing_is_begun_or_named_while_the_program_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (begun, ended) =
            (AtomicFile::create(dir.path().join("f")), AtomicDirectory::create(dir.path().join("d")));
        let (begun, ended) = (begun.unwrap(), ended.unwrap());
        let there =
            || fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<BTreeSet<_>>();
        let before = there();
        let exiting = staged();
        std::thread::scope(|scope| {
            scope.spawn(|| begun.commit().unwrap());
            scope.spawn(|| ended.commit().unwrap());
            scope.spawn(|| AtomicFile::create(dir.path().join("new f")).unwrap().commit().unwrap());
            scope.spawn(|| create_directory(dir.path().join("new d"), |_| Ok(())).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(200));
            let meanwhile = there();
            drop(exiting);
            assert_eq!(meanwhile, before);
        });
        assert_eq!(there(), ["d", "f", "new d", "new f"].map(Into::into).into());
    }

    #[test]
    fn a_new_directory_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        fs::create_dir(&path).unwrap();
        assert_eq!(AtomicDirectory::create_new(&path).err().unwrap().exit_code(), 2);
    }
}
