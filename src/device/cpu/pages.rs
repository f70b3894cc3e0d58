//! Memory in large pages. A product walks through weights by the megabyte: in pages of 4 KiB it misses the table of
//! addresses so often that a list took 5 % longer (MiniLM, one core with AVX2 in a virtual machine).

use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{MmapMut, MmapRaw};

use super::buffer::Line;

/// Bytes that are mapped together: many large pages (2 MiB), since those at the ends may be small ones. What is never
/// touched takes no memory.
pub(super) const MAPPING: usize = 32 << 20;

/// Lines of a mapping that others share, zero at first. The mapping goes with the last of its pieces.
#[derive(Debug)]
pub(super) struct Piece {
    first: NonNull<Line>,
    len: usize,
    _mapping: Arc<MmapRaw>,
}

// SAFETY: the lines belong to this piece alone, as those of a `Vec` do.
unsafe impl Send for Piece {}
// SAFETY: as above; a shared piece is only read.
unsafe impl Sync for Piece {}

/// The mapping that the next pieces come from, and how many of its lines are taken.
static OPEN: Mutex<(Weak<MmapRaw>, usize)> = Mutex::new((Weak::new(), 0));

impl Piece {
    /// `len` lines; `None` where the system maps no more memory.
    pub fn new(len: usize) -> Option<Piece> {
        let line = size_of::<Line>();
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let room = open.0.upgrade().filter(|m| m.len() / line - open.1 >= len);
        let mapping = match room {
            Some(mapping) => mapping,
            None => {
                let mapping = Arc::new(map(MAPPING.max(len * line))?);
                *open = (Arc::downgrade(&mapping), 0);
                mapping
            }
        };
        // SAFETY: lines `open.1..open.1 + len` lie inside the mapping, by the test above; pages are aligned to more than
        // a line is. They were handed to nobody before, since `open.1` only grows.
        let first = unsafe { NonNull::new_unchecked(mapping.as_mut_ptr().cast::<Line>().add(open.1)) };
        open.1 += len;
        Some(Piece { first, len, _mapping: mapping })
    }

    pub fn lines(&self) -> &[Line] {
        // SAFETY: the lines are this piece's, and any bytes are floats.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }

    pub fn lines_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above, and the piece is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

/// Zeros in large pages; `None` where the system maps no more memory.
pub(super) fn map(bytes: usize) -> Option<MmapRaw> {
    let mapping = MmapMut::map_anon(bytes).ok()?;
    // Where there are no large pages, small ones do.
    #[cfg(target_os = "linux")]
    let _ = mapping.advise(memmap2::Advice::HugePage);
    Some(mapping.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zero_and_apart() {
        let len = MAPPING / size_of::<Line>() / 3;
        let mut pieces: Vec<Piece> = (0..7).map(|_| Piece::new(len).unwrap()).collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            let floats: &mut [f32] = bytemuck::cast_slice_mut(piece.lines_mut());
            assert!(floats.iter().all(|&x| x == 0.0));
            floats.fill(i as f32);
        }
        pieces.remove(3);
        let large = Piece::new(MAPPING / size_of::<Line>() + 1).unwrap();
        assert!(bytemuck::cast_slice::<_, f32>(large.lines()).iter().all(|&x| x == 0.0));
        for (piece, i) in pieces.iter().zip([0.0, 1.0, 2.0, 4.0, 5.0, 6.0]) {
            assert!(bytemuck::cast_slice::<_, f32>(piece.lines()).iter().all(|&x| x == i));
        }
    }
}
