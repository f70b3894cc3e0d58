//! One normalisation of text for training, scoring and word errors, so that the three agree.

use std::collections::HashSet;
use std::str::FromStr;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A pattern for [`NormaliseOptions::noise`]: `<noise>`, `[laughter]`, `(breath)`.
pub const NOISE_TAGS: &str = r"<[^<>]*>|\[[^\[\]]*\]|\([^()]*\)";

/// What is done to a text beyond collapsing its white space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NormaliseOptions {
    pub case: Case,
    /// Words that this regular expression matches from end to end, as they stand in the text, are removed.
    pub noise: Option<String>,
    /// These words are removed; compared after the change of case.
    pub fillers: Vec<String>,
}

/// What becomes of upper and lower case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    #[default]
    Keep,
    Lower,
    Upper,
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        match text {
            "keep" => Ok(Case::Keep),
            "lower" => Ok(Case::Lower),
            "upper" => Ok(Case::Upper),
            _ => Err("expected keep, lower or upper".into()),
        }
    }
}

impl Case {
    fn apply(self, word: &str) -> String {
        match self {
            Case::Keep => word.to_owned(),
            Case::Lower => word.to_lowercase(),
            Case::Upper => word.to_uppercase(),
        }
    }
}

/// [`NormaliseOptions`], made ready for use.
#[derive(Debug, Clone)]
pub struct Normaliser {
    case: Case,
    noise: Option<Regex>,
    fillers: HashSet<String>,
}

impl Normaliser {
    /// # Errors
    /// [`Error::Usage`] if the pattern for noise is not a regular expression.
    pub fn new(options: &NormaliseOptions) -> Result<Self> {
        let NormaliseOptions { case, noise, fillers } = options;
        let noise = noise.as_deref().map(whole_word).transpose()?;
        Ok(Normaliser { case: *case, noise, fillers: fillers.iter().map(|f| case.apply(f)).collect() })
    }

    /// The words that are left, with one space between two.
    pub fn normalise(&self, text: &str) -> String {
        let mut normalised = String::with_capacity(text.len());
        for word in text.split_whitespace() {
            if self.noise.as_ref().is_some_and(|noise| noise.is_match(word)) {
                continue;
            }
            let word = self.case.apply(word);
            if self.fillers.contains(&word) {
                continue;
            }
            if !normalised.is_empty() {
                normalised.push(' ');
            }
            normalised.push_str(&word);
        }
        normalised
    }
}

fn whole_word(pattern: &str) -> Result<Regex> {
    // Alone first: "a)|(b" would compile only with our brackets around it.
    Regex::new(pattern)
        .and_then(|_| Regex::new(&format!("^(?:{pattern})$")))
        .map_err(|e| Error::Usage(format!("the pattern for noise is not a regular expression: {e}")))
}

/// What errors are counted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    #[default]
    Word,
    /// Unicode scalar values other than white space, for languages written without spaces.
    Char,
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Unit, String> {
        match text {
            "word" => Ok(Unit::Word),
            "char" => Ok(Unit::Char),
            _ => Err("expected word or char".into()),
        }
    }
}

/// The units of a text, in order.
pub fn units(text: &str, unit: Unit) -> Vec<&str> {
    match unit {
        Unit::Word => text.split_whitespace().collect(),
        Unit::Char => text
            .char_indices()
            .filter(|(_, c)| !c.is_whitespace())
            .map(|(at, c)| &text[at..at + c.len_utf8()])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalise(options: NormaliseOptions, text: &str) -> String {
        Normaliser::new(&options).unwrap().normalise(text)
    }

    #[test]
    fn by_default_only_white_space_collapses() {
        let text = " The\t<noise>  Uh\u{a0}cat\n";
        assert_eq!(normalise(NormaliseOptions::default(), text), "The <noise> Uh cat");
        assert_eq!(normalise(NormaliseOptions::default(), "  "), "");
    }

    #[test]
    fn noise_is_matched_as_a_whole_word() {
        let options = NormaliseOptions { noise: Some(NOISE_TAGS.into()), ..Default::default() };
        assert_eq!(normalise(options.clone(), "<s> A [laughter] (breath) B(C) <D>E"), "A B(C) <D>E");
        let alternatives = NormaliseOptions { noise: Some("AB|A".into()), ..options };
        assert_eq!(normalise(alternatives, "A AB ABC CA"), "ABC CA");
    }

    #[test]
    fn noise_is_matched_before_the_case_changes() {
        let options =
            NormaliseOptions { case: Case::Lower, noise: Some("[A-Z]+:".into()), ..Default::default() };
        assert_eq!(normalise(options, "SPK: A spk: B"), "a spk: b");
    }

    #[test]
    fn fillers_go_in_any_case_once_case_is_changed() {
        let fillers = vec!["uh".into(), "ÄHM".into()];
        let options = |case| NormaliseOptions { case, fillers: fillers.clone(), ..Default::default() };
        assert_eq!(normalise(options(Case::Lower), "UH I ähm Am"), "i am");
        assert_eq!(normalise(options(Case::Upper), "UH I ähm Am"), "I AM");
        assert_eq!(normalise(options(Case::Keep), "UH uh I ähm"), "UH I ähm");
    }

    #[test]
    fn a_broken_pattern_is_a_usage_error() {
        for pattern in ["(", "a)|(b"] {
            let options = NormaliseOptions { noise: Some(pattern.into()), ..Default::default() };
            assert!(matches!(Normaliser::new(&options), Err(Error::Usage(_))), "{pattern}");
        }
    }

    #[test]
    fn units_are_words_or_characters() {
        assert_eq!(units(" A  BC ", Unit::Word), ["A", "BC"]);
        assert_eq!(units(" 你好 é", Unit::Char), ["你", "好", "é"]);
        assert!(units("", Unit::Word).is_empty() && units(" ", Unit::Char).is_empty());
    }

    #[test]
    fn options_read_as_they_are_written() {
        let options = NormaliseOptions {
            case: Case::Lower,
            noise: Some(NOISE_TAGS.into()),
            fillers: vec!["uh".into()],
        };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<NormaliseOptions>(&text).unwrap(), options);
        assert!(serde_json::from_str::<NormaliseOptions>(r#"{"cases":"lower"}"#).is_err());
    }
}
