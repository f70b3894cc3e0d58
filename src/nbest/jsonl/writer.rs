//! Writing lists: to a file that appears whole, or line by line to the standard output.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use serde::Serialize;

use crate::atomic::{AtomicFile, is_special};
use crate::{Error, Result};

/// Writes one JSON object a line.
pub struct ListWriter {
    path: PathBuf,
    sink: Sink,
    line: Vec<u8>,
}

enum Sink {
    Plain(AtomicFile),
    Gzip(GzEncoder<AtomicFile>),
    Zstd(zstd::stream::write::Encoder<'static, AtomicFile>),
    /// The standard output or a pipe: someone may read each line as it comes.
    Stream(Box<dyn Write + Send>),
}

impl ListWriter {
    /// Opens `path`, compressed if its name ends in `.gz` or `.zst`; the file takes its name only on
    /// [`finish`](Self::finish). `None` and `-` are the standard output; there, and in a device or a named
    /// pipe, every line is flushed as it is.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return Ok(ListWriter::stream("<stdout>".into(), Box::new(io::stdout())));
        };
        if is_special(path) {
            let stream = File::options().write(true).open(path);
            let stream = stream.map_err(|e| Error::io(path, "open it", e))?;
            return Ok(ListWriter::stream(path.into(), Box::new(stream)));
        }
        let file = AtomicFile::create(path)?;
        let sink = match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => Sink::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Some("zst") => {
                let encoder = zstd::stream::write::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL);
                Sink::Zstd(encoder.map_err(|e| Error::io(path, "compress it", e))?)
            }
            _ => Sink::Plain(file),
        };
        Ok(ListWriter { path: path.into(), sink, line: Vec::new() })
    }

    fn stream(path: PathBuf, stream: Box<dyn Write + Send>) -> Self {
        ListWriter { path, sink: Sink::Stream(stream), line: Vec::new() }
    }

    /// Writes `object` and a newline.
    ///
    /// # Errors
    /// [`Error::Io`]; of kind [`io::ErrorKind::BrokenPipe`] if whoever read the output has gone.
    pub fn write(&mut self, object: &impl Serialize) -> Result<()> {
        self.try_write(object).map_err(|e| Error::io(&self.path, "write it", e))
    }

    fn try_write(&mut self, object: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, object)?;
        self.line.push(b'\n');
        match &mut self.sink {
            Sink::Plain(file) => file.write_all(&self.line),
            Sink::Gzip(file) => file.write_all(&self.line),
            Sink::Zstd(file) => file.write_all(&self.line),
            Sink::Stream(stream) => stream.write_all(&self.line).and_then(|()| stream.flush()),
        }
    }

    /// Ends the compression and gives the file its name; without this there is no file.
    pub fn finish(self) -> Result<()> {
        let file = match self.sink {
            Sink::Plain(file) => Ok(file),
            Sink::Gzip(file) => file.finish(),
            Sink::Zstd(file) => file.finish(),
            Sink::Stream(_) => return Ok(()),
        };
        file.map_err(|e| Error::io(&self.path, "write it", e))?.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fields, read_all};
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        for (name, magic) in
            [("a.jsonl", b"{\"".as_slice()), ("a.gz", b"\x1f\x8b"), ("a.zst", b"\x28\xb5\x2f\xfd")]
        {
            let path = dir.path().join(name);
            let mut writer = ListWriter::create(Some(&path)).unwrap();
            for i in 0..3 {
                let am = -0.1 * f64::from(i);
                writer.write(&json!({"id": i, "hyps": [{"text": "É\n", "am": am}]})).unwrap();
            }
            assert!(!path.exists());
            writer.finish().unwrap();
            assert!(std::fs::read(&path).unwrap().starts_with(magic), "{name}");
            let lists = read_all(&[path], &Fields::default()).unwrap();
            assert_eq!(lists.iter().map(|u| u.id.as_str()).collect::<Vec<_>>(), ["0", "1", "2"]);
            assert_eq!(
                (lists[2].hypotheses[0].first_pass, lists[2].hypotheses[0].text.as_str()),
                (-0.2, "É\n")
            );
        }
    }

    #[test]
    fn unfinished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ListWriter::create(Some(&dir.path().join("a.gz"))).unwrap();
        writer.write(&json!({})).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_reader_who_left_is_an_error_of_its_own_kind() {
        let (reader, stdout) = io::pipe().unwrap();
        let mut writer = ListWriter::stream("<stdout>".into(), Box::new(stdout));
        writer.write(&json!({"a": 1})).unwrap();
        drop(reader);
        let error = writer.write(&json!({"a": 2})).unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe),
            "{error}"
        );
    }
}
