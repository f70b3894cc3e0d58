//! ARPA files, the common format of n-gram models: counts, then for each order its n-grams with the logarithm of their
//! probability before and that of their backoff behind.

use std::fmt::Write;
use std::path::Path;

use super::{Gram, Ngram, RESERVED};
use crate::{Error, Result, atomic};

const HINT: &str = "write an n-gram model in the ARPA format, or train the adapter again";

impl Ngram {
    /// The file's name in the adapter's folder.
    pub const FILE: &str = "ngram.arpa";

    /// Writes it into the folder of an adapter, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        atomic::write(dir.join(Self::FILE), self.arpa().as_bytes())
    }

    /// Takes the file out of the folder of an adapter, where it is there.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be removed.
    pub fn remove(dir: &Path) -> Result<()> {
        atomic::remove(&dir.join(Self::FILE))
    }

    /// Reads it from the folder of an adapter; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::List`] at the first line that should not be there, [`Error::File`]
    /// where it is no text.
    pub fn load(dir: &Path) -> Result<Option<Ngram>> {
        let path = dir.join(Self::FILE);
        let Some(bytes) = atomic::read(&path)? else { return Ok(None) };
        let text = str::from_utf8(&bytes).map_err(|_| Error::file(&path, "it is not UTF-8", HINT))?;
        Ngram::parse(text).map(Some).map_err(|(line, problem)| Error::List {
            path,
            line: line as u64,
            problem,
            hint: HINT.into(),
        })
    }

    /// The file's text, sorted by words, so that the same model is the same file.
    pub fn arpa(&self) -> String {
        let mut names: Vec<&str> = RESERVED.to_vec();
        names.resize(RESERVED.len() + self.numbers.len(), "");
        self.numbers.iter().for_each(|(name, &number)| names[number as usize] = name);
        let mut orders: Vec<Vec<(String, Gram)>> = vec![Vec::new(); self.order];
        for (gram, values) in &self.grams {
            let words: Vec<&str> = gram.iter().map(|&number| names[number as usize]).collect();
            orders[gram.len() - 1].push((words.join(" "), *values));
        }
        let mut text = String::from("\\data\\\n");
        for (n, grams) in orders.iter().enumerate() {
            writeln!(text, "ngram {}={}", n + 1, grams.len()).expect("a string takes everything");
        }
        for (n, grams) in orders.iter_mut().enumerate() {
            grams.sort_by(|a, b| a.0.cmp(&b.0));
            writeln!(text, "\n\\{}-grams:", n + 1).expect("a string takes everything");
            for (words, Gram { probability, backoff }) in grams {
                let end = if *backoff == 0.0 { String::new() } else { format!("\t{backoff}") };
                writeln!(text, "{probability}\t{words}{end}").expect("a string takes everything");
            }
        }
        text + "\n\\end\\\n"
    }

    /// What [`arpa`](Self::arpa) and other programs write; else the number of the line, from 1, and what is wrong.
    fn parse(text: &str) -> Result<Ngram, (usize, String)> {
        let mut model = Ngram { order: 0, numbers: Default::default(), grams: Default::default() };
        let (mut counts, mut found) = (Vec::new(), Vec::new());
        let (mut begun, mut ended) = (false, false);
        let mut line_number = 0;
        for line in text.lines().map(str::trim) {
            line_number += 1;
            let refuse = |problem: String| Err::<Ngram, _>((line_number, problem));
            match line {
                _ if line.is_empty() || ended => {}
                "\\data\\" => begun = true,
                _ if !begun => return refuse(format!("expected \\data\\, found {line:?}")),
                "\\end\\" => ended = true,
                _ if line.starts_with("ngram ") && model.order == 0 => {
                    let expected = format!("ngram {}=COUNT", counts.len() + 1);
                    let count = line.strip_prefix(expected.trim_end_matches("COUNT"));
                    match count.and_then(|count| count.trim().parse::<usize>().ok()) {
                        Some(count) => counts.push(count),
                        None => return refuse(format!("expected {expected}, found {line:?}")),
                    }
                }
                _ if line.starts_with('\\') => {
                    let expected = format!("\\{}-grams:", model.order + 1);
                    if line != expected || model.order == counts.len() {
                        return refuse(format!("expected {expected} or \\end\\, found {line:?}"));
                    }
                    model.order += 1;
                    found.push(0);
                }
                _ if model.order == 0 => return refuse(format!("expected \\1-grams:, found {line:?}")),
                _ => {
                    model.add_line(line).map_err(|problem| (line_number, problem))?;
                    found[model.order - 1] += 1;
                }
            }
        }
        if !ended {
            return Err((line_number, "the file ends before \\end\\".into()));
        }
        if found != counts || counts.is_empty() {
            return Err((line_number, format!("expected {counts:?} n-grams of each order, found {found:?}")));
        }
        match model.grams.contains_key(&[super::UNKNOWN][..]) {
            true => Ok(model),
            false => Err((line_number, "there is no <unk>, for words that it does not know".into())),
        }
    }

    /// Probability, words, and a backoff unless it is 0.
    fn add_line(&mut self, line: &str) -> Result<(), String> {
        let expected =
            || format!("expected log10 P, {} words and log10 of the backoff, found {line:?}", self.order);
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse().ok().filter(|x: &f32| x.is_finite()).ok_or_else(expected);
        let (probability, words, backoff) = match &fields[..] {
            [probability, words @ ..] if words.len() == self.order => (number(probability)?, words, 0.0),
            [probability, words @ .., backoff] if words.len() == self.order => {
                (number(probability)?, words, number(backoff)?)
            }
            _ => return Err(expected()),
        };
        let mut numbers = Vec::with_capacity(words.len());
        for word in words {
            let known = match RESERVED.iter().position(|name| name == word) {
                Some(reserved) => Some(reserved as u32),
                None => self.numbers.get(*word).copied(),
            };
            numbers.push(match known {
                Some(number) => number,
                None if self.order == 1 => {
                    let number = (RESERVED.len() + self.numbers.len()) as u32;
                    self.numbers.insert((*word).into(), number);
                    number
                }
                None => return Err(format!("{word:?} is in no 1-gram")),
            });
        }
        if self.grams.insert(numbers.into(), Gram { probability, backoff }).is_some() {
            return Err(format!("{:?} is there twice", words.join(" ")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Ngram {
        let sentences: [&[&str]; 3] = [&["a", "b", "ü"], &["a", "b"], &["b"]];
        Ngram::estimate(3, sentences).unwrap()
    }

    #[test]
    fn a_model_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Ngram::load(dir.path()).unwrap(), None);
        model().save(dir.path()).unwrap();
        let read = Ngram::load(dir.path()).unwrap().unwrap();
        assert_eq!(read.arpa(), model().arpa());
        for sentence in [&["a", "b"][..], &["ü"], &["x", "a"], &[]] {
            assert_eq!(read.likelihood(sentence), model().likelihood(sentence), "{sentence:?}");
        }
        Ngram::remove(dir.path()).unwrap();
        Ngram::remove(dir.path()).unwrap();
        assert_eq!(Ngram::load(dir.path()).unwrap(), None);
    }

    #[test]
    fn other_programs_files_are_read() {
        let text = "\n\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-2 <unk>\n-99 <s> -0.5\n-1 </s>\n-0.3 a -0.25\n\n\
                    \\2-grams:\n-0.1 <s> a\n\n\\end\\\n";
        let read = Ngram::parse(text).unwrap();
        let log10 = |words: &[&str]| read.likelihood(words).log_probability / std::f64::consts::LN_10;
        assert!((log10(&["a"]) - (-0.1 - 0.25 - 1.0)).abs() < 1e-6);
        assert!((log10(&["b"]) - (-0.5 - 2.0 - 1.0)).abs() < 1e-6);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        let whole = model().arpa();
        let refusal = |text: &str| Ngram::parse(text).unwrap_err();
        assert_eq!(refusal("hello"), (1, "expected \\data\\, found \"hello\"".into()));
        assert_eq!(refusal("").1, "the file ends before \\end\\");
        let truncated = &whole[..whole.len() - 7];
        assert_eq!(refusal(truncated).1, "the file ends before \\end\\");
        assert!(refusal(&whole.replace("ngram 2=", "ngram 3=")).1.starts_with("expected ngram 2=COUNT"));
        assert!(refusal(&whole.replace("\\2-grams:", "\\3-grams:")).1.starts_with("expected \\2-grams:"));
        assert!(refusal(&whole.replace("ngram 1=6", "ngram 1=7")).1.contains("found [6, "));
        assert!(refusal(&whole.replace("<unk>", "c")).1.contains("no <unk>"));
        let line = whole.lines().position(|line| line.contains("\ta b")).unwrap();
        let broken = |by: &str| {
            let lines: Vec<&str> =
                whole.lines().enumerate().map(|(i, l)| if i == line { by } else { l }).collect();
            refusal(&lines.join("\n"))
        };
        assert!(broken("x\ta b").1.starts_with("expected log10 P, 2 words"));
        assert!(broken("-1\ta").1.starts_with("expected log10 P, 2 words"));
        assert!(broken("NaN\ta b").1.starts_with("expected log10 P"));
        assert_eq!(broken("-1\ta z"), (line + 1, "\"z\" is in no 1-gram".into()));
        assert_eq!(broken("-1\tb ü").1, "\"b ü\" is there twice");
    }
}
