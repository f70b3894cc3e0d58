//! The command line, as it can be typed again.

use lorb_engine::text::shell_quoted;

/// What was typed to start this run. Without --resume, which is no part of what a run is.
pub fn typed() -> String {
    let arguments = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
    let arguments = arguments.filter(|a| a != "--resume").map(|a| shell_quoted(&a));
    std::iter::once("lorb-engine".into()).chain(arguments).collect::<Vec<String>>().join(" ")
}
