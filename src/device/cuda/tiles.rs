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
    /// Of an f32 product: each thread of a half group has 4 x 4 elements of the tile.
    GEMM_GROUP_THREADS = 128;
    /// Groups take turns along the inner dimension: the [CLS] rows of a list are one tile high, so that there are
    /// fewer blocks than multiprocessors, and the time is that of one block's walk.
    GEMM_GROUPS = 4;
    GEMM_THREADS = GEMM_GROUPS * GEMM_GROUP_THREADS;
    /// Floats from row to row of a staged tile: 4 more, so that 8 rows of 4 lie in distinct banks, and reads of
    /// 4 neighbours stay aligned.
    GEMM_STRIDE = GEMM_TILE + 4;
    /// A tile of either side: the next ones wait in registers.
    GEMM_GROUP_BYTES = 2 * GEMM_TILE * GEMM_STRIDE * 4;
    GEMM_SHARED_BYTES = GEMM_GROUPS * GEMM_GROUP_BYTES;
    /// Of a block of the classifier, a warp for each: few, so that a thread has registers for all that it loads.
    CLASSIFIER_ROWS = 8;
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
    /// A block has an utterance: most have 30 hypotheses or so, and those of 1,024 take eight rounds.
    MWER_THREADS = 128;
    ADAMW_THREADS = 256;
    /// Parameters of a block of AdamW: eight a thread. Every block sums what all of them found, so there should
    /// not be many; 300,000 parameters, as query and value of BERT-base have, are 144 blocks.
    ADAMW_CHUNK = 2048;
    /// Element by element, or one thread an element of a small matrix: enough for every multiprocessor.
    ELEMENTWISE_THREADS = 256;
    /// Query, key and value.
    LINEAR_MODULES = 3;
    /// Beside activations of bf16, GELU' s is kept as the byte SLOPE_ZERO + SLOPE_STEPS s.
    SLOPE_ZERO = 26;
    SLOPE_STEPS = 202;
    /// Products on CUDA cores: tiles of this many rows and columns, 8x4 sums a thread.
    SIMT_TILE = 64;
    SIMT_THREADS = 128;
    /// Steps of the inner dimension: as long as the unit that ranks are rounded up to.
    SIMT_K = RANK_UNIT;
    /// Floats from row to row of a tile in shared memory: reading four is aligned, and writing column by column
    /// meets few bank conflicts.
    SIMT_PITCH = SIMT_TILE + 4;
    /// Ranks are rounded up to this: the inner dimension of one mma.
    RANK_UNIT = 16;
    /// Products on tensor cores: the step of the inner dimension. Two mma deep: rows of 64 bytes, which
    /// four lanes copy, and small enough that two blocks of the large tile fit a multiprocessor.
    MMA_K = 32;
    /// Eight warps of 64x32: four fragments of each operand meet in 16 products.
    LARGE_TILE = 128;
    LARGE_THREADS = 256;
    /// Four warps of 32x32, for where large tiles would leave multiprocessors idle.
    MEDIUM_TILE = 64;
    MEDIUM_THREADS = 128;
    /// Four warps of 16x16: few rows, so that the time is that of one block's walk along the inner
    /// dimension, and more blocks read the weights.
    SMALL_TILE = 32;
    SMALL_THREADS = 128;
    /// The skinny products S and U: 16 rows and 16 ranks a block, along the inner dimension by turns.
    DOWN_TILE = 16;
    DOWN_THREADS = 128;
    /// Products on Hopper's tensor cores: a warpgroup multiplies 64 rows, and two share each column of the
    /// weights. As many rows as a large tile, so that both cut a batch of several adapters alike.
    HOPPER_ROWS = LARGE_TILE;
    /// Two warpgroups.
    HOPPER_THREADS = 2 * 128;
    /// The second-level cache is what products wait for: 256 columns read the least of it for a sum. Two blocks of
    /// 128 columns fit a multiprocessor, and 64 columns give more blocks where there are few rows.
    HOPPER_BROAD = 256;
    HOPPER_WIDE = 128;
    HOPPER_NARROW = 64;
    /// The step of the inner dimension: the 128 bytes that a copied row has in shared memory.
    HOPPER_K = 64;
    /// dA and dB: four warps share the rows of a block. There are few columns, so blocks have few of them: the
    /// 128 bytes of bf16 that memory gives at once.
    REDUCE_THREADS = 128;
    REDUCE_COLUMNS = 64;
    /// Rows that a warp loads at once: two mma deep. Enough are on their way then to hide how long they take.
    REDUCE_STAGED = 32;
    /// Floats from rank to rank of a warp's sums in shared memory: 4 more than columns, so that the lanes of a
    /// fragment meet distinct banks.
    REDUCE_PITCH = REDUCE_COLUMNS + 4;
}

/// The content of `tiles.h`.
pub fn header() -> String {
    let line = |(name, value): &(&str, u32)| format!("constexpr unsigned {name} = {value};\n");
    HEADER.iter().fold("#pragma once\n".into(), |header, constant| header + &line(constant))
}

/// A size of tile for products on tensor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmaTile {
    Large,
    Medium,
    Small,
}

