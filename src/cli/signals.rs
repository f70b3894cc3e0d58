//! What Ctrl-C and SIGTERM do: they end the program at once, and no file stays that is written in part. A command that
//! can save what it does asks for the first of them as a flag.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lorb_engine::{Error, Result, atomic};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Whether the first signal is waited for, and whether it has come.
static WAITED_FOR: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// Begins to watch for them.
pub fn watch() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|e| Error::io("signals", "watch for them", e))?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if !WAITED_FOR.load(Ordering::Relaxed) || STOP.swap(true, Ordering::Relaxed) {
                atomic::exit(128 + signal);
            }
        }
    });
    Ok(())
}

/// A flag that from now on the first signal sets, instead of ending the program; the second ends it as ever.
pub fn stop() -> &'static AtomicBool {
    WAITED_FOR.store(true, Ordering::Relaxed);
    &STOP
}
