//! Row numbers, token ids and offsets on the device, with what the host knows of them.

use std::sync::Arc;

use super::memory::Block;
use super::{Address, Cuda, Rows};

/// Row numbers, token ids or offsets on the device, and for row numbers the way back.
#[derive(Clone)]
pub struct Index {
    block: Arc<Block>,
    /// In bytes.
    offset: usize,
    rows: Rows,
    bounds: Bounds,
    inverse: Option<Inverse>,
}

/// What is known of numbers that kernels follow: so that none is given those that lead out of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// One more than the largest.
    below: usize,
    /// Whether none is less than the one before it.
    ascend: bool,
}

impl Bounds {
    /// Of these numbers.
    pub fn of(values: &[u32]) -> Bounds {
        let below = values.iter().max().map_or(0, |&largest| largest as usize + 1);
        Bounds { below, ascend: values.is_sorted() }
    }

    /// Of numbers of rows, of which there are so many.
    pub fn numbers_of(rows: usize) -> Bounds {
        Bounds { below: rows, ascend: false }
    }

    /// Of offsets that cut so many rows into sequences, or the first of them.
    pub fn offsets_of(rows: usize) -> Bounds {
        Bounds { below: rows + 1, ascend: true }
    }

    /// Whether numbers with these bounds keep to `wider` ones.
    pub fn keep_to(self, wider: Bounds) -> bool {
        self.below <= wider.below && (self.ascend || !wider.ascend)
    }
}

/// For each row that an index may name, who names it: the places of row r are
/// `places[starts[r]..starts[r + 1]]`, in order.
#[derive(Clone)]
struct Inverse {
    /// In bytes, in the block.
    starts: usize,
    places: usize,
    /// The rows that may be named.
    rows: Rows,
}

impl Index {
    /// With these numbers, and no way back.
    pub(super) fn new(cuda: &Cuda, values: &[u32]) -> Index {
        let block = cuda.block(size_of_val(values));
        cuda.write(&block, values);
        let (block, rows, bounds) = (Arc::new(block), Rows::all(values.len()), Bounds::of(values));
        Index { block, offset: 0, rows, bounds, inverse: None }
    }

    /// Numbers that lie in `block` from byte `offset` on, and are not scattered by. Whoever writes them there
    /// sees to it that those in use keep to `bounds`.
    pub(crate) fn within(block: Arc<Block>, offset: usize, rows: Rows, bounds: Bounds) -> Index {
        Index { block, offset, rows, bounds, inverse: None }
    }

    /// [len] u32.
    pub fn address(&self) -> Address {
        self.block.address().offset(self.offset)
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The same memory, of which as many rows are in use.
    ///
    /// # Panics
    /// Where there is less room than `rows` asks for.
    pub fn with_rows(&self, rows: Rows) -> Index {
        assert!(rows.capacity <= self.rows.capacity, "no room for so many rows");
        Index { rows, ..self.clone() }
    }

    /// Where `starts` and `places` lie, and the rows that the index may name.
    ///
    /// # Panics
    /// For an index that was not made with `row_index`.
    pub fn inverse(&self) -> (Address, Address, &Rows) {
        let Inverse { starts, places, rows } = self.inverse.as_ref().expect("made with row_index");
        (self.block.address().offset(*starts), self.block.address().offset(*places), rows)
    }
}

impl Cuda {
    /// Numbers of `destinations`, with room for `sources` of them.
    ///
    /// # Panics
    /// Where there is no room, or no such destination.
    pub fn row_index_within(&self, values: &[u32], sources: Rows, destinations: Rows) -> Index {
        let (mut starts, mut places) = inverse(values, destinations.capacity);
        assert!(values.len() <= sources.capacity, "no room for so many rows");
        // What no kernel should read must lead nowhere else where one does.
        let mut numbers = values.to_vec();
        numbers.resize(sources.capacity, 0);
        places.resize(sources.capacity, 0);
        let bounds = Bounds::of(&numbers);
        let starts_at = size_of_val(&numbers[..]);
        let places_at = starts_at + size_of_val(&starts[..]);
        numbers.append(&mut starts);
        numbers.append(&mut places);
        let block = self.block(size_of_val(&numbers[..]));
        self.write(&block, &numbers);
        let inverse = Some(Inverse { starts: starts_at, places: places_at, rows: destinations });
        Index { block: Arc::new(block), offset: 0, rows: sources, bounds, inverse }
    }
}

/// For each row below `rows`, where its places start, and all places by row, in order.
fn inverse(values: &[u32], rows: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; rows + 1];
    for &row in values {
        starts[row as usize + 1] += 1;
    }
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let mut next = starts.clone();
    let mut places = vec![0u32; values.len()];
    for (place, &row) in values.iter().enumerate() {
        places[next[row as usize] as usize] = place as u32;
        next[row as usize] += 1;
    }
    (starts, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_a_row_are_in_order() {
        assert_eq!(inverse(&[2, 0, 2, 3, 2], 5), (vec![0, 1, 1, 4, 5, 5], vec![1, 0, 2, 4, 3]));
        assert_eq!(inverse(&[], 2), (vec![0; 3], vec![]));
    }

    #[test]
    fn bounds_are_kept_by_what_lies_within_them() {
        let of = Bounds::of;
        assert!(
            of(&[3, 0, 1]).keep_to(Bounds::numbers_of(4)) && !of(&[3, 0, 1]).keep_to(Bounds::numbers_of(3))
        );
        assert!(
            of(&[0, 2, 2, 4]).keep_to(Bounds::offsets_of(4))
                && !of(&[0, 2, 5]).keep_to(Bounds::offsets_of(4))
        );
        assert!(!of(&[0, 3, 2]).keep_to(Bounds::offsets_of(4)), "they descend");
        assert!(of(&[]).keep_to(Bounds::numbers_of(0)) && !of(&[u32::MAX]).keep_to(Bounds::numbers_of(7)));
        assert!(!Bounds::numbers_of(2).keep_to(Bounds::offsets_of(4)), "nobody knows");
    }
}
