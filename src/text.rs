//! Text as other programs read it.

/// `bytes` in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `text` with a capital: what is kept names types and variants so.
pub fn capitalised(text: &str) -> String {
    let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + rest
}

/// The number that people would write: 0.1, not 0.10000000149011612.
pub fn plain(number: f32) -> f64 {
    number.to_string().parse().expect("a number is written as one")
}

/// An argument as a POSIX shell reads it back.
pub fn shell_quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.into(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_shell_reads_back_what_was_quoted() {
        for argument in
            ["", "plain", "with space", "it's", "$(rm x)", "a\\b", "<[^>]*>", "é", "-n", "two\nlines"]
        {
            let script = format!("printf '%s' x{}", shell_quoted(argument));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("x{argument}"));
        }
    }
}
