//! The naive model: which bytes are whose, and what they must hold.
//!
//! A block's range is noted after its allocation and struck off before its
//! free, so that at no time two threads' true histories look like an overlap.
//! Contents are a pattern of the block's id; blocks above `WHOLE_BYTES` carry
//! it in their first and last 4 KiB and in the first word of each 4 KiB
//! between, others in every byte of their usable size.

use super::heap::Heap;
use super::op::Op;
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What is wrong, in words.
pub type Fault = String;

/// Histories leave out an allocation that would exceed this in sum.
const LIVE_BYTES_MAX: usize = 192 << 20;
const WHOLE_BYTES: usize = 256 << 10;
const STRIDE: usize = 4096;

macro_rules! check {
    ($condition:expr, $($why:tt)+) => {
        if !$condition { return Err(format!($($why)+)); }
    };
}

/// A live block, held by one thread of the history.
#[derive(Clone, Debug)]
pub struct Block {
    ptr: usize,
    id: u64,
    size: usize,
    usable: usize,
    align: usize,
    /// Came through `GlobalAlloc`, so its layout binds.
    layout: bool,
    /// Came from C's realloc, which may keep a class that the size alone
    /// would not get: not for a sized free.
    resized: bool,
}

impl Block {
    fn ptr(&self) -> *mut u8 {
        self.ptr as *mut u8
    }
    fn layout(&self) -> Layout {
        Layout::from_size_align(self.size, self.align).unwrap()
    }
}

/// What all threads of a history share.
#[derive(Default)]
pub struct Model {
    /// Start of each live range, its length and its block's id.
    ranges: Mutex<BTreeMap<usize, (usize, u64)>>,
    next_id: AtomicU64,
    live_bytes: AtomicUsize,
}

