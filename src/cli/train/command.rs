//! The command line, as it can be typed again.

/// What was typed to start this run. Without --resume, which is no part of what a run is.
pub fn typed() -> String {
    let arguments = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
    let arguments = arguments.filter(|a| a != "--resume").map(|a| quoted(&a));
    std::iter::once("lorb-engine".into()).chain(arguments).collect::<Vec<String>>().join(" ")
}

/// As a POSIX shell reads it back.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.into(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_shell_reads_back_what_was_quoted() {
        for argument in
            ["", "plain", "with space", "it's", "$(rm x)", "a\\b", "<[^>]*>", "é", "-n", "two\nlines"]
        {
            let script = format!("printf '%s' x{}", quoted(argument));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("x{argument}"));
        }
    }
}
