//! A file of lists: one that appears whole, compressed by its name, or a stream that someone reads as it comes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;

use crate::atomic::{AtomicFile, is_special};
use crate::{Error, Result};

/// A file's name without the ending of its compression.
pub(super) fn uncompressed(name: &str) -> &str {
    name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(name)
}

/// Where lists are written.
pub(super) struct ListFile {
    path: PathBuf,
    encoding: Encoding,
}

/// How it is encoded on the way.
enum Encoding {
    Plain(AtomicFile),
    Gzip(GzEncoder<AtomicFile>),
    Zstd(zstd::stream::write::Encoder<'static, AtomicFile>),
    /// The standard output or a pipe: someone may read each line as it comes.
    Stream(Box<dyn Write + Send>),
}

impl ListFile {
    /// Opens `path`, compressed if its name ends in `.gz` or `.zst`; the file takes its name only on
    /// [`finish`](Self::finish). `None` and `-` are the standard output; there, and in a device or a named
    /// pipe, what is written is flushed at once.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return Ok(ListFile::stream("<stdout>".into(), Box::new(io::stdout())));
        };
        if is_special(path) {
            let stream = File::options().write(true).open(path);
            let stream = stream.map_err(|e| Error::io(path, "open it", e))?;
            return Ok(ListFile::stream(path.into(), Box::new(stream)));
        }
        let file = AtomicFile::create(path)?;
        let encoding = match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => Encoding::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Some("zst") => {
                let encoder = zstd::stream::write::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL);
                Encoding::Zstd(encoder.map_err(|e| Error::io(path, "compress it", e))?)
            }
            _ => Encoding::Plain(file),
        };
        Ok(ListFile { path: path.into(), encoding })
    }

    pub fn stream(path: PathBuf, stream: Box<dyn Write + Send>) -> Self {
        ListFile { path, encoding: Encoding::Stream(stream) }
    }

    /// Writes `bytes`, the whole of an utterance.
    ///
    /// # Errors
    /// [`Error::Io`]; of kind [`io::ErrorKind::BrokenPipe`] if whoever read the output has gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match &mut self.encoding {
            Encoding::Plain(file) => file.write_all(bytes),
            Encoding::Gzip(file) => file.write_all(bytes),
            Encoding::Zstd(file) => file.write_all(bytes),
            Encoding::Stream(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        written.map_err(|e| self.error(e))
    }

    /// That it could not be written.
    pub fn error(&self, error: io::Error) -> Error {
        Error::io(&self.path, "write it", error)
    }

    /// Ends the compression and gives the file its name; without this there is no file.
    pub fn finish(self) -> Result<()> {
        let file = match self.encoding {
            Encoding::Plain(file) => Ok(file),
            Encoding::Gzip(file) => file.finish(),
            Encoding::Zstd(file) => file.finish(),
            Encoding::Stream(_) => return Ok(()),
        };
        file.map_err(|e| Error::io(&self.path, "write it", e))?.commit()
    }
}
