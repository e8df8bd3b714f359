//! Blocks of glibc's own malloc: some libraries reach it past us, and hand its
//! blocks to our `free` and `realloc`.
//!
//! A chunk's words before the block: the size of the chunk before it, then its
//! own, whose three low bits are flags. A pointer counts as glibc's if it lies
//! where the flags say and the sizes agree; everything is read through the
//! kernel, because the pointer may be anything.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;
use core_alloc::diagnosis::{self, peek, weak_address};
use core_alloc::heap::{self, Neighbour};

const MMAPPED: usize = 2;
const OTHER_ARENA: usize = 4;
const FLAGS: usize = 7;
const WORD: usize = size_of::<usize>();
const LEAST_BYTES: usize = 4 * WORD;
/// Arenas other than the first lie in areas of this size and alignment.
const AREA_BYTES: usize = 64 << 20;

static GLIBC: Neighbour = Neighbour { usable_size, free, reallocate };

/// Before any other code of the program runs.
#[used]
#[unsafe(link_section = ".init_array")]
static ADOPT: extern "C" fn() = adopt;

/// Other C libraries, and static programs without glibc's malloc, have no such
/// functions.
extern "C" fn adopt() {
    if !weak_address!("__libc_free").is_null() && !weak_address!("__libc_realloc").is_null() {
        heap::set_neighbour(&GLIBC);
    }
}

fn free(addr: usize) {
    // SAFETY: `adopt` saw the function; `usable_size` the block.
    unsafe {
        let free: extern "C" fn(usize) = core::mem::transmute(weak_address!("__libc_free"));
        free(addr);
    }
}

fn reallocate(addr: usize, size: usize) -> *mut u8 {
    // SAFETY: as `free`.
    unsafe {
        let realloc: extern "C" fn(usize, usize) -> *mut u8 =
            core::mem::transmute(weak_address!("__libc_realloc"));
        realloc(addr, size)
    }
}

fn usable_size(addr: usize) -> Option<usize> {
    let chunk = addr.checked_sub(2 * WORD).filter(|_| addr % (2 * WORD) == 0)?;
    let [before, head] = peek(chunk)?;
    let size = head & !FLAGS;
    let end = chunk.checked_add(size).filter(|_| size >= LEAST_BYTES && size % (2 * WORD) == 0)?;
    if head & MMAPPED != 0 {
        let page = diagnosis::os_page_bytes();
        let start = chunk.checked_sub(before)?;
        let whole = start % page == 0 && before.checked_add(size)? % page == 0;
        return (whole && head & OTHER_ARENA == 0).then_some(size - 2 * WORD);
    }
    if head & OTHER_ARENA != 0 {
        let area = addr & !(AREA_BYTES - 1);
        // Its arena, the area before it, its size.
        let [arena, _] = peek(area)?;
        let [used, _] = peek(area + 2 * WORD)?;
        let [_, _] = peek(arena)?;
        if arena == 0 || used > AREA_BYTES || end > area + used {
            return None;
        }
    } else if !within_break(chunk, end) {
        // Where the break cannot grow, the first arena goes on in mapped memory:
        // the chunk after the next one must agree, or be beyond the arena's end.
        let [_, next] = peek(end)?;
        let beyond = end.checked_add(next & !FLAGS)?;
        let sound = next & !FLAGS >= LEAST_BYTES && next & MMAPPED == 0 && beyond % (2 * WORD) == 0;
        if !sound || (beyond % diagnosis::os_page_bytes() != 0 && peek(beyond)?[1] & 1 == 0) {
            return None;
        }
    }
    // The chunk behind a live one says that it is in use.
    let [_, next] = peek(end)?;
    (next & 1 == 1).then_some(size - WORD)
}

/// Whether a chunk lies where glibc's first arena begins.
fn within_break(chunk: usize, end: usize) -> bool {
    first_break().is_some_and(|first| chunk >= first && end <= diagnosis::current_break())
}

/// Where the process's break was at first: glibc's first arena begins there.
fn first_break() -> Option<usize> {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    let mut at = KNOWN.load(Relaxed);
    if at == 0 {
        at = diagnosis::first_break()?;
        KNOWN.store(at, Relaxed); // everybody reads the same
    }
    Some(at)
}