impl MmaTile {
    /// Rows, and as many columns.
    pub fn size(self) -> usize {
        (match self {
            MmaTile::Large => LARGE_TILE,
            MmaTile::Medium => MEDIUM_TILE,
            MmaTile::Small => SMALL_TILE,
        }) as usize
    }

    /// The largest tile that gives every multiprocessor a block. A larger one reads each operand less often;
    /// but a product of one list (1,000 rows, 768 columns) has 48 large tiles for the 108 multiprocessors of
    /// an A100, and its [CLS] rows fewer still. Splitting the inner dimension instead would make a row's
    /// result depend on how many others there are.
    pub fn choose(rows: usize, columns: usize, multiprocessors: u32) -> MmaTile {
        let fills = |tile: &MmaTile| {
            rows.div_ceil(tile.size()) * columns.div_ceil(tile.size()) >= multiprocessors as usize
        };
        [MmaTile::Large, MmaTile::Medium].into_iter().find(fills).unwrap_or(MmaTile::Small)
    }

    /// Bytes of one step's operands; the fused forms have 16 ranks more.
    fn stage_bytes(self, fused: bool) -> u32 {
        (2 * self.size() as u32 + if fused { RANK_UNIT } else { 0 }) * MMA_K * 2
    }

    /// How many steps are copied ahead or in use, between 3 and 5. Two blocks on a multiprocessor hide each
    /// other's barriers and epilogues, so they come first where that leaves three stages; past five stages
    /// the latency of memory is hidden already.
    pub fn stages(self, fused: bool, shared_bytes: u32) -> u32 {
        // A multiprocessor has what a block may take and the 1 KiB of it that the system takes for each.
        let of_two = (shared_bytes + 1024) / 2 - 1024;
        let fit = |shared: u32| (shared / self.stage_bytes(fused)).min(5);
        if fit(of_two) >= 3 { fit(of_two) } else { fit(shared_bytes).max(3) }
    }

    /// Shared memory of a block: the stages, or the sums of the tile in its epilogue, with eight columns more.
    pub fn shared_bytes(self, fused: bool, stages: u32) -> u32 {
        let size = self.size() as u32;
        (stages * self.stage_bytes(fused)).max(size * (size + 8) * 4)
    }
}

/// A tile of HOPPER_ROWS rows, by its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HopperTile {
    Broad,
    Wide,
    Narrow,
}

impl HopperTile {
    pub fn columns(self) -> u32 {
        match self {
            HopperTile::Broad => HOPPER_BROAD,
            HopperTile::Wide => HOPPER_WIDE,
            HopperTile::Narrow => HOPPER_NARROW,
        }
    }

    /// Of those for which there is room, the one with which the busiest multiprocessor reads the fewest rows and
    /// columns, of two alike the wider; and how many stages it has. None where there is room for none.
    pub fn choose(
        rows: usize,
        columns: usize,
        fused: bool,
        shared_bytes: u32,
        multiprocessors: u32,
    ) -> Option<(HopperTile, u32)> {
        let read = |tile: HopperTile| {
            let rounds = tile.blocks(rows, columns).div_ceil(multiprocessors as usize);
            rounds * (HOPPER_ROWS + tile.columns()) as usize
        };
        let stages = |tile: HopperTile| {
            let blocks = tile.blocks(rows, columns);
            Some((tile, tile.stages(fused, shared_bytes, blocks, multiprocessors)?))
        };
        let all = [HopperTile::Broad, HopperTile::Wide, HopperTile::Narrow];
        all.into_iter().filter_map(stages).min_by_key(|&(tile, _)| read(tile))
    }

    pub fn blocks(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(HOPPER_ROWS as usize) * columns.div_ceil(self.columns() as usize)
    }

    /// Bytes of one step's operands; the fused forms have 16 ranks more. Multiples of 1024, after which the
    /// swizzle repeats.
    fn stage_bytes(self, fused: bool) -> u32 {
        (HOPPER_ROWS + self.columns() + if fused { RANK_UNIT } else { 0 }) * HOPPER_K * 2
    }

    /// How many steps are copied ahead or in use: three at least and six at most. Where `blocks`, those of the grid,
    /// are more than there are multiprocessors, no more than let two share one, where one's epilogue hides behind
    /// the other's products; else two thirds of what there is may be taken, so that there is room for the first
    /// blocks of the next grid. A broad tile takes all there is. None where `shared_bytes`, the most that a block may
    /// take, has no room for three.
    pub fn stages(self, fused: bool, shared_bytes: u32, blocks: usize, multiprocessors: u32) -> Option<u32> {
        // A multiprocessor has what a block may take and the 1 KiB of it that the system takes for each.
        let of_two = (shared_bytes + 1024) / 2 - 1024;
        let share = match self {
            HopperTile::Broad => shared_bytes,
            _ if blocks > multiprocessors as usize => of_two,
            _ => shared_bytes / 3 * 2,
        };
        let fits = |shared: u32| (3..=6).rev().find(|&stages| self.shared_bytes(fused, stages) <= shared);
        fits(share).or_else(|| fits(shared_bytes))
    }

