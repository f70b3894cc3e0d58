//! How large the operations are that a check runs.

/// Sizes of all checks.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Columns of activations: a multiple of 64.
    pub hidden: usize,
    /// Columns of the feed-forward layer.
    pub wide: usize,
    /// Of linear layers, which choose their tiles by it.
    pub rows: &'static [usize],
    /// Tokens of the sequences of a batch.
    pub lengths: &'static [usize],
    pub heads: usize,
    /// Hypotheses of the utterances of a step.
    pub lists: &'static [usize],
    /// Of AdamW.
    pub parameters: usize,
}

impl Sizes {
    /// Edges within tiles of every kind, on a device of few multiprocessors.
    pub const SMALL: Sizes = Sizes {
        hidden: 64,
        wide: 384,
        rows: &[5, 130],
        lengths: &[3, 17, 70, 1],
        heads: 2,
        lists: &[7, 1, 35],
        parameters: 5000,
    };

    /// BERT-base, with a list of 30 sentences and two long ones: on a GPU of 49 to 192 multiprocessors, every
    /// kind of tile (see `tiles`).
    pub const PRODUCTION: Sizes = Sizes {
        hidden: 768,
        wide: 3072,
        rows: &[30, 250, 450, 1000],
        lengths: &[
            23, 41, 35, 58, 29, 33, 37, 26, 44, 21, 31, 39, 28, 36, 52, 24, 30, 47, 34, 27, 32, 40, 25, 38,
            43, 22, 36, 31, 29, 60, 130, 300,
        ],
        heads: 12,
        lists: &[30, 8, 30, 100, 16],
        parameters: 300_000,
    };

    pub(super) fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::tiles::HopperTile::{self, Broad, Narrow, Wide};
    use crate::device::cuda::tiles::MmaTile::{self, Large, Medium, Small};

    /// The tiles of the layers into and out of the feed-forward layer, forward, which are those of the other,
    /// backward.
    fn tiles(sizes: &Sizes, multiprocessors: u32) -> [Vec<MmaTile>; 2] {
        [sizes.wide, sizes.hidden].map(|columns| {
            sizes.rows.iter().map(|&rows| MmaTile::choose(rows, columns, multiprocessors)).collect()
        })
    }

    #[test]
    fn every_kind_of_tile_is_checked() {
        for multiprocessors in [49, 58, 84, 108, 114, 128, 132, 148, 170, 192] {
            let [of_wide, _] = tiles(&Sizes::PRODUCTION, multiprocessors);
            assert!([Small, Medium, Large].iter().all(|tile| of_wide.contains(tile)), "{multiprocessors}");
        }
        // The emulated device.
        assert_eq!(tiles(&Sizes::SMALL, 4), [[Medium, Large], [Small, Small]]);
    }

    #[test]
    fn every_kind_of_hopper_tile_is_checked() {
        let tiles = |sizes: &Sizes, multiprocessors| {
            let tile =
                |&rows| HopperTile::choose(rows, sizes.wide, true, 227 << 10, multiprocessors).unwrap().0;
            sizes.rows.iter().map(tile).collect::<Vec<_>>()
        };
        // The H100 of PCIe, and those of SXM.
        for multiprocessors in [114, 132] {
            assert_eq!(tiles(&Sizes::PRODUCTION, multiprocessors), [Narrow, Narrow, Wide, Broad]);
        }
        // The emulated device; the layers out of the feed-forward layer are narrow.
        assert_eq!(tiles(&Sizes::SMALL, 4), [Wide, Broad]);
    }
}
