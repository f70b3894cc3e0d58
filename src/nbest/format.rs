//! The formats of lists, and how to tell them apart.

use std::fmt::{self, Display, Formatter};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::file::uncompressed;
use super::lines::Source;
use super::{csv, espnet, kaldi, mlm, nemo, parquet};
use crate::atomic::is_special;
use crate::{Error, Result};

/// How lists are laid out in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON lines: one utterance a line, with any fields.
    Jsonl,
    /// A decode folder of ESPnet: `{n}best_recog/{text,score,scores}`.
    Espnet,
    /// An N-best folder of Kaldi: `text`, `ac_cost`, `lm_cost`.
    Kaldi,
    /// A list of NeMo's beam search: texts and scores, and a manifest beside it.
    Nemo,
    /// The JSON of mlm-scoring: one object for all utterances.
    Mlm,
    /// Comma-separated values: one hypothesis a row.
    Csv,
    /// Parquet: one utterance a row, or one hypothesis; a file, or a folder of such as Spark writes it.
    Parquet,
}

impl Format {
    pub const ALL: [Format; 7] = [
        Format::Jsonl,
        Format::Espnet,
        Format::Kaldi,
        Format::Nemo,
        Format::Mlm,
        Format::Csv,
        Format::Parquet,
    ];

    /// As in `--format`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Espnet => "espnet",
            Format::Kaldi => "kaldi",
            Format::Nemo => "nemo",
            Format::Mlm => "mlm",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
        }
    }

    /// What is at `path`, by its content; a file that looks like no other format is taken for JSON lines, whose
    /// errors say what is wrong with it.
    ///
    /// # Errors
    /// [`Error::File`] where it may be several formats, or a folder that is none; [`Error::Io`] where it cannot be
    /// read.
    pub fn detect(path: &Path) -> Result<Format> {
        if is_special(path) {
            return Ok(Format::Jsonl);
        }
        let folder = path.is_dir();
        let start = if folder { String::new() } else { start(path)? };
        // What of it looks like a line may look like one of any format.
        if parquet::recognise(&start) {
            return Ok(Format::Parquet);
        }
        let line = start.lines().next().unwrap_or_default();
        let mut found = Vec::new();
        for format in Format::ALL {
            let recognised = match format {
                Format::Jsonl => false,
                Format::Espnet => folder && espnet::recognise(path)?,
                Format::Kaldi => folder && kaldi::recognise(path),
                Format::Nemo => nemo::recognise(line),
                Format::Mlm => mlm::recognise(&start),
                Format::Csv => csv::recognise(line),
                Format::Parquet => folder && parquet::recognise_folder(path)?,
            };
            if recognised {
                found.push(format);
            }
        }
        match found[..] {
            [format] => Ok(format),
            [] if folder => {
                let hint =
                    format!("expected {}; or {}; or {}", espnet::LAYOUT, kaldi::LAYOUT, parquet::FOLDER);
                Err(Error::file(path, "the folder holds no lists of a known format", hint))
            }
            [] => Ok(Format::Jsonl),
            ref several => {
                let names: Vec<&str> = several.iter().map(|format| format.name()).collect();
                let problem = format!("it may be any of {}", names.join(", "));
                Err(Error::file(path, problem, "say which with --format, or --from of convert"))
            }
        }
    }

    /// What a file of this name should be; `None` where the name does not tell.
    pub fn of_name(path: &Path) -> Option<Format> {
        let name = uncompressed(path.file_name()?.to_str()?);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            _ if path == Path::new("-") => Some(Format::Jsonl),
            Some("jsonl") => Some(Format::Jsonl),
            Some("json") => Some(Format::Mlm),
            Some("csv") => Some(Format::Csv),
            Some("tsv") => Some(Format::Nemo),
            Some("parquet") => Some(Format::Parquet),
            _ => None,
        }
    }
}

