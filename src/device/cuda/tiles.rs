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
    /// Rows and columns of a block's part of an f32 product, and how much of the sum it stages at once. The
    /// products of the head and of the correlation loss are small: large tiles would leave multiprocessors idle.
    GEMM_TILE = 32;
    /// Of an f32 product: each thread has 2 x 4 elements of the tile.
    GEMM_THREADS = 128;
    /// Floats from row to row of a staged tile: 4 more, so that 8 rows of 4 lie in distinct banks, and reads of
    /// 4 neighbours stay aligned.
    GEMM_STRIDE = GEMM_TILE + 4;
    /// Two tiles of either side: one is read while the next is written.
    GEMM_SHARED_BYTES = 4 * GEMM_TILE * GEMM_STRIDE * 4;
    /// Four rows a block, one warp each.
    CLASSIFIER_THREADS = 128;
    /// Of sums over rows: a warp's lanes are 32 columns, its rows every 32nd. There are few columns, so blocks
    /// are as large as they may be.
    COLUMN_SUM_THREADS = 1024;
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