    /// Shared memory of a block: the stages, or the sums of the tile in its epilogue, with eight columns more;
    /// and two barriers for each stage.
    pub fn shared_bytes(self, fused: bool, stages: u32) -> u32 {
        (stages * self.stage_bytes(fused)).max(HOPPER_ROWS * (self.columns() + 8) * 4) + 2 * 8 * stages
    }
}

/// Rows that a block reduces for dA and dB: whole steps of all of its warps, and at most 32 chunks, so that
/// their sums are fewer than what is read.
pub fn reduce_rows(capacity: usize) -> usize {
    capacity.div_ceil(32).next_multiple_of((REDUCE_THREADS / 32 * REDUCE_STAGED) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_the_device() {
        // An A100 has 108 multiprocessors, an H100 132.
        assert_eq!(MmaTile::choose(8000, 768, 108), MmaTile::Large);
        assert_eq!(MmaTile::choose(1000, 2304, 108), MmaTile::Large);
        assert_eq!(MmaTile::choose(1000, 768, 108), MmaTile::Medium);
        assert_eq!(MmaTile::choose(1000, 768, 132), MmaTile::Medium);
        assert_eq!(MmaTile::choose(30, 3072, 108), MmaTile::Small);
        assert_eq!(MmaTile::choose(1, 1, 1), MmaTile::Large);
    }

    #[test]
    fn the_stages_fit_the_shared_memory() {
        // sm_86, sm_89 and sm_120; A100; H100.
        for (shared_kib, large, blocks) in [(99, 5, 1), (163, 4, 2), (227, 5, 2)] {
            let shared = shared_kib << 10;
            assert_eq!(MmaTile::Large.stages(true, shared), large, "{shared_kib} KiB");
            for tile in [MmaTile::Large, MmaTile::Medium, MmaTile::Small] {
                for fused in [false, true] {
                    let bytes = tile.shared_bytes(fused, tile.stages(fused, shared));
                    let resident = if tile == MmaTile::Large { blocks } else { 2 };
                    assert!(resident * (bytes + 1024) <= shared + 1024, "{tile:?}, {shared_kib} KiB");
                }
            }
        }
    }

    #[test]
    fn hopper_tiles_read_little_and_fill_the_device() {
        let choose = |rows, columns, shared_kib: u32| {
            HopperTile::choose(rows, columns, true, shared_kib << 10, 132).map(|(tile, _)| tile)
        };
        let of_h100 = |rows, columns| choose(rows, columns, 227).unwrap();
        assert_eq!(of_h100(4096, 3072), HopperTile::Broad);
        assert_eq!(of_h100(1100, 2304), HopperTile::Broad, "81 of them, 162 wide ones, or 324");
        assert_eq!(of_h100(750, 2304), HopperTile::Wide, "54, 108 or 216");
        assert_eq!(of_h100(1100, 768), HopperTile::Narrow);
        assert_eq!(of_h100(30, 3072), HopperTile::Narrow);
        assert_eq!(choose(4096, 3072, 104), Some(HopperTile::Wide));
        assert_eq!(choose(4096, 3072, 77), None);
    }

    #[test]
    fn hopper_stages_fit_the_shared_memory() {
        // H100; less, as if something else took it; the least, of one block; and too little. Of many blocks, and of
        // few.
        for (shared_kib, broad, wide, narrow) in [
            (227, Some(4), [Some(3), Some(4)], [Some(4), Some(5)]),
            (160, Some(3), [Some(4), Some(3)], [Some(3), Some(4)]),
            (103, None, [Some(3), Some(3)], [Some(3), Some(3)]),
            (77, None, [None, None], [None, None]),
        ] {
            let shared = shared_kib << 10;
            let stages = |tile: HopperTile| [200, 100].map(|blocks| tile.stages(true, shared, blocks, 132));
            assert_eq!(stages(HopperTile::Broad)[0], broad, "{shared_kib} KiB");
            assert_eq!(stages(HopperTile::Wide), wide, "{shared_kib} KiB");
            assert_eq!(stages(HopperTile::Narrow), narrow, "{shared_kib} KiB");
            for tile in [HopperTile::Broad, HopperTile::Wide, HopperTile::Narrow] {
                for (fused, blocks) in [(false, 200), (true, 200), (false, 100), (true, 100)] {
                    let Some(stages) = tile.stages(fused, shared, blocks, 132) else { continue };
                    let shares = shared_kib == 227 && blocks == 200 && tile != HopperTile::Broad;
                    let resident = if shares { 2 } else { 1 };
                    assert!(resident * (tile.shared_bytes(fused, stages) + 1024) <= shared + 1024);
                    assert!(tile.stage_bytes(fused).is_multiple_of(1024));
                }
            }
        }
    }

    #[test]
    fn rows_are_reduced_in_few_chunks() {
        assert_eq!((reduce_rows(1), reduce_rows(4096), reduce_rows(4097)), (128, 128, 256));
        assert!(
            (1..10_000usize).all(|n| n.div_ceil(reduce_rows(n)) <= 32 && reduce_rows(n).is_multiple_of(128))
        );
    }
}
