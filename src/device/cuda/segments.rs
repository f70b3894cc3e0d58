//! Which adapter each row of a batch belongs to, as kernels look it up: the rows cut into tiles of one adapter
//! each, for every height of tile.

use std::sync::Arc;

use super::driver::Address;
use super::memory::Block;
use super::{Cuda, tiles};
use crate::device::Run;

/// Those of all kernels that read the operands of a row's adapter.
const HEIGHTS: [usize; 4] = [
    tiles::DOWN_TILE as usize,
    tiles::SMALL_TILE as usize,
    tiles::MEDIUM_TILE as usize,
    tiles::LARGE_TILE as usize,
];
/// u32 of a `RowTile` of kernels/common/row_tile.cuh: the first row, their end, the adapter.
const NUMBERS: usize = 3;

/// Which adapter each row of a batch belongs to.
pub struct Segments {
    block: Arc<Block>,
    /// In bytes.
    offset: usize,
    room: Room,
    adapters: usize,
}

/// What tables have room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub rows: usize,
    pub runs: usize,
}

impl Room {
    /// Of tiles in the table for this height: each run may end with one that is not full.
    fn tiles(self, height: usize) -> usize {
        self.rows / height + self.runs
    }

    /// u32 of all tables together.
    pub fn numbers(self) -> usize {
        HEIGHTS.iter().map(|&height| NUMBERS * self.tiles(height)).sum()
    }

    /// Writes the tables of `runs`. Tiles that are left over have no rows: their blocks end at once.
    ///
    /// # Panics
    /// Where there is no room.
    pub fn write(self, runs: &[Run], mut to: &mut [u32]) {
        let rows: usize = runs.iter().map(|run| run.rows).sum();
        assert!(rows <= self.rows && runs.len() <= self.runs, "no room for the segments");
        for height in HEIGHTS {
            let (table, rest) = to.split_at_mut(NUMBERS * self.tiles(height));
            to = rest;
            table.fill(0);
            let mut tiles = table.chunks_exact_mut(NUMBERS);
            let mut first = 0;
            for run in runs {
                let end = first + run.rows;
                for start in (first..end).step_by(height) {
                    let tile = [start, (start + height).min(end), run.adapter].map(|n| n as u32);
                    tiles.next().expect("a tile for each").copy_from_slice(&tile);
                }
                first = end;
            }
        }
    }
}

impl Segments {
    pub(super) fn new(cuda: &Cuda, runs: &[Run]) -> Segments {
        let room = Room { rows: runs.iter().map(|run| run.rows).sum(), runs: runs.len() };
        let mut numbers = vec![0; room.numbers()];
        room.write(runs, &mut numbers);
        let block = cuda.block(size_of_val(&numbers[..]));
        cuda.write(&block, &numbers);
        let adapters = runs.iter().map(|run| run.adapter + 1).max().unwrap_or(0);
        Segments::within(Arc::new(block), 0, room, adapters)
    }

    /// Tables that [`Room::write`] fills, in `block` from byte `offset` on; they name adapters below `adapters`.
    pub(crate) fn within(block: Arc<Block>, offset: usize, room: Room, adapters: usize) -> Segments {
        assert!(offset + size_of::<u32>() * room.numbers() <= block.bytes() || block.bytes() == 0);
        Segments { block, offset, room, adapters }
    }

    pub fn rows(&self) -> usize {
        self.room.rows
    }

    /// One more than the largest number of an adapter.
    pub fn adapters(&self) -> usize {
        self.adapters
    }

    /// The table for tiles of this height, and how many they are.
    pub(crate) fn table(&self, height: usize) -> (Address, usize) {
        let before = HEIGHTS.iter().take_while(|&&h| h != height);
        let before: usize = before.map(|&h| NUMBERS * self.room.tiles(h)).sum();
        assert!(HEIGHTS.contains(&height), "no tables for tiles of {height} rows");
        (self.block.address().offset(self.offset + size_of::<u32>() * before), self.room.tiles(height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_each_run_and_none_straddles_two() {
        let runs = [(1, 2), (35, 0), (0, 1), (200, 1)].map(|(rows, adapter)| Run { rows, adapter });
        let room = Room { rows: 236, runs: 4 };
        let mut numbers = vec![7; room.numbers()];
        room.write(&runs, &mut numbers);
        let mut rest = &numbers[..];
        for height in HEIGHTS {
            let (table, after) = rest.split_at(NUMBERS * room.tiles(height));
            rest = after;
            let mut owners = Vec::new();
            for tile in table.chunks_exact(NUMBERS) {
                assert!(
                    tile[1] - tile[0] <= height as u32
                        && (tile[0] == tile[1] || tile[0] == owners.len() as u32)
                );
                owners.extend((tile[0]..tile[1]).map(|_| tile[2]));
            }
            assert_eq!(owners, [vec![2; 1], vec![0; 35], vec![1; 200]].concat(), "{height}");
        }
        assert!(rest.is_empty());
    }
}
