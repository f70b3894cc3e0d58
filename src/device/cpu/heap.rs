//! Memory of what operations make: a heap in large pages, which it keeps. Batches differ in size, so blocks are cut to what
//! is asked for, and neighbours that are free become one again: what a step needs at once is about all that it takes.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapRaw;

use super::buffer::Line;
use super::pages;

#[derive(Debug, Clone, Default)]
pub(super) struct Heap(Arc<Mutex<Blocks>>);

/// Lines of a heap, of any content. They go back to it when dropped.
#[derive(Debug)]
pub(super) struct Block {
    place: Place,
    first: NonNull<Line>,
    len: usize,
    heap: Heap,
}

/// The number of a mapping, and of a line in it.
type Place = (usize, usize);

/// The mappings of a heap, and what of them is free.
#[derive(Debug, Default)]
struct Blocks {
    mappings: Vec<MmapRaw>,
    /// Lines of each free block. No two of them touch.
    free: BTreeMap<Place, usize>,
    /// The same by their lines.
    by_len: BTreeSet<(usize, Place)>,
}

impl Heap {
    /// `len` lines, of which there is at least one.
    pub fn take(&self, len: usize) -> Block {
        let (place, first) = self.lock().take(len);
        Block { place, first, len, heap: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: the lines belong to this block alone, as those of a `Vec` do.
unsafe impl Send for Block {}
// SAFETY: as above; a shared block is only read.
unsafe impl Sync for Block {}

impl Block {
    pub fn lines(&self) -> &[Line] {
        // SAFETY: the lines are this block's, in a mapping that its heap keeps, and any bytes are floats.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }

    pub fn lines_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above, and the block is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.heap.lock().give(self.place, self.len);
    }
}

impl Blocks {
    /// Of the blocks that suffice the smallest, and of those the first.
    fn take(&mut self, len: usize) -> (Place, NonNull<Line>) {
        let found = self.by_len.range((len, (0, 0))..).next().copied();
        let (whole, place) = found.unwrap_or_else(|| self.grow(len));
        self.remove(place, whole);
        let (mapping, first) = place;
        if whole > len {
            self.insert((mapping, first + len), whole - len);
        }
        let lines = self.mappings[mapping].as_mut_ptr().cast::<Line>();
        // SAFETY: the lines of a free block lie in its mapping, which is not at null. Pages are aligned to more than a
        // line is.
        (place, unsafe { NonNull::new_unchecked(lines.add(first)) })
    }

    fn give(&mut self, (mapping, mut first): Place, mut len: usize) {
        let after = (mapping, first + len);
        if let Some(&more) = self.free.get(&after) {
            self.remove(after, more);
            len += more;
        }
        let before = self.free.range((mapping, 0)..(mapping, first)).next_back();
        if let Some((&place, &more)) = before.filter(|&(&(_, at), &more)| at + more == first) {
            self.remove(place, more);
            first = place.1;
            len += more;
        }
        self.insert((mapping, first), len);
    }

    /// A new mapping as a free block of at least so many lines.
    fn grow(&mut self, len: usize) -> (usize, Place) {
        let bytes = pages::MAPPING.max(len * size_of::<Line>());
        let mapping = pages::map(bytes).unwrap_or_else(|| {
            handle_alloc_error(Layout::array::<Line>(len).expect("the length of a slice"))
        });
        let found = (mapping.len() / size_of::<Line>(), (self.mappings.len(), 0));
        self.mappings.push(mapping);
        self.insert(found.1, found.0);
        found
    }

    fn insert(&mut self, place: Place, len: usize) {
        self.free.insert(place, len);
        self.by_len.insert((len, place));
    }

    fn remove(&mut self, place: Place, len: usize) {
        self.free.remove(&place);
        self.by_len.remove(&(len, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPED: usize = pages::MAPPING / size_of::<Line>();

    fn write(block: &mut Block, value: f32) {
        bytemuck::cast_slice_mut::<_, f32>(block.lines_mut()).fill(value);
    }

    fn holds(block: &Block, value: f32) -> bool {
        bytemuck::cast_slice::<_, f32>(block.lines()).iter().all(|&x| x == value)
    }

    fn free(heap: &Heap) -> Vec<(Place, usize)> {
        let blocks = heap.lock();
        assert_eq!(blocks.free.len(), blocks.by_len.len());
        assert!(blocks.free.iter().all(|(&place, &len)| blocks.by_len.contains(&(len, place))));
        blocks.free.iter().map(|(&place, &len)| (place, len)).collect()
    }

    #[test]
    fn blocks_do_not_overlap_and_become_one_again() {
        let heap = Heap::default();
        let mut seed = 1u64;
        let mut held: Vec<(Block, f32)> = Vec::new();
        for i in 0..4000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = (seed >> 33) as usize;
            if held.len() > 20 || (random & 1 == 1 && !held.is_empty()) {
                let (block, value) = held.swap_remove(random / 2 % held.len());
                assert!(holds(&block, value), "another block wrote into this one");
            } else {
                let mut block = heap.take(1 + random / 2 % 3000);
                write(&mut block, i as f32);
                held.push((block, i as f32));
            }
        }
        assert!(held.iter().all(|(block, value)| holds(block, *value)));
        drop(held);
        assert_eq!(free(&heap), [((0, 0), MAPPED)]);
    }

    #[test]
    fn the_smallest_block_that_suffices_is_cut() {
        let heap = Heap::default();
        let [a, _b, c, _d] = [300, 1, 200, 1].map(|len| heap.take(len));
        let [at_a, at_c] = [a.place, c.place];
        drop((a, c));
        let again = heap.take(150);
        assert_eq!(again.place, at_c);
        assert_eq!(free(&heap), [(at_a, 300), ((0, at_c.1 + 150), 50), ((0, 502), MAPPED - 502)]);
    }

    #[test]
    fn what_no_mapping_holds_gets_one_of_its_own() {
        let heap = Heap::default();
        let (_small, mut large) = (heap.take(1), heap.take(MAPPED + 5));
        write(&mut large, 3.0);
        assert!(holds(&large, 3.0) && large.place == (1, 0));
        drop(large);
        // Mappings stay apart though one may follow the other in memory.
        assert_eq!(free(&heap), [((0, 1), MAPPED - 1), ((1, 0), MAPPED + 5)]);
    }
}
