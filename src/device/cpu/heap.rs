//! Memory of what operations make: a heap in large pages, which it keeps. Batches differ in size, so blocks are cut to what
//! is asked for, and neighbours that are free become one again: what a step needs at once is about all that it takes.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapRaw;

use super::buffer::Line;
use super::pages;
use crate::device::free::Free;

#[derive(Debug, Clone, Default)]
pub(super) struct Heap(Arc<Mutex<Mappings>>);

/// Lines of a heap, of any content. They go back to it when dropped.
#[derive(Debug)]
pub(super) struct Block {
    first: NonNull<Line>,
    len: usize,
    heap: Heap,
}

/// The mappings of a heap by where they start, and what of them is free.
#[derive(Debug, Default)]
struct Mappings {
    all: BTreeMap<u64, MmapRaw>,
    free: Free,
}

impl Heap {
    /// `len` lines, of which there is at least one.
    pub fn take(&self, len: usize) -> Block {
        Block { first: self.lock().take(len), len, heap: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Mappings> {
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
        self.heap.lock().free.give(self.first.addr().get() as u64, self.len * size_of::<Line>());
    }
}

impl Mappings {
    fn take(&mut self, len: usize) -> NonNull<Line> {
        let bytes = len * size_of::<Line>();
        let at = self.free.take(bytes, true).unwrap_or_else(|| {
            self.grow(bytes);
            self.free.take(bytes, true).expect("there is room now")
        });
        let (start, mapping) = self.all.range(..=at).next_back().expect("what is free lies in a mapping");
        // SAFETY: what is free lies in its mapping, which is not at null. Pages are aligned to more than a line is, and
        // blocks are whole lines.
        unsafe { NonNull::new_unchecked(mapping.as_mut_ptr().add((at - start) as usize).cast()) }
    }

    /// A new mapping of at least so many bytes, all of it free.
    fn grow(&mut self, bytes: usize) {
        let mapping = pages::map(pages::MAPPING.max(bytes)).unwrap_or_else(|| {
            handle_alloc_error(Layout::array::<u8>(bytes).expect("the length of a slice"))
        });
        let (at, bytes) = (mapping.as_mut_ptr().addr() as u64, mapping.len());
        self.all.insert(at, mapping);
        self.free.add(at, bytes);
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

    /// The number of a line in its mapping.
    fn place(mappings: &Mappings, at: u64) -> usize {
        let (start, _) = mappings.all.range(..=at).next_back().unwrap();
        (at - start) as usize / size_of::<Line>()
    }

    fn place_of(heap: &Heap, block: &Block) -> usize {
        place(&heap.lock(), block.first.addr().get() as u64)
    }

    /// The first line of each free block in its mapping, and its lines; the smallest first.
    fn free(heap: &Heap) -> Vec<(usize, usize)> {
        let mappings = heap.lock();
        let all = mappings.free.all().into_iter();
        all.map(|(at, bytes)| (place(&mappings, at), bytes / size_of::<Line>())).collect()
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
        assert_eq!(free(&heap), [(0, MAPPED)]);
    }

    #[test]
    fn the_smallest_block_that_suffices_is_cut() {
        let heap = Heap::default();
        let [a, _b, c, _d] = [300, 1, 200, 1].map(|len| heap.take(len));
        let [at_a, at_c] = [&a, &c].map(|block| place_of(&heap, block));
        drop((a, c));
        let again = heap.take(150);
        assert_eq!(place_of(&heap, &again), at_c);
        assert_eq!(free(&heap), [(at_c + 150, 50), (at_a, 300), (502, MAPPED - 502)]);
    }

    #[test]
    fn what_no_mapping_holds_gets_one_of_its_own() {
        let heap = Heap::default();
        let (_small, mut large) = (heap.take(1), heap.take(MAPPED + 5));
        write(&mut large, 3.0);
        assert!(holds(&large, 3.0) && place_of(&heap, &large) == 0 && heap.lock().all.len() == 2);
        drop(large);
        // Mappings stay apart though one may follow the other in memory.
        assert_eq!(free(&heap), [(1, MAPPED - 1), (0, MAPPED + 5)]);
    }
}
