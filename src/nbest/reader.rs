//! Reading lists as a stream, in constant memory, whatever their format.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::fields::Fields;
use super::format::{Format, Reading};
use super::jsonl;
use super::lines::{Origin, Source};
use super::record::Record;
use super::references::References;
use super::rows::Grouped;
use super::{Utterance, csv, espnet, kaldi, mlm, nemo, parquet};
use crate::{Error, Result};

/// The utterances of one format. After [`Error::List`] the next call may go on; any other error ends the list.
pub(super) trait Records: Send {
    fn next(&mut self) -> Option<Result<Record>>;

    /// The file in which utterances begin.
    fn origin(&self) -> &Origin;

    /// The line there of the last utterance, or of the last error about a line; from 1, 0 before the first.
    fn line(&self) -> u64;

    /// The bytes of that line, where an utterance is one line.
    fn raw_line(&self) -> &[u8] {
        &[]
    }

    /// The columns of a table that are not read, as no record can hold what is in them.
    fn left_out(&self) -> &[String] {
        &[]
    }
}

/// Utterances from files or the standard input.
///
/// In JSON lines, after an error about one line the next call goes on with the next line. After any other error, and
/// in the other formats after any, nothing that comes counts.
pub struct ListReader {
    records: Box<dyn Records>,
    fields: Fields,
    references: Option<References>,
    utterances_read: u64,
}

impl ListReader {
    /// Opens `path`, or the standard input, which is JSON lines, for `None` and `-`; compressed or not.
    ///
    /// # Errors
    /// Where it cannot be read, or its format not recognised.
    pub fn open(path: Option<&Path>, fields: &Fields) -> Result<Self> {
        ListReader::open_as(path, fields, &Reading::default())
    }

    /// The same, where `reading` says what the files do not.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_as(path: Option<&Path>, fields: &Fields, reading: &Reading) -> Result<Self> {
        let format = reading.format_of(path)?;
        let records: Box<dyn Records> = match (format, path) {
            (Format::Jsonl, _) => Box::new(jsonl::Lines::new(Source::open(path)?)),
            (_, None) => return Err(Error::Usage(format!("{format} cannot come from the standard input"))),
            (Format::Espnet, Some(path)) => Box::new(espnet::Reader::open(path, reading.ctc_weight)?),
            (Format::Kaldi, Some(path)) => Box::new(kaldi::Reader::open(path)?),
            (Format::Nemo, Some(path)) => Box::new(nemo::Reader::open(path, reading.manifest.as_deref())?),
            (Format::Mlm, Some(path)) => Box::new(mlm::Reader::open(path)?),
            (Format::Csv, Some(path)) => Box::new(Grouped::new(csv::Reader::open(path)?)),
            (Format::Parquet, Some(path)) => parquet::open(path)?,
        };
        let references = reading.references.as_deref().map(References::read).transpose()?;
        Ok(ListReader { records, fields: fields.clone(), references, utterances_read: 0 })
    }

    /// Reads JSON lines from `source`, compressed or not; `path` names it in errors.
    pub fn new(path: PathBuf, source: impl Read + Send + 'static, fields: &Fields) -> Result<Self> {
        let records = Box::new(jsonl::Lines::new(Source::new(path, source)?));
        Ok(ListReader { records, fields: fields.clone(), references: None, utterances_read: 0 })
    }

    /// The line that the last item came from, without its newline; empty where it was too long to hold, and in
    /// formats of more than one line an utterance.
    pub fn raw_line(&self) -> &[u8] {
        self.records.raw_line()
    }

    /// The number of the line at which the last item began, counted from 1; 0 before the first.
    pub fn line_number(&self) -> u64 {
        self.records.line()
    }

    /// The file as messages name it.
    pub fn path(&self) -> &Path {
        &self.records.origin().path
    }

    /// The columns of a table, with their types, that are neither numbers, strings nor booleans, and so not read.
    pub fn left_out(&self) -> &[String] {
        self.records.left_out()
    }

    /// How many utterances were read without an error so far.
    pub fn utterances_read(&self) -> u64 {
        self.utterances_read
    }

    /// The error of a file in which nothing was found, for callers that stream.
    pub fn no_utterances(&self) -> Error {
        Error::file(self.path(), "there is no utterance in it", "give lists that have one")
    }

    /// The next utterance, whatever scores it has.
    pub fn next_record(&mut self) -> Option<Result<Record>> {
        let record = self.records.next()?.and_then(|mut record| {
            if let Some(references) = &self.references {
                references.give(&mut record).map_err(|defect| self.defect(defect))?;
            }
            Ok(record)
        });
        self.utterances_read += u64::from(record.is_ok());
        Some(record)
    }

    fn defect(&self, defect: super::record::Defect) -> Error {
        self.records.origin().defect(self.records.line(), defect)
    }
}

impl Iterator for ListReader {
    type Item = Result<Utterance>;

    fn next(&mut self) -> Option<Result<Utterance>> {
        let record = self.next_record()?;
        Some(record.and_then(|record| {
            record.utterance(&self.fields).map_err(|defect| {
                self.utterances_read -= 1;
                self.defect(defect)
            })
        }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    use proptest::prelude::*;

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
        assert!(matches!(error, Error::File { .. }) && error.exit_code() == 2, "{error}");
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
