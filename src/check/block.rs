//! A checked block: what lies around what the caller gets, and how it is found.
//!
//! ```text
//! small:  | header | canary | the block | canary …          |  one object of a class
//! large:  | header | canary | the block | canary | no access |  a span of its own
//!           start             user        user + size  end
//! ```
//! The canary before the block is there only where an alignment asks for room;
//! in front of a large block its last bytes are looked at. A header is found from
//! any address in its object, by the records of the layers below, and carries a
//! seal that depends on its place, its words and a secret of the process.

#![allow(unsafe_code)]

use crate::back::page_map::PAGE_MAP;
use crate::back::span::{self, Span};
use crate::check::told::{DEFAULT_ALIGN_BYTES, Told};
use crate::os::fault::Fault;
use crate::os::sys;
use crate::size_class::info;
use crate::units::{ClassId, PAGE_BYTES, PageId};
use core::mem::offset_of;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// The process's secret, which is not 0 once the mode is on.
static SECRET: AtomicU64 = AtomicU64::new(0);

/// What new and freed blocks are filled with.
pub const FRESH: u8 = 0xa7;
pub const FREED: u8 = 0x7a;
/// The least canary behind a small block.
pub const CANARY_BYTES: usize = 16;
/// The most that is looked at in front of a large block.
const FRONT_MOST: usize = 4096;
/// The most of a new block that is filled.
const FRESH_MOST: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    pub size: usize,
    /// Where a block that waits to be freed is linked; not sealed.
    link: usize,
    /// [`Told::word`].
    told: u32,
    /// The threads that allocated and freed the block; 0: none has.
    pub born: u32,
    pub died: u32,
    seal: u32,
}

pub const HEADER_BYTES: usize = size_of::<Header>();

/// Where an object or a large span lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub start: usize,
    /// The end of what may be accessed.
    pub end: usize,
    pub class: ClassId,
}

#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub place: Place,
    pub header: Header,
}

/// Makes the secret.
pub fn start() {
    let mut bytes = [0; 8];
    let seed = match sys::random(&mut bytes) {
        true => u64::from_ne_bytes(bytes),
        // The stack's address is random as well, a little.
        false => sys::now_ms() ^ bytes.as_ptr() as u64,
    };
    SECRET.store(seed | 1, Relaxed); // published by whoever turns the mode on
}

fn secret() -> u64 {
    SECRET.load(Relaxed)
}

/// A byte that is hard to write by accident: neither zero nor ASCII.
fn canary() -> u8 {
    (secret() >> 32) as u8 | 0x81
}

/// Room in front of a small block.
pub fn front_bytes(align: usize) -> usize {
    align.max(HEADER_BYTES)
}

/// What protections are in: pages of ours that are whole pages of the kernel's.
pub fn unit_bytes() -> usize {
    sys::os_page_bytes().max(PAGE_BYTES)
}

impl Header {
    fn seal_at(&self, start: usize) -> u32 {
        let words = [
            start as u64,
            self.size as u64,
            u64::from(self.told),
            u64::from(self.born) << 32 | u64::from(self.died),
        ];
        let sum = words.iter().fold(secret(), |sum, word| {
            let mixed = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ mixed >> 29
        });
        (sum >> 32) as u32
    }

    pub fn told(&self) -> Told {
        Told::of_word(self.told).sized(self.size)
    }
}

/// Where `addr` lies, whether or not a block is live there. Reads the records
/// below, which the mode's lock keeps still.
pub fn place_of(addr: usize) -> Result<Place, Fault> {
    let page = PAGE_MAP.page_of(addr).ok_or(Fault::Foreign)?;
    // A large span has an entry for its first page only.
    let mut first = page.0;
    while PAGE_MAP.span_unit(PageId(first)) == 0 {
        first = first.checked_sub(1).ok_or(Fault::NotAllocated)?;
    }
    let at = Span::at(PAGE_MAP.span_unit(PageId(first)));
    // SAFETY: a record that the page map names.
    let span = unsafe { &mut *at };
    let (base, len, class) = (span.addr(), span.pages.bytes(), span.class);
    let offset = addr.wrapping_sub(base);
    if offset >= len {
        return Err(Fault::NotAllocated);
    }
    if class == ClassId::NONE {
        return Ok(Place { start: base, end: base + len - unit_bytes(), class });
    }
    let size = info(class).size_bytes as usize;
    let index = offset / size;
    if index >= info(class).objects as usize {
        return Err(Fault::NotAllocated);
    }
    let start = base + index * size;
    Ok(Place { start, end: start + size, class })
}

impl Place {
    /// Whether the layers below have the object.
    fn is_home(&self) -> bool {
        let Ok(at) = span::span_of(self.start) else { return true };
        // SAFETY: a record that the page map names.
        let span = unsafe { &mut *at };
        if self.class == ClassId::NONE {
            return false;
        }
        let index = (self.start - span.addr()) / info(self.class).size_bytes as usize;
        span.is_free(index as u32)
    }

    /// The block whose header is here, as far as it can be believed.
    fn block(self) -> Option<Block> {
        // SAFETY: objects and large spans begin with memory that can be read.
        let header = unsafe { *with_exposed_provenance::<Header>(self.start) };
        (header.seal == header.seal_at(self.start)).then_some(Block { place: self, header })
    }
}

/// The block that `addr` lies in, live or freed and kept; else what is wrong.
pub fn find(addr: usize) -> Result<Block, Fault> {
    let place = place_of(addr)?;
    match place.block() {
        Some(block) if place.is_home() => {
            // A header that was left behind says more than the records do.
            let freed = block.header.died != 0 && block.user() == addr;
            Err(if freed { Fault::DoubleFree } else { Fault::NotAllocated })
        }
        Some(block) => Ok(block),
        None if place.is_home() => Err(Fault::NotAllocated),
        None => Err(Fault::Underflow),
    }
}

