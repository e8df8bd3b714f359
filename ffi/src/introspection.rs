//! mallinfo, malloc_info, malloc_stats, mallopt, malloc_trim, cidalloc_walk.

use core::ffi::c_int;
use core::fmt::{self, Write};
use core_alloc::heap;
use core_alloc::heap::stats::Stats;
use core_alloc::size_class;

/// glibc's `struct mallinfo2`: `uordblks` is what the application holds in small
/// blocks, `fordblks` what is free inside the allocator, `arena` both together;
/// `hblks` and `hblkhd` are the large blocks.
#[derive(Default)]
#[repr(C)]
pub struct Mallinfo2 {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    hblks: usize,
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}

#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> Mallinfo2 {
    let s = Stats::collect();
    let cached = s.cid_bytes + s.transfer_bytes;
    let free = cached + s.central_bytes + s.page_free_bytes;
    let small: u64 = s.classes.iter().map(|c| c.live() * u64::from(c.size_bytes)).sum();
    let large = s.live_bytes.saturating_sub(small);
    let live = s.live_bytes - large;
    Mallinfo2 {
        arena: (live + free) as usize,
        ordblks: s.classes.iter().map(|c| c.central_free as usize).sum(),
        smblks: s.classes.iter().map(|c| (c.cached + c.transfer) as usize).sum(),
        hblks: s.large_blocks as usize,
        hblkhd: large as usize,
        usmblks: 0,
        fsmblks: cached as usize,
        uordblks: live as usize,
        fordblks: free as usize,
        keepcost: s.page_free_bytes as usize,
    }
}

/// As `mallinfo2`, each number cut to an int as glibc cuts it.
#[repr(C)]
pub struct Mallinfo([c_int; 10]);

#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> Mallinfo {
    let m = mallinfo2();
    let all = [
        m.arena, m.ordblks, m.smblks, m.hblks, m.hblkhd, m.usmblks, m.fsmblks, m.uordblks,
        m.fordblks, m.keepcost,
    ];
    Mallinfo(all.map(|n| n as c_int))
}

/// See `heap::check`.
#[unsafe(no_mangle)]
pub extern "C" fn cidalloc_check() {
    heap::check();
}

/// glibc's tuning parameters are known and change nothing: the allocator adapts.
/// Returns 1 for them, 0 for M_PERTURB, which asks for an effect, and for
/// anything unknown.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(parameter: c_int, value: c_int) -> c_int {
    const M_MXFAST: c_int = 1;
    const M_MXFAST_MOST: c_int = 80 * size_of::<usize>() as c_int / 4;
    const M_PERTURB: c_int = -6;
    let known = match parameter {
        M_MXFAST => (0..=M_MXFAST_MOST).contains(&value),
        M_PERTURB => false,
        // M_ARENA_MAX to M_TRIM_THRESHOLD.
        -8..=-1 => true,
        _ => false,
    };
    c_int::from(known)
}

/// Gives free memory back to the kernel. There is no top of the heap to pad.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    c_int::from(heap::trim())
}

#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    Stats::collect().write_text(2);
}

/// Refuses the allocator's system calls, as the option `CIDALLOC_FAIL` with the
/// value `how` does. Returns how many those in force before have refused, or -1
/// if `how` is not understood. For tests; in no header.
///
/// # Safety
/// `how` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cidalloc_fail(how: *const libc::c_char) -> libc::c_long {
    // SAFETY: the caller's duty.
    let how = unsafe { core::ffi::CStr::from_ptr(how) };
    heap::fail(how.to_bytes()).map_or(-1, |refused| refused as libc::c_long)
}

/// Writes the statistics as XML. `options` must be 0.
///
/// # Safety
/// `stream` is a stream open for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        crate::malloc::fail(libc::EINVAL);
        return -1;
    }
    let mut out = Stream(stream);
    if xml(&Stats::collect(), &mut out).is_err() { -1 } else { 0 }
}

