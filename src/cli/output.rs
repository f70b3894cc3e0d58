//! What the program says, without a panic where nobody listens.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line to the standard error, where there is one.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
