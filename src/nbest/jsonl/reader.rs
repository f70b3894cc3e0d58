//! Reading lists as a stream, in constant memory, whatever their compression.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use super::Fields;
use super::parse::{self, Defect};
use crate::nbest::Utterance;
use crate::{Error, Result};

/// The longest line that is read, in bytes; a longer one is skipped without being held in memory.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Utterances from a file or the standard input.
///
/// After an error about one line the next call goes on with the next line; after an error of the file
/// itself (the disk, the compression) the iterator ends.
pub struct ListReader {
    path: PathBuf,
    source: Box<dyn BufRead + Send>,
    compressed: bool,
    fields: Fields,
    line: Vec<u8>,
    line_number: u64,
    utterances_read: u64,
    ended: bool,
}

impl ListReader {
    /// Opens `path`, or the standard input for `None` and `-`. Gzip (also of many members) and zstd are
    /// recognised by their first bytes, so they may come through a pipe.
    pub fn open(path: Option<&Path>, fields: &Fields) -> Result<Self> {
        match path.filter(|path| *path != Path::new("-")) {
            Some(path) => {
                let file = File::open(path).map_err(|e| Error::io(path, "open it", e))?;
                ListReader::new(path.into(), file, fields)
            }
            None => ListReader::new("<stdin>".into(), io::stdin(), fields),
        }
    }

    /// Reads `source`, compressed or not; `path` names it in errors.
    pub fn new(path: PathBuf, mut source: impl Read + Send + 'static, fields: &Fields) -> Result<Self> {
        const BUFFER: usize = 1 << 16;
        let mut magic = Vec::new();
        let read = source.by_ref().take(4).read_to_end(&mut magic);
        read.map_err(|e| Error::io(&path, "read it", e))?;

        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        // RFC 8878: a frame, or the skippable frame that parallel compressors put first.
        let zstd = matches!(magic[..], [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
        let raw = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(source));
        let source: Box<dyn BufRead + Send> = if gzip {
            Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(raw)))
        } else if zstd {
            let decoder = zstd::stream::read::Decoder::with_buffer(raw);
            let decoder = decoder.map_err(|e| Error::io(&path, "decompress it", e))?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        } else {
            Box::new(raw)
        };
        Ok(ListReader {
            path,
            source,
            compressed: gzip || zstd,
            fields: fields.clone(),
            line: Vec::new(),
            line_number: 0,
            utterances_read: 0,
            ended: false,
        })
    }

    /// The line that the last item came from, without its newline; empty where it was too long to hold.
    pub fn raw_line(&self) -> &[u8] {
        &self.line
    }

    /// The number of that line, counted from 1; 0 before the first.
    pub fn line_number(&self) -> u64 {
        self.line_number
    }

    /// The file as messages name it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many utterances were read without an error so far.
    pub fn utterances_read(&self) -> u64 {
        self.utterances_read
    }

    /// The error of a file in which nothing was found, for callers that stream.
    pub fn no_utterances(&self) -> Error {
        Error::file(&self.path, "there is no utterance in it", "give a list of one JSON object a line")
    }

    fn defect(&self, defect: Defect) -> Error {
        let Defect { problem, hint } = defect;
        Error::List { path: self.path.clone(), line: self.line_number, problem, hint }
    }

    /// What the decoder refuses is the file's fault; what the system refuses has an error number.
    fn read_error(&self, error: io::Error) -> Error {
        if self.compressed && error.raw_os_error().is_none() {
            let problem = match error.kind() {
                io::ErrorKind::UnexpectedEof => "the compressed data is truncated".into(),
                _ => format!("the compressed data is damaged ({error})"),
            };
            let hint = format!("the first {} lines could be read; copy or make it again", self.line_number);
            return Error::file(&self.path, problem, hint);
        }
        Error::io(&self.path, "read it", error)
    }
}

impl Iterator for ListReader {
    type Item = Result<Utterance>;

    fn next(&mut self) -> Option<Result<Utterance>> {
        while !self.ended {
            match read_line(&mut self.source, &mut self.line, MAX_LINE_BYTES) {
                Ok(Line::End) => self.ended = true,
                Ok(Line::TooLong) => {
                    self.line_number += 1;
                    let problem = format!("the line is longer than {} MiB", MAX_LINE_BYTES >> 20);
                    return Some(Err(self.defect(Defect::new(problem, "write one utterance a line"))));
                }
                Ok(Line::Whole) => {
                    self.line_number += 1;
                    if self.line_number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                        // The byte order mark that some editors put before UTF-8.
                        self.line.drain(..3);
                    }
                    if self.line.iter().all(u8::is_ascii_whitespace) {
                        continue;
                    }
                    let utterance = parse::utterance(&self.line, &self.fields);
                    self.utterances_read += u64::from(utterance.is_ok());
                    return Some(utterance.map_err(|defect| self.defect(defect)));
                }
                Err(error) => {
                    self.ended = true;
                    self.line.clear();
                    return Some(Err(self.read_error(error)));
                }
            }
        }
        None
    }
}

