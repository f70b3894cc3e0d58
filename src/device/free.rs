//! What is free of memory that was got in large pieces.

use std::collections::{BTreeMap, BTreeSet};

/// What nobody has of the pieces.
#[derive(Debug, Default)]
pub(super) struct Free {
    /// All pieces, by where they start.
    pieces: BTreeMap<u64, usize>,
    /// By where it starts; neighbours within a piece are one.
    by_address: BTreeMap<u64, usize>,
    /// The same by size: the smallest that is large enough is taken, so that large ones stay whole.
    by_size: BTreeSet<(usize, u64)>,
}

impl Free {
    /// A new piece, all of it free.
    pub fn add(&mut self, at: u64, bytes: usize) {
        self.pieces.insert(at, bytes);
        self.give(at, bytes);
    }

    /// One of this size, or the start of a larger one where it may be `cut`.
    pub fn take(&mut self, bytes: usize, cut: bool) -> Option<u64> {
        let &(size, at) =
            self.by_size.range((bytes, 0)..).next().filter(|(size, _)| cut || *size == bytes)?;
        self.remove(at, size);
        if size > bytes {
            self.insert(at + bytes as u64, size - bytes);
        }
        Some(at)
    }

    /// Forgets the pieces that nobody has a block of: where they are, and their bytes.
    pub fn take_whole_pieces(&mut self) -> Vec<(u64, usize)> {
        let free =
            |(at, bytes): (&u64, &usize)| (self.by_address.get(at) == Some(bytes)).then_some((*at, *bytes));
        let whole: Vec<_> = self.pieces.iter().filter_map(free).collect();
        for &(at, bytes) in &whole {
            self.pieces.remove(&at);
            self.remove(at, bytes);
        }
        whole
    }

    /// So many bytes of a piece are free (again).
    pub fn give(&mut self, mut at: u64, mut bytes: usize) {
        let after = at + bytes as u64;
        if let Some(&more) = self.by_address.get(&after).filter(|_| !self.pieces.contains_key(&after)) {
            self.remove(after, more);
            bytes += more;
        }
        let before = self.by_address.range(..at).next_back().map(|(&before, &size)| (before, size));
        if let Some((before, size)) = before.filter(|&(before, size)| before + size as u64 == at)
            && !self.pieces.contains_key(&at)
        {
            self.remove(before, size);
            (at, bytes) = (before, bytes + size);
        }
        self.insert(at, bytes);
    }

    /// Where it is free, and how many bytes; the smallest first.
    #[cfg(test)]
    pub fn all(&self) -> Vec<(u64, usize)> {
        let all: Vec<_> = self.by_size.iter().map(|&(bytes, at)| (at, bytes)).collect();
        assert_eq!(self.by_address, all.iter().copied().collect());
        all
    }

    fn insert(&mut self, at: u64, bytes: usize) {
        self.by_address.insert(at, bytes);
        self.by_size.insert((bytes, at));
    }

    fn remove(&mut self, at: u64, bytes: usize) {
        self.by_address.remove(&at);
        self.by_size.remove(&(bytes, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_again_within_a_piece() {
        let mut free = Free::default();
        // The second piece follows the first, and is not it.
        free.add(1000, 300);
        free.add(1300, 200);
        assert_eq!(free.all(), [(1300, 200), (1000, 300)]);
        assert_eq!(free.take(100, true), Some(1300), "the smallest that fits, from the front");
        assert_eq!(free.take(50, false), None);
        assert_eq!(free.take(100, false), Some(1400));
        assert_eq!([100, 200].map(|bytes| free.take(bytes, true)), [Some(1000), Some(1100)]);
        assert_eq!((free.take(1, true), free.all()), (None, vec![]));
        free.give(1200, 100);
        free.give(1000, 100);
        free.give(1100, 100);
        assert_eq!(free.all(), [(1000, 300)]);
        free.give(1300, 100);
        assert_eq!(free.all(), [(1300, 100), (1000, 300)]);
        assert_eq!(free.take_whole_pieces(), [(1000, 300)]);
        assert_eq!((free.pieces.len(), free.all()), (1, vec![(1300, 100)]));
    }
}
