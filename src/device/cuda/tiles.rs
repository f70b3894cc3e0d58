//! Sizes that kernels and their launchers share, with the reasons for them. The build scripts include this
//! file and write [`HEADER`] as `tiles.h`, so that neither side can change alone.

/// Defines constants and lists them for the header.
macro_rules! shared_constants {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: u32 = $value;)*

        /// All of them, by name.
        pub const HEADER: &[(&str, u32)] = &[$((stringify!($name), $name)),*];
    };
}

shared_constants! {
    /// Four rows a block, one warp each: rows are short, and blocks of this size fill a multiprocessor. Rows
    /// are normalised so after an embedding too.
    LAYER_NORM_THREADS = 128;
    /// BERT-large's hidden size. 32 values a lane and row stay in registers; wider rows would spill.
    LAYER_NORM_WIDTH = 1024;
    /// Four warps, each with a row (or a part of one, to scatter): nothing is shared between them.
    GATHER_ROWS_THREADS = 128;
}

/// The content of `tiles.h`.
pub fn header() -> String {
    let line = |(name, value): &(&str, u32)| format!("constexpr unsigned {name} = {value};\n");
    "#pragma once\n".chars().chain(HEADER.iter().flat_map(|c| line(c).chars().collect::<Vec<_>>())).collect()
}