/// All utterances of some files, in order; the first defect ends it, and so does a file with no utterance.
pub fn read_all(paths: &[impl AsRef<Path>], fields: &Fields) -> Result<Vec<Utterance>> {
    let mut utterances = Vec::new();
    for path in paths {
        let mut reader = ListReader::open(Some(path.as_ref()), fields)?;
        for utterance in reader.by_ref() {
            utterances.push(utterance?);
        }
        if reader.utterances_read() == 0 {
            return Err(reader.no_utterances());
        }
    }
    Ok(utterances)
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
    use proptest::prelude::*;
    use std::io::Write;

    const GOOD: &str = r#"{"id":"u","hyps":[{"text":"A","am":-1}]}"#;

    fn reader(bytes: impl Into<Vec<u8>>) -> ListReader {
        ListReader::new("in".into(), Cursor::new(bytes.into()), &Fields::default()).unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    #[test]
    fn every_compression_gives_the_same() {
        let line = format!("{GOOD}\n");
        let line = line.as_bytes();
        let twice = [line, line].concat();
        let skippable = [b"\x50\x2a\x4d\x18\x02\x00\x00\x00xx".as_slice(), &zstd(&twice)].concat();
        let members = [gzip(line), gzip(line)].concat();
        let frames = [zstd(line), zstd(line)].concat();
        for bytes in [twice.clone(), gzip(&twice), members, zstd(&twice), frames, skippable] {
            let mut reader = reader(bytes);
            assert_eq!(reader.by_ref().map(|u| u.unwrap().id).collect::<Vec<_>>(), ["u", "u"]);
            assert_eq!((reader.utterances_read(), reader.line_number()), (2, 2));
        }
    }

    #[test]
    fn a_bad_line_is_located_and_passed_over() {
        let mut reader = reader(format!("\u{feff}{GOOD}\r\n\n  \nbad\n{GOOD}"));
        assert!(reader.next().unwrap().is_ok());
        let error = reader.next().unwrap().unwrap_err();
        assert!(error.to_string().starts_with("in:4: broken JSON"), "{error}");
        assert_eq!((reader.raw_line(), reader.line_number()), (b"bad".as_slice(), 4));
        assert!(reader.next().unwrap().is_ok());
        assert_eq!((reader.raw_line(), reader.line_number()), (GOOD.as_bytes(), 5));
        assert!(reader.next().is_none());
        assert_eq!(reader.utterances_read(), 2);
    }

    #[test]
    fn a_truncated_file_is_the_files_fault_and_ends_the_list() {
        let text = format!("{GOOD}\n").repeat(3);
        for whole in [gzip(text.as_bytes()), zstd(text.as_bytes())] {
            let mut reader = reader(&whole[..whole.len() - 3]);
            let error = reader.find_map(Result::err).unwrap();
            assert!(matches!(&error, Error::File { path, .. } if path == Path::new("in")), "{error}");
            assert!(error.to_string().contains("truncated"), "{error}");
            assert!(reader.next().is_none());
        }
    }

    #[test]
    fn damaged_gzip_is_the_files_fault() {
        let mut bytes = gzip(GOOD.as_bytes());
        let crc = bytes.len() - 8;
        bytes[crc] ^= 1;
        let error = reader(bytes).find_map(Result::err).unwrap();
        assert!(matches!(&error, Error::File { .. }), "{error}");
    }

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

    #[test]
    fn an_empty_file_is_an_error_to_those_who_read_it_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = read_all(&[file.path()], &Fields::default()).unwrap_err();
        assert!(error.to_string().contains("no utterance"), "{error}");
        std::fs::write(file.path(), format!("{GOOD}\n")).unwrap();
        assert_eq!(read_all(&[file.path(), file.path()], &Fields::default()).unwrap().len(), 2);
    }

    #[test]
    fn a_directory_is_the_users_mistake() {
        let error = read_all(&[Path::new("/")], &Fields::default()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && error.exit_code() == 2, "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(
            magic in proptest::sample::select(vec![b"".as_slice(), b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"]),
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let lines = bytes.iter().filter(|&&b| b == b'\n').count();
            let items = reader([magic, &bytes].concat()).count();
            prop_assert!(!magic.is_empty() || items <= lines + 1);
        }
    }
}
