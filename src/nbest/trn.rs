//! Transcripts as NIST's scoring tools read them: lines of "words (id)".

/// The line of an utterance. sclite gives a meaning to some characters, so that it would compare other words than
/// these; not all of its versions can escape them, and so such words are refused.
///
/// # Errors
/// What is wrong with a word or with the id.
pub fn line(words: &[&str], id: &str) -> Result<String, String> {
    let bad_in_id = |c: char| c.is_whitespace() || c.is_control() || "()".contains(c);
    if id.is_empty() || id.contains(bad_in_id) {
        return Err(format!("its id {id:?} is empty, or has a space or a bracket in it"));
    }
    if let Some(word) = words.iter().find(|word| is_special(word)) {
        return Err(format!("sclite reads the word {word:?} as something else"));
    }
    let mut line = words.join(" ");
    line.push_str(&format!(" ({id})\n"));
    Ok(line)
}

/// Alternatives stand in braces, tags of a word follow a semicolon, a backslash escapes, an asterisk at the end of a
/// word is dropped and one at the start of a line begins a comment, and @ stands for no word.
fn is_special(word: &str) -> bool {
    word == "@" || word.contains(|c: char| c.is_control() || "{;\\*".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_words_and_id() {
        assert_eq!(line(&["A", "(B)", "<c/d>", "e@f}"], "s-1").unwrap(), "A (B) <c/d> e@f} (s-1)\n");
        assert_eq!(line(&[], "s_1").unwrap(), " (s_1)\n");
    }

    #[test]
    fn what_sclite_would_misread_is_refused() {
        for word in ["{", "a{b", "a;b", "a\\b", "*", "a*", "@", "a\u{0}"] {
            let refusal = line(&["a", word], "s-1").unwrap_err();
            assert!(refusal.contains(&format!("the word {word:?}")), "{refusal}");
        }
        for id in ["", "a b", "a(b", "a)", "a\n"] {
            assert!(line(&["a"], id).unwrap_err().contains("its id"), "{id:?}");
        }
    }
}