fn xml(s: &Stats, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "<malloc version=\"1\">")?;
    writeln!(out, "<heap nr=\"0\">\n<sizes>")?;
    for c in s.classes.iter().filter(|c| c.spans > 0) {
        let free = c.central_free + c.transfer + c.cached;
        writeln!(
            out,
            "<size from=\"{0}\" to=\"{0}\" total=\"{1}\" count=\"{2}\"/>",
            c.size_bytes,
            free * u64::from(c.size_bytes),
            free
        )?;
    }
    writeln!(out, "</sizes>")?;
    writeln!(
        out,
        "<total type=\"fast\" count=\"0\" size=\"{}\"/>",
        s.cid_bytes + s.transfer_bytes
    )?;
    writeln!(
        out,
        "<total type=\"rest\" count=\"0\" size=\"{}\"/>",
        s.central_bytes + s.page_free_bytes
    )?;
    writeln!(out, "</heap>")?;
    writeln!(out, "<total type=\"mmap\" count=\"{}\" size=\"0\"/>", s.large_blocks)?;
    writeln!(
        out,
        "<system type=\"current\" size=\"{}\"/>",
        s.mapped_bytes - s.page_returned_bytes
    )?;
    writeln!(out, "<system type=\"max\" size=\"{}\"/>", s.peak_bytes)?;
    writeln!(out, "<aspace type=\"total\" size=\"{}\"/>", s.mapped_bytes)?;
    writeln!(out, "</malloc>")
}

/// A C stream. It may allocate its buffer; nothing is locked meanwhile.
struct Stream(*mut libc::FILE);

impl Write for Stream {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the caller of malloc_info promises an open stream.
        let done = unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), self.0) };
        if done == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// `struct cidalloc_class_census` of cidalloc.h.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ClassCensus {
    size: usize,
    spans: usize,
    live: usize,
    central_free: usize,
    transfer: usize,
    cached: usize,
}

/// `CIDALLOC_CLASSES_MOST` of cidalloc.h.
const CLASSES_MOST: usize = 128;

/// `struct cidalloc_census` of cidalloc.h.
#[repr(C)]
pub struct Census {
    large_blocks: usize,
    large_bytes: usize,
    aside_blocks: usize,
    class_count: usize,
    classes: [ClassCensus; CLASSES_MOST],
}

impl Census {
    const ZERO: Census = Census {
        large_blocks: 0,
        large_bytes: 0,
        aside_blocks: 0,
        class_count: 0,
        classes: [ClassCensus {
            size: 0,
            spans: 0,
            live: 0,
            central_free: 0,
            transfer: 0,
            cached: 0,
        }; CLASSES_MOST],
    };

    fn fill(&mut self, census: &heap::Census) {
        const { assert!(size_class::COUNT <= CLASSES_MOST) };
        *self = Census::ZERO;
        self.large_blocks = census.large_blocks as usize;
        self.large_bytes = census.large_bytes as usize;
        self.aside_blocks = census.aside_blocks as usize;
        self.class_count = census.classes.len();
        for (to, from) in self.classes.iter_mut().zip(&census.classes) {
            *to = ClassCensus {
                size: from.size_bytes as usize,
                spans: from.spans as usize,
                live: from.live as usize,
                central_free: from.central_free as usize,
                transfer: from.transfer as usize,
                cached: from.cached as usize,
            };
        }
    }
}

/// Checks every layer and counts all blocks: see cidalloc.h.
///
/// # Safety
/// `out` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cidalloc_walk(out: *mut Census) -> usize {
    // SAFETY: the caller's duty.
    let out = unsafe { out.as_mut() };
    match heap::walk() {
        Ok(census) => {
            if let Some(out) = out {
                out.fill(&census);
            }
            0
        }
        Err(broken) => {
            if let Some(out) = out {
                *out = Census::ZERO;
            }
            broken.report(2);
            broken.count()
        }
    }
}
