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
    /// Four rows a block, one warp each: rows are short, and blocks of this size fill a multiprocessor.
    LAYER_NORM_THREADS = 128;
    /// BERT-large's hidden size. 32 values a lane and row stay in registers; wider rows would spill.
    LAYER_NORM_WIDTH = 1024;
    /// Four warps share the keys and values of one head of one sequence.
    ATTENTION_THREADS = 128;
    /// The largest size of a head: 4 columns a lane. BERT's heads have 32 or 64.
    ATTENTION_HEAD_SIZE = 128;
    /// Without tensor cores, a warp reads each key once for this many queries: they fit one 16-byte load.
    ATTENTION_WARP_ROWS = 4;
    /// Queries and keys of a tile on tensor cores, 16 a warp: sentences of 20 to 60 tokens are one tile. More
    /// would leave warps idle, and the backward pass no room below 48 KiB of shared memory.
    ATTENTION_TILE = 64;
}

/// The content of `tiles.h`.
pub fn header() -> String {
    let line = |(name, value): &(&str, u32)| format!("constexpr unsigned {name} = {value};\n");
    "#pragma once\n".chars().chain(HEADER.iter().flat_map(|c| line(c).chars().collect::<Vec<_>>())).collect()
}