/// How a file begins, decompressed, without a byte order mark.
fn start(path: &Path) -> Result<String> {
    const LENGTH: u64 = 1 << 16;
    let Source { origin, reader } = Source::open(Some(path))?;
    let mut start = Vec::new();
    reader.take(LENGTH).read_to_end(&mut start).map_err(|e| origin.read_error(e, 0))?;
    let start = String::from_utf8_lossy(&start);
    Ok(start.strip_prefix('\u{feff}').unwrap_or(&start).into())
}

impl Display for Format {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Format::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// How lists are read: their format, and what it lacks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// `None` recognises it.
    pub format: Option<Format>,
    /// A file with what was said: Kaldi's `text`, `.trn`, or a manifest of NeMo.
    pub references: Option<PathBuf>,
    /// The manifest of a list of NeMo; `None` is the one beside it.
    pub manifest: Option<PathBuf>,
    /// In ESPnet's folders, the weight w of am = (1 - w) decoder + w ctc.
    pub ctc_weight: Option<f64>,
}

impl Reading {
    /// The format of what is at `path`; the standard input, for `None` and `-`, is JSON lines.
    ///
    /// # Errors
    /// As for [`Format::detect`], and where another format is to come from the standard input.
    pub fn format_of(&self, path: Option<&Path>) -> Result<Format> {
        match (self.format, path.filter(|path| *path != Path::new("-"))) {
            (None | Some(Format::Jsonl), None) => Ok(Format::Jsonl),
            (Some(format), None) => {
                Err(Error::Usage(format!("{format} cannot come from the standard input: give a path")))
            }
            (Some(format), Some(_)) => Ok(format),
            (None, Some(path)) => Format::detect(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for format in Format::ALL {
            assert_eq!(format.name().parse::<Format>(), Ok(format));
        }
        assert!("nbest".parse::<Format>().unwrap_err().contains("jsonl"));
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Format::detect(dir.path()).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("1best_recog"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_that_cannot_be_read_is_not_one_of_something_else() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("lists");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o300)).unwrap();
        let (readable, detected) = (fs::read_dir(&folder).is_ok(), Format::detect(&folder));
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        if readable {
            eprintln!("skipped: this user may read every folder");
            return;
        }
        assert!(matches!(detected, Err(Error::Io { .. })), "{detected:?}");
    }

    #[test]
    fn files_are_told_by_how_they_begin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists");
        for (text, expected) in [
            ("{\"id\": \"u\", \"hyps\": [{\"text\": \"A\", \"am\": -1}]}\n", Format::Jsonl),
            ("{\"hyps\": [{}], \"id\": {}}", Format::Jsonl),
            ("", Format::Jsonl),
            ("A B\t-1.5\nC\t-2\n", Format::Nemo),
            ("\t-1.5\n", Format::Nemo),
            ("\u{feff}{\n \"u-1\": {\n\"hyp_1\": {", Format::Mlm),
            ("{\"u\":{\"ref\":\"A\"", Format::Mlm),
            ("rank,text,\"id\",am\r\n", Format::Csv),
            ("PAR1", Format::Parquet),
            ("PAR1\u{15}\u{4}\u{15}", Format::Parquet),
            ("PAR1\u{15}\u{4}A\t-1.5\nB", Format::Parquet),
            ("PAR1\t-1.5\n", Format::Nemo),
            ("PAR1,id,text\n", Format::Csv),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Format::detect(&path).unwrap(), expected, "{text:?}");
        }
        std::fs::write(&path, "id,text\t-1\n").unwrap();
        assert_eq!(Format::detect(&path).unwrap(), Format::Nemo);
        std::fs::write(&path, "id,text,am\t-1,\"\t-1\n").unwrap();
        let error = Format::detect(&path).unwrap_err().to_string();
        assert!(error.contains("any of nemo, csv; say which with --format"), "{error}");
    }

    #[test]
    fn the_standard_input_is_json_lines() {
        let reading = Reading { format: Some(Format::Espnet), ..Reading::default() };
        assert!(reading.format_of(Some(Path::new("-"))).is_err());
        assert_eq!(Reading::default().format_of(None).unwrap(), Format::Jsonl);
    }
}
