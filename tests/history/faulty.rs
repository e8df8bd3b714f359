//! A simple heap with one of several faults planted in it.

use super::heap::Heap;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// A block of a kilobyte or more begins within the one before it.
    Overlap,
    /// A block is handed out again while it is still in use.
    HandedOutTwice,
    /// Resizing to 5,000 bytes or more loses the last word.
    LostTail,
    /// Freeing scribbles on the next block in memory.
    Scribble,
    /// Alignments above 4 KiB are halved.
    HalfAligned,
    /// The last byte of 700 and more zeroed bytes is not.
    NotZeroed,
    /// Resizing one block changes the usable size of all.
    UsableChanges,
    /// The usable size of 3,000 bytes and more is one too small.
    UsableShort,
    /// A sized free of 2,000 bytes and more forgets the block.
    Leak,
}

#[derive(Default)]
struct State {
    /// What was handed out, with its usable size.
    blocks: BTreeMap<usize, usize>,
    last: Option<(usize, usize)>,
    resized: bool,
    /// All memory obtained. It is given back at the end only, so that the
    /// model may look at what it believes to be live.
    memory: Vec<(usize, Layout)>,
}

pub struct Planted {
    fault: Fault,
    state: Mutex<State>,
}

const GRAIN: usize = 16;

impl Planted {
    pub fn new(fault: Fault) -> Planted {
        Planted { fault, state: Mutex::default() }
    }

    fn obtain(&self, size: usize, align: usize, zeroed: bool) -> *mut u8 {
        let mut state = self.state.lock().unwrap();
        let mut usable = size.next_multiple_of(GRAIN);
        // Aligned to twice as much, a halved alignment is always seen.
        let layout =
            Layout::from_size_align(usable + 2 * align.max(GRAIN), 2 * align.max(GRAIN)).unwrap();
        // SAFETY: the layout's size is above zero.
        let mut ptr = unsafe { System.alloc_zeroed(layout) };
        state.memory.push((ptr.addr(), layout));
        match (self.fault, state.last) {
            (Fault::HalfAligned, _) if align > 4096 => ptr = ptr.wrapping_add(align / 2),
            (Fault::Overlap, Some((last, len))) if size >= 1000 && len >= size + GRAIN => {
                ptr = (last + GRAIN) as *mut u8;
            }
            (Fault::HandedOutTwice, Some((last, len)))
                if len > 64 && size > 64 && size <= len && last % align == 0 =>
            {
                ptr = last as *mut u8;
            }
            // SAFETY: within the block.
            (Fault::NotZeroed, _) if zeroed && size >= 700 => unsafe { *ptr.add(size - 1) = 1 },
            (Fault::UsableShort, _) if size >= 3000 => usable = size - 1,
            _ => {}
        }
        state.blocks.insert(ptr.addr(), usable);
        state.last = Some((ptr.addr(), size));
        ptr
    }

    fn forget(&self, ptr: *mut u8) {
        let mut state = self.state.lock().unwrap();
        state.blocks.remove(&ptr.addr());
        if state.last.is_some_and(|(last, _)| last == ptr.addr()) {
            state.last = None;
        }
        if self.fault == Fault::Scribble {
            if let Some((&next, _)) = state.blocks.range(ptr.addr()..).find(|(_, len)| **len > 0) {
                // SAFETY: a live block of one byte at least.
                unsafe { *(next as *mut u8) ^= 0xff };
            }
        }
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        for (ptr, layout) in self.state.get_mut().unwrap().memory.drain(..) {
            // SAFETY: obtained with this layout, given back once.
            unsafe { System.dealloc(ptr as *mut u8, layout) };
        }
    }
}

impl Heap for Planted {
    fn allocate(&self, size: usize) -> *mut u8 {
        self.obtain(size, 1, false)
    }
    fn allocate_zeroed(&self, size: usize) -> *mut u8 {
        self.obtain(size, 1, true)
    }
    fn allocate_aligned(&self, size: usize, align: usize) -> *mut u8 {
        self.obtain(size, align, false)
    }
    fn alloc(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        self.obtain(layout.size(), layout.align(), zeroed)
    }
    fn free(&self, ptr: *mut u8) {
        self.forget(ptr);
    }
    fn free_sized(&self, ptr: *mut u8, size: usize, _align: usize) {
        if !(self.fault == Fault::Leak && size >= 2000) {
            self.forget(ptr);
        }
    }
    fn dealloc(&self, ptr: *mut u8, _layout: Layout) {
        self.forget(ptr);
    }
    fn reallocate(&self, ptr: *mut u8, new_size: usize) -> *mut u8 {
        let usable = self.usable_size(ptr);
        self.realloc(ptr, Layout::from_size_align(usable, 1).unwrap(), new_size)
    }
    fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let new = self.obtain(new_size, layout.align(), false);
        let mut kept = layout.size().min(new_size);
        if self.fault == Fault::LostTail && new_size >= 5000 {
            kept = kept.saturating_sub(8);
        }
        // SAFETY: both blocks hold `kept` bytes.
        unsafe { ptr.copy_to(new, kept) };
        self.forget(ptr);
        self.state.lock().unwrap().resized = true;
        new
    }
    fn usable_size(&self, ptr: *mut u8) -> usize {
        let state = self.state.lock().unwrap();
        let grown = self.fault == Fault::UsableChanges && state.resized;
        state.blocks.get(&ptr.addr()).map_or(0, |usable| usable + if grown { GRAIN } else { 0 })
    }
    fn good_size(&self, size: usize, _align: usize) -> usize {
        size.next_multiple_of(GRAIN)
    }
    fn trim(&self) {}
    fn live_blocks(&self) -> Option<u64> {
        Some(self.state.lock().unwrap().blocks.len() as u64)
    }
}