/// The block in an address's object, whoever has the object.
pub fn trace(addr: usize) -> Option<Block> {
    place_of(addr).ok()?.block()
}

impl Block {
    /// Makes the block of an object that is the caller's. The memory of a place
    /// that is `zero` may stay so.
    pub fn make(place: Place, told: Told, zero: bool) -> Block {
        let (word, born) = (told.kept().word(), sys::gettid());
        let header = Header { size: told.size, link: 0, told: word, born, died: 0, seal: 0 };
        let mut block = Block { place, header };
        let user = block.user();
        block.seal();
        let (front, tail) = block.canaries();
        fill(front.0, front.1, canary());
        fill(tail.0, tail.1, canary());
        if !told.is_zeroed() && !zero {
            fill(user, told.size.min(FRESH_MOST), FRESH);
        }
        block
    }

    /// Writes the header.
    fn seal(&mut self) {
        self.header.seal = self.header.seal_at(self.place.start);
        // SAFETY: the block's own memory; the mode's lock is held.
        unsafe { *with_exposed_provenance_mut(self.place.start) = self.header };
    }

    /// What the caller has: as near to a guard as its alignment allows.
    pub fn user(&self) -> usize {
        let align = self.header.told().align_bytes().max(DEFAULT_ALIGN_BYTES);
        match self.place.class {
            ClassId::NONE => (self.place.end - self.header.size) & !(align - 1),
            _ => self.place.start + front_bytes(align),
        }
    }

    /// A word that the block has no use for.
    pub fn link(&self) -> usize {
        self.place.start + offset_of!(Header, link)
    }

    pub fn user_end(&self) -> usize {
        self.user() + self.header.size
    }

    pub fn is_freed(&self) -> bool {
        self.header.died != 0
    }

    /// Start and end of what is looked at before and behind the block.
    fn canaries(&self) -> ((usize, usize), (usize, usize)) {
        let (least, user) = (self.place.start + HEADER_BYTES, self.user());
        let front = least.max(user.saturating_sub(FRONT_MOST));
        ((front, user - front), (self.user_end(), self.place.end - self.user_end()))
    }

    /// Whether nothing was written around a live block; else what, and where
    /// first.
    pub fn verify(&self) -> Result<(), (Fault, usize)> {
        let (front, tail) = self.canaries();
        if let Some(at) = first_other(front.0, front.1, canary()) {
            return Err((Fault::Underflow, at));
        }
        match first_other(tail.0, tail.1, canary()) {
            Some(at) => Err((Fault::Overflow, at)),
            None => Ok(()),
        }
    }

    /// Notes who has freed it.
    pub fn bury(&mut self) {
        self.header.died = sys::gettid().max(1);
        self.seal();
    }

    /// Fills a freed block up to `end`.
    pub fn fill_freed(&self, end: usize) {
        let from = self.freed_from();
        fill(from, end.saturating_sub(from), FREED);
    }

    /// Where something was written first in a freed block that was filled.
    pub fn first_written(&self, end: usize) -> Option<usize> {
        let from = self.freed_from();
        first_other(from, end.saturating_sub(from), FREED)
    }

    /// A large block is filled from its header on: what lies far in front of it
    /// cannot be accessed.
    fn freed_from(&self) -> usize {
        match self.place.class {
            ClassId::NONE => self.place.start + HEADER_BYTES,
            _ => self.user(),
        }
    }
}

fn fill(addr: usize, len_bytes: usize, byte: u8) {
    // SAFETY: every caller names memory of a block in its hands.
    unsafe { with_exposed_provenance_mut::<u8>(addr).write_bytes(byte, len_bytes) };
}

/// The address of the first byte that is not `byte`.
fn first_other(addr: usize, len_bytes: usize, byte: u8) -> Option<usize> {
    let whole = u64::from_ne_bytes([byte; 8]);
    let mut at = addr;
    let end = addr + len_bytes;
    // SAFETY: every caller names memory of a block in its hands; reads of words
    // are aligned or said to be not.
    unsafe {
        while at + 8 <= end && with_exposed_provenance::<u64>(at).read_unaligned() == whole {
            at += 8;
        }
        while at < end && with_exposed_provenance::<u8>(at).read() == byte {
            at += 1;
        }
    }
    (at < end).then_some(at)
}

/// Every object and large span that the layers below have handed out.
pub fn each(mut f: impl FnMut(Place)) {
    let mut page = 0;
    while page < PAGE_MAP.count() as u32 {
        let unit = PAGE_MAP.span_unit(PageId(page));
        if unit == 0 {
            page += 1;
            continue;
        }
        // SAFETY: a record that the page map names; the mode's lock is held.
        let (base, pages, class) = unsafe {
            let span = &*Span::at(unit);
            (span.addr(), span.pages, span.class)
        };
        page += pages.0.max(1);
        let (count, size) = match class {
            ClassId::NONE => (1, 0),
            _ => (info(class).objects as usize, info(class).size_bytes as usize),
        };
        let places = (0..count).filter_map(|i| place_of(base + i * size).ok());
        places.filter(|place| !place.is_home()).for_each(&mut f);
    }
}

impl Place {
    /// The block of a place that was handed out, or what is wrong with it.
    pub fn inhabitant(self) -> Result<Block, Fault> {
        self.block().ok_or(Fault::Underflow)
    }
}
