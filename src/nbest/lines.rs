//! Files and the standard input as lines, in constant memory, whatever their compression.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use super::record::Defect;
use crate::{Error, Result};

/// The longest line that is read, in bytes; a longer one is skipped without being held in memory.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Where bytes come from, to say so in errors.
#[derive(Clone)]
pub(super) struct Origin {
    pub path: PathBuf,
    compressed: bool,
}

impl Origin {
    /// A file that is not decompressed as a whole.
    pub fn of(path: PathBuf) -> Self {
        Origin { path, compressed: false }
    }

    pub fn defect(&self, line: u64, Defect { problem, hint }: Defect) -> Error {
        Error::List { path: self.path.clone(), line, problem, hint }
    }

    /// What the decoder refuses is the file's fault; what the system refuses has an error number.
    pub fn read_error(&self, error: io::Error, lines: u64) -> Error {
        if self.compressed && error.raw_os_error().is_none() {
            let problem = match error.kind() {
                io::ErrorKind::UnexpectedEof => "the compressed data is truncated".into(),
                _ => format!("the compressed data is damaged ({error})"),
            };
            let hint = format!("the first {lines} lines could be read; copy or make it again");
            return Error::file(&self.path, problem, hint);
        }
        Error::io(&self.path, "read it", error)
    }
}

/// The decompressed bytes of a file or the standard input.
pub(super) struct Source {
    pub origin: Origin,
    pub reader: Box<dyn BufRead + Send>,
}

impl Source {
    /// Opens `path`, or the standard input for `None` and `-`. Gzip (also of many members) and zstd are
    /// recognised by their first bytes, so they may come through a pipe.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        match path.filter(|path| *path != Path::new("-")) {
            Some(path) => {
                let file = File::open(path).map_err(|e| Error::io(path, "open it", e))?;
                Source::new(path.into(), file)
            }
            None => Source::new("<stdin>".into(), io::stdin()),
        }
    }

    /// Reads `source`, compressed or not; `path` names it in errors.
    pub fn new(path: PathBuf, mut source: impl Read + Send + 'static) -> Result<Self> {
        const BUFFER: usize = 1 << 16;
        let mut magic = Vec::new();
        let read = source.by_ref().take(4).read_to_end(&mut magic);
        read.map_err(|e| Error::io(&path, "read it", e))?;

        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        // RFC 8878: a frame, or the skippable frame that parallel compressors put first.
        let zstd = matches!(magic[..], [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
        let raw = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(source));
        let reader: Box<dyn BufRead + Send> = if gzip {
            Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(raw)))
        } else if zstd {
            let decoder = zstd::stream::read::Decoder::with_buffer(raw);
            let decoder = decoder.map_err(|e| Error::io(&path, "decompress it", e))?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        } else {
            Box::new(raw)
        };
        Ok(Source { origin: Origin { path, compressed: gzip || zstd }, reader })
    }
}

/// Lines that are not blank.
///
/// After an error about one line the next call goes on with the next line; after an error of the file
/// itself (the disk, the compression) it ends.
pub(super) struct Lines {
    source: Source,
    line: Vec<u8>,
    number: u64,
    ended: bool,
}

impl Lines {
    pub fn new(source: Source) -> Self {
        Lines { source, line: Vec::new(), number: 0, ended: false }
    }

    /// The line that was read last, without its newline; empty where it was too long to hold.
    pub fn bytes(&self) -> &[u8] {
        &self.line
    }

    /// That line as text, without a carriage return at its end.
    pub fn text(&self) -> Result<&str> {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        utf8(line).map_err(|defect| self.defect(defect))
    }

    /// Its number, counted from 1; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn origin(&self) -> &Origin {
        &self.source.origin
    }

    /// What is wrong with that line.
    pub fn defect(&self, defect: Defect) -> Error {
        self.origin().defect(self.number, defect)
    }

    /// Reads the next line; `false` at the end.
    pub fn advance(&mut self) -> Result<bool> {
        while !self.ended {
            match read_line(&mut self.source.reader, &mut self.line, MAX_LINE_BYTES) {
                Ok(Line::End) => self.ended = true,
                Ok(Line::TooLong) => {
                    self.number += 1;
                    let problem = format!("the line is longer than {} MiB", MAX_LINE_BYTES >> 20);
                    return Err(self.defect(Defect::new(problem, "write one utterance a line")));
                }
                Ok(Line::Whole) => {
                    self.number += 1;
                    if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                        // The byte order mark that some editors put before UTF-8.
                        self.line.drain(..3);
                    }
                    if !self.line.iter().all(u8::is_ascii_whitespace) {
                        return Ok(true);
                    }
                }
                Err(error) => {
                    self.ended = true;
                    self.line.clear();
                    return Err(self.origin().read_error(error, self.number));
                }
            }
        }
        Ok(false)
    }
}

/// The text of a line.
pub(super) fn utf8(line: &[u8]) -> Result<&str, Defect> {
    std::str::from_utf8(line).map_err(|e| {
        let problem = format!("invalid UTF-8 at byte {} of the line", e.valid_up_to());
        Defect::new(problem, "save the file as UTF-8")
    })
}

#[derive(Debug, PartialEq)]
enum Line {
    /// `line` holds it, without the newline.
    Whole,
    /// It was passed over; `line` is empty.
    TooLong,
    End,
}

/// Reads up to the next newline, holding no more than `limit` bytes.
fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>, limit: usize) -> io::Result<Line> {
    line.clear();
    let (mut started, mut too_long) = (false, false);
    loop {
        let available = match source.fill_buf() {
            Ok(available) => available,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if available.is_empty() && !started {
            return Ok(Line::End);
        }
        started = true;
        let newline = available.iter().position(|&b| b == b'\n');
        let part = &available[..newline.unwrap_or(available.len())];
        if line.len() + part.len() > limit {
            too_long = true;
            line.clear();
        }
        if !too_long {
            line.extend_from_slice(part);
        }
        let at_end = available.is_empty() || newline.is_some();
        let consumed = part.len() + usize::from(newline.is_some());
        source.consume(consumed);
        if at_end {
            return Ok(if too_long { Line::TooLong } else { Line::Whole });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_passed_over_unbuffered() {
        let mut source = BufReader::with_capacity(4, Cursor::new(b"12345678\n123456789\n\n12".to_vec()));
        let mut line = Vec::new();
        let mut next = || (read_line(&mut source, &mut line, 8).unwrap(), line.clone());
        assert_eq!(next(), (Line::Whole, b"12345678".to_vec()));
        assert_eq!(next(), (Line::TooLong, b"".to_vec()));
        assert_eq!(next(), (Line::Whole, b"".to_vec()));
        assert_eq!(next(), (Line::Whole, b"12".to_vec()));
        assert_eq!(next(), (Line::End, b"".to_vec()));
    }
}