/// The pattern's word at `8 * k` bytes into block `id`.
fn word(id: u64, k: usize) -> u64 {
    (id ^ (k as u64).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Calls `f` with each stretch `[from, to)` of a block of `len` bytes which
/// carries the pattern, as far as `upto`. Stretches start at multiples of 8.
fn stretches(
    len: usize,
    upto: usize,
    mut f: impl FnMut(usize, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let upto = upto.min(len);
    if len <= WHOLE_BYTES {
        return f(0, upto);
    }
    let last = (len - STRIDE) & !7;
    f(0, STRIDE.min(upto))?;
    for at in (STRIDE..last).step_by(STRIDE).take_while(|at| *at < upto) {
        f(at, (at + 8).min(upto))?;
    }
    if last < upto { f(last, upto) } else { Ok(()) }
}

fn fill(block: &Block) {
    let _ = stretches(block.usable, block.usable, |from, to| {
        for at in (from..to).step_by(8) {
            let word = word(block.id, at / 8);
            // SAFETY: `[from, to)` is within the block, which this thread holds.
            unsafe {
                let ptr = block.ptr().add(at);
                match to - at {
                    8.. => ptr.cast::<u64>().write_unaligned(word),
                    rest => ptr.copy_from(word.to_le_bytes().as_ptr(), rest),
                }
            }
        }
        Ok(())
    });
}

/// Checks what `block` was filled with, at `ptr`, as far as `upto`.
fn verify(block: &Block, ptr: *mut u8, upto: usize) -> Result<(), Fault> {
    stretches(block.usable, upto, |from, to| {
        for at in (from..to).step_by(8) {
            let due = word(block.id, at / 8);
            let mut found = due;
            // SAFETY: `[from, to)` is within the block, which this thread
            // holds; of the last word, the bytes beyond are left as due.
            unsafe {
                let ptr = ptr.add(at);
                match to - at {
                    8.. => found = ptr.cast::<u64>().read_unaligned(),
                    rest => ptr.copy_to((&raw mut found).cast(), rest),
                }
            }
            check!(
                found == due,
                "lost content: {} bytes at {ptr:p} hold {found:#018x} at offset {at}, not {due:#018x}",
                block.size,
            );
        }
        Ok(())
    })
}

fn verify_zero(ptr: *mut u8, size: usize) -> Result<(), Fault> {
    // SAFETY: a fresh block of `size` bytes at least, which this thread holds.
    let bytes = unsafe { std::slice::from_raw_parts(ptr, size) };
    // SAFETY: every bit pattern is a u64.
    let (head, words, tail) = unsafe { bytes.align_to::<u64>() };
    let clean = head.iter().chain(tail).all(|b| *b == 0) && words.iter().all(|w| *w == 0);
    if clean {
        return Ok(());
    }
    let at = bytes.iter().position(|b| *b != 0).unwrap_or(0);
    Err(format!("not zeroed: {size} bytes at {ptr:p} hold {:#04x} at offset {at}", bytes[at]))
}

impl Model {
    /// Live blocks and the bytes between them.
    fn note(&self, block: &Block) -> Result<(), Fault> {
        let start = block.ptr;
        let Some(end) = start.checked_add(block.usable.max(1)) else {
            return Err(format!("block at {start:#x} of {} bytes wraps around", block.usable));
        };
        let mut ranges = self.ranges.lock().unwrap();
        if let Some((&other, &(len, id))) = ranges.range(..end).next_back() {
            check!(
                other + len <= start,
                "overlap: new block {} [{start:#x}, {end:#x}) and live block {id} [{other:#x}, {:#x})",
                block.id,
                other + len
            );
        }
        ranges.insert(start, (end - start, block.id));
        drop(ranges);
        self.live_bytes.fetch_add(block.usable, Ordering::Relaxed);
        Ok(())
    }

    fn strike(&self, block: &Block) {
        self.ranges.lock().unwrap().remove(&block.ptr);
        self.live_bytes.fetch_sub(block.usable, Ordering::Relaxed);
    }

    fn has_room(&self, size: usize) -> bool {
        self.live_bytes.load(Ordering::Relaxed) + size <= LIVE_BYTES_MAX
    }

    fn check_usable(heap: &dyn Heap, block: &Block) -> Result<(), Fault> {
        let usable = heap.usable_size(block.ptr());
        check!(
            usable == block.usable,
            "usable size of {} bytes at {:#x} was {}, became {usable}",
            block.size,
            block.ptr,
            block.usable
        );
        Ok(())
    }

    /// Checks what came back from an allocation and fills it.
    fn take_in(&self, heap: &dyn Heap, ptr: *mut u8, request: Request) -> Result<Block, Fault> {
        let Request { size, align, zeroed, layout } = request;
        check!(!ptr.is_null(), "no memory for {size} bytes at {align}");
        // C: 16 for what can hold 16 bytes, else 8 (x86-64 and aarch64 psABI
        // types no larger than the block).
        let due = if layout || align > 1 {
            align
        } else if size > 8 {
            16
        } else {
            8
        };
        check!(ptr.addr() % due == 0, "{size} bytes at {ptr:p}: not a multiple of {due}");
        let usable = heap.usable_size(ptr);
        check!(usable >= size, "usable size {usable} of {size} bytes at {ptr:p}");
        let good = heap.good_size(size, if layout { align } else { align.max(1) });
        check!(
            usable == good,
            "usable size {usable} of {size} bytes at {align}, good_size said {good}"
        );
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let block = Block { ptr: ptr.addr(), id, size, usable, align, layout, resized: false };
        self.note(&block)?;
        if zeroed {
            verify_zero(ptr, size)?;
        }
        fill(&block);
        Ok(block)
    }

    /// Checks and frees `block`.
    pub fn release(&self, heap: &dyn Heap, block: &Block, sized: bool) -> Result<(), Fault> {
        Self::check_usable(heap, block)?;
        verify(block, block.ptr(), block.usable)?;
        self.strike(block);
        match (block.layout, sized) {
            (true, _) => heap.dealloc(block.ptr(), block.layout()),
            (false, true) if !block.resized => {
                heap.free_sized(block.ptr(), block.size, block.align)
            }
            (false, _) => heap.free(block.ptr()),
        }
        Ok(())
    }

    fn resize(&self, heap: &dyn Heap, block: &Block, new_size: usize) -> Result<Block, Fault> {
        Self::check_usable(heap, block)?;
        verify(block, block.ptr(), block.usable)?;
        self.strike(block);
        let ptr = match block.layout {
            true => heap.realloc(block.ptr(), block.layout(), new_size),
            false => heap.reallocate(block.ptr(), new_size),
        };
        check!(!ptr.is_null(), "no memory to resize {} bytes to {new_size}", block.size);
        // realloc keeps no alignment above the default, GlobalAlloc its layout's.
        let align = if block.layout { block.align } else { 1 };
        let due = if block.layout {
            align
        } else if new_size > 8 {
            16
        } else {
            8
        };
        check!(
            ptr.addr() % due == 0,
            "resized to {new_size} bytes at {ptr:p}: not a multiple of {due}"
        );
        let usable = heap.usable_size(ptr);
        check!(usable >= new_size, "usable size {usable} of {new_size} resized bytes at {ptr:p}");
        let moved = Block {
            ptr: ptr.addr(),
            size: new_size,
            usable,
            align,
            resized: !block.layout,
            ..*block
        };
        self.note(&moved)?;
        // The usable size is the program's to write, so all of it is kept.
        let kept = if block.layout { block.size } else { block.usable };
        verify(block, ptr, kept.min(new_size))?;
        fill(&moved);
        Ok(moved)
    }

    /// Does one operation for a thread that holds `held`. A block that leaves
    /// for another thread comes back with that thread's number.
    pub fn step(
        &self,
        heap: &dyn Heap,
        held: &mut Vec<Block>,
        op: &Op,
    ) -> Result<Option<(u8, Block)>, Fault> {
        let request = |size, align, zeroed, layout| Request { size, align, zeroed, layout };
        let pick = |held: &Vec<Block>, pick: u16| match held.len() {
            0 => None,
            n => Some(pick as usize % n),
        };
        match *op {
            Op::Allocate { size } if self.has_room(size) => {
                held.push(self.take_in(
                    heap,
                    heap.allocate(size),
                    request(size, 1, false, false),
                )?);
            }
            Op::Zeroed { size } if self.has_room(size) => {
                let ptr = heap.allocate_zeroed(size);
                held.push(self.take_in(heap, ptr, request(size, 1, true, false))?);
            }
            Op::Aligned { size, align } if self.has_room(size.max(align)) => {
                let ptr = heap.allocate_aligned(size, align);
                held.push(self.take_in(heap, ptr, request(size, align, false, false))?);
            }
            Op::Layout { size, align, zeroed } if self.has_room(size.max(align)) => {
                let layout = Layout::from_size_align(size, align).map_err(|e| e.to_string())?;
                let ptr = heap.alloc(layout, zeroed);
                held.push(self.take_in(heap, ptr, request(size, align, zeroed, true))?);
            }
            Op::Free { pick: p } | Op::FreeSized { pick: p } => {
                if let Some(i) = pick(held, p) {
                    let block = held.swap_remove(i);
                    self.release(heap, &block, matches!(op, Op::FreeSized { .. }))?;
                }
            }
            Op::Resize { pick: p, size } => {
                if let Some(i) = pick(held, p).filter(|_| self.has_room(size)) {
                    let block = held.swap_remove(i);
                    held.push(self.resize(heap, &block, size)?);
                }
            }
            Op::Scale { pick: p, permille } => {
                if let Some(i) = pick(held, p) {
                    let new_size = (held[i].size * permille as usize / 1000).max(1);
                    if self.has_room(new_size) {
                        let block = held.swap_remove(i);
                        held.push(self.resize(heap, &block, new_size)?);
                    }
                }
            }
            Op::UsableSize { pick: p } => {
                if let Some(i) = pick(held, p) {
                    Self::check_usable(heap, &held[i])?;
                    verify(&held[i], held[i].ptr(), held[i].usable)?;
                }
            }
            Op::Hand { pick: p, to } => {
                if let Some(i) = pick(held, p) {
                    return Ok(Some((to, held.swap_remove(i))));
                }
            }
            Op::Trim => heap.trim(),
            // Respawn is the runner's; the others had no room.
            _ => {}
        }
        Ok(None)
    }
}

struct Request {
    size: usize,
    align: usize,
    zeroed: bool,
    layout: bool,
}
