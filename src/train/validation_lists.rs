//! The lists that a run chooses on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which lists the best epoch and the weights are chosen on.
#[derive(Debug, Clone, PartialEq)]
pub enum ValidationLists {
    /// So many of the training lists, between 0 and 1, drawn by the seed and kept for that.
    Fraction(f64),
    File(PathBuf),
}

impl ValidationLists {
    /// As a model card has it.
    pub(super) fn describe(&self, seed: u64) -> String {
        match self {
            ValidationLists::Fraction(fraction) => format!("{fraction} of the training lists, seed {seed}"),
            ValidationLists::File(file) => file.display().to_string(),
        }
    }
}

/// A number is a fraction; a file that is called so has a path as well, `./0.2`.
impl FromStr for ValidationLists {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(fraction) if fraction > 0.0 && fraction < 1.0 => Ok(ValidationLists::Fraction(fraction)),
            Ok(_) => Err("expected a list file, or a fraction between 0 and 1".into()),
            Err(_) => Ok(ValidationLists::File(text.into())),
        }
    }
}

impl fmt::Display for ValidationLists {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ValidationLists::Fraction(fraction) => fraction.fmt(f),
            ValidationLists::File(file) => file.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_fraction_and_the_rest_a_file() {
        assert_eq!("0.25".parse(), Ok(ValidationLists::Fraction(0.25)));
        for file in ["./0.25", "dev.jsonl"] {
            assert_eq!(file.parse(), Ok(ValidationLists::File(file.into())));
        }
        for text in ["0.2", "./0.25"] {
            assert_eq!(text.parse::<ValidationLists>().unwrap().to_string(), text);
        }
        for number in ["0", "1", "-0.1", "2", "nan", "inf"] {
            assert!(number.parse::<ValidationLists>().is_err(), "{number}");
        }
    }
}
