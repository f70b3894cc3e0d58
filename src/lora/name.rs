//! Names of adapters, which are names of folders and of nothing else.

/// The longest name, in bytes.
const MAX: usize = 128;

/// For people: what a name may be.
pub(crate) const RULE: &str =
    "a name has letters, digits, '.', '_' and '-', 128 at most, and does not begin with '.'";

/// Whether `name` is one: letters, digits, `.`, `_` and `-`, not starting with a dot. So it has no path in it.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= MAX && name.chars().all(plain) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_directory() {
        for good in ["legal", "en-US_v2.1", "a..b", "0"] {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(MAX + 1);
        for bad in ["", ".", "..", "../x", "/etc", "a/b", "a\\b", ".hidden", "a b", "é", "a\0", "C:", &long]
        {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
