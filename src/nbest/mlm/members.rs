//! The members of one large JSON object, one at a time.

use std::io::BufRead;

use serde_json::{Map, Value};

use crate::nbest::jsonl::parse::without_place;
use crate::nbest::lines::{MAX_LINE_BYTES, Origin, Source};
use crate::nbest::record::Defect;
use crate::{Error, Result};

/// A key and the object that it leads to.
pub(super) struct Member {
    pub key: String,
    pub fields: Map<String, Value>,
}

pub(super) struct Members {
    source: Source,
    /// Where the reader is, counted from 1.
    at: u64,
    /// Where the last member began.
    line: u64,
    started: bool,
    ended: bool,
}

const SHAPE: &str = "expected {\"id\": {\"hyp_1\": {\"score\": …, \"text\": …}, …}, …}";

impl Members {
    pub fn new(source: Source) -> Self {
        Members { source, at: 1, line: 0, started: false, ended: false }
    }

    pub fn origin(&self) -> &Origin {
        &self.source.origin
    }

    pub fn line(&self) -> u64 {
        self.line
    }

    /// After an error there is no other member: nothing tells where it would begin.
    pub fn next(&mut self) -> Option<Result<Member>> {
        let member = if self.ended { Ok(None) } else { self.member() };
        self.ended = !matches!(member, Ok(Some(_)));
        member.transpose()
    }

    fn member(&mut self) -> Result<Option<Member>> {
        let next = match self.started {
            false => {
                if self.peek()? == Some(0xef) {
                    // The byte order mark that some editors put before UTF-8.
                    for _ in 0..3 {
                        self.take()?;
                    }
                }
                self.punctuation(b"{")?;
                self.started = true;
                self.punctuation(b"\"}")?
            }
            true => match self.punctuation(b",}")? {
                b',' => self.punctuation(b"\"")?,
                end => end,
            },
        };
        if next == b'}' {
            self.blanks()?;
            return match self.peek()? {
                None => Ok(None),
                Some(_) => Err(self.defect("there is something after the end of the object".into())),
            };
        }
        self.line = self.at;
        let mut key = vec![b'"'];
        self.string(&mut key)?;
        let key = serde_json::from_slice(&key).map_err(|e| self.broken(&e))?;
        self.punctuation(b":")?;
        self.punctuation(b"{")?;
        self.line = self.at;
        let mut object = vec![b'{'];
        self.rest_of_object(&mut object)?;
        let fields = serde_json::from_slice(&object).map_err(|e| self.broken(&e))?;
        Ok(Some(Member { key, fields }))
    }

    fn rest_of_object(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut depth = 1;
        while depth > 0 {
            let byte = self.take_inside()?;
            bytes.push(byte);
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b'"' => self.string(bytes)?,
                _ => {}
            }
            self.check_length(bytes)?;
        }
        Ok(())
    }

    /// The rest of a string, whose first quote was read.
    fn string(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        loop {
            let byte = self.take_inside()?;
            bytes.push(byte);
            match byte {
                b'"' => return Ok(()),
                b'\\' => bytes.push(self.take_inside()?),
                _ => {}
            }
            self.check_length(bytes)?;
        }
    }

    fn check_length(&self, bytes: &[u8]) -> Result<()> {
        match bytes.len() > MAX_LINE_BYTES {
            true => Err(self.defect(format!("an utterance is longer than {} MiB", MAX_LINE_BYTES >> 20))),
            false => Ok(()),
        }
    }

    /// The next byte that is no space, which must be one of `expected`.
    fn punctuation(&mut self, expected: &[u8]) -> Result<u8> {
        self.blanks()?;
        match self.take()? {
            Some(byte) if expected.contains(&byte) => Ok(byte),
            found => {
                let names: Vec<String> = expected.iter().map(|b| char::from(*b).to_string()).collect();
                let found =
                    found.map_or("the end of the file".into(), |b| char::from(b).escape_debug().to_string());
                Err(self.defect(format!("expected {}, found {found}", names.join(" or "))))
            }
        }
    }

    fn blanks(&mut self) -> Result<()> {
        while self.peek()?.is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.take()?;
        }
        Ok(())
    }

    fn take_inside(&mut self) -> Result<u8> {
        self.take()?.ok_or_else(|| self.defect("the file ends inside of an utterance".into()))
    }

    fn take(&mut self) -> Result<Option<u8>> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            self.source.reader.consume(1);
            self.at += u64::from(byte == b'\n');
        }
        Ok(byte)
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            match self.source.reader.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.source.origin.read_error(e, self.at)),
            }
        }
    }

    fn defect(&self, problem: String) -> Error {
        self.source.origin.defect(self.at, Defect::new(problem, SHAPE))
    }

    /// In what was read since `line`.
    fn broken(&self, error: &serde_json::Error) -> Error {
        let line = self.line + (error.line() as u64).saturating_sub(1);
        let problem = format!("broken JSON: {}", without_place(error));
        self.source.origin.defect(line, Defect::new(problem, SHAPE))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use proptest::prelude::*;

    fn members(text: &[u8]) -> Vec<Result<Member>> {
        let source = Source::new("in".into(), Cursor::new(text.to_vec())).unwrap();
        let mut members = Members::new(source);
        std::iter::from_fn(|| members.next()).collect()
    }

    #[test]
    fn members_come_one_by_one() {
        let text = "\u{feff} {\"a\\\"}\":\n{\"x\": \"}{\\\\\", \"y\": {}},\n\"b\" : {} } \n";
        let found = members(text.as_bytes()).into_iter().map(Result::unwrap);
        let found: Vec<(String, usize)> = found.map(|m| (m.key, m.fields.len())).collect();
        assert_eq!(found, [("a\"}".to_owned(), 2), ("b".to_owned(), 0)]);
        assert!(members(b"{}").is_empty());
    }

    #[test]
    fn what_is_wrong_is_located() {
        for (text, expected) in [
            ("", "in:1: expected {, found the end"),
            ("{\n\"a\": 1}", "in:2: expected {, found 1"),
            ("{\"a\": {}\n\"b\": {}}", "in:2: expected , or }, found \\\""),
            ("{\"a\": {\n\"b\": NaN}}", "in:2: broken JSON"),
            ("{\"a\": {\n", "in:2: the file ends inside"),
            ("{} 1", "in:1: there is something after"),
        ] {
            let error = members(text.as_bytes()).pop().unwrap().err().unwrap().to_string();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "([{}\":,\\\\a1 \n]|ü){0,40}") {
            members(text.as_bytes());
        }
    }
}
