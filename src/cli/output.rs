//! What the program says, without a panic where nobody listens.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use lorb_engine::{Error, Result};

/// Writes `text` to the standard output. It is no error when the reader has gone, as `head` does.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("<stdout>", "write it", e)),
        _ => Ok(()),
    }
}

/// Writes a line to the standard error, where there is one.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
