//! The Parquet crate panics at some damaged files: that is an error of the file, not the end of the program.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic here is about a file, and told as its error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `read` gives; where it panics, what it said. What it was reading from must not be used after that.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                others(info);
            }
        }));
    });
    GUARDED.set(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    read.map_err(|said| match said.downcast_ref::<String>() {
        Some(said) => said.clone(),
        None => said.downcast_ref::<&str>().copied().unwrap_or("for no reason that it told").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(
            guarded(|| if true {
                panic!("plain")
            }),
            Err("plain".into())
        );
        let n = 7;
        assert_eq!(
            guarded(|| if true {
                panic!("number {n}")
            }),
            Err("number 7".into())
        );
        assert!(!GUARDED.get());
    }
}
