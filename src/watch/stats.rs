//! The statistics: a snapshot of every layer, as numbers, text and JSON.
//!
//! Layers are read one after another under their own locks, and slabs while
//! their owners go on: in a busy process the parts belong to slightly
//! different moments. In a quiet one they are exact.

use crate::back::page_heap::{PAGE_HEAP, PEAK_BYTES};
use crate::front::process::{self, Index, Process, Registration};
use crate::front::{cpu_cache, remote, take_in};
use crate::middle::{central_free_list, transfer_cache, whole};
use crate::os::output::Output;
use crate::os::thread::Inside;
use crate::os::{lock, refusal, rseq, slice, sys};
use crate::size_class::{self, info};
use crate::units::{Cid, ClassId, PAGE_BYTES};
use crate::watch::counters;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering::Relaxed;

/// One size class: counts of objects, but for `size_bytes` and `spans`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassStats {
    pub class: u32,
    pub size_bytes: u32,
    pub spans: u32,
    /// In all spans.
    pub objects: u64,
    /// Free in the spans.
    pub central_free: u64,
    /// In the transfer cache.
    pub transfer: u64,
    /// In slabs.
    pub cached: u64,
}

impl ClassStats {
    /// Objects that the application holds.
    pub fn live(&self) -> u64 {
        self.objects.saturating_sub(self.central_free + self.transfer + self.cached)
    }
}

/// Everything. Bytes, unless the name or the comment says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    pub pid: u32,
    /// "rseq" or "locked".
    pub mode: &'static str,
    /// "mm_cid", "cpu_id" or "shard".
    pub index: &'static str,
    /// "libc", "own", "taken" (our own, in place of the C library's) or "none".
    pub registration: &'static str,
    /// How the kernel treats the registrations: "legacy", "V2" or "none".
    pub abi_mode: &'static str,
    /// Why the mode, the index or the registration is not the best there is, or
    /// not the one asked for; else empty.
    pub reason: &'static str,
    /// The C library's `__rseq_size`, or our registration's length; 0 for none.
    pub rseq_size: u32,
    /// Time slice extensions: "on" in some thread, "offered" to threads that will
    /// need them and whose application does not use them itself, or "off".
    pub slices: &'static str,
    /// Why they are off; else empty.
    pub slices_reason: &'static str,
    /// What the application holds, rounded up to classes and pages.
    pub live_bytes: u64,
    /// The most that spans and large blocks ever took, cached objects included.
    pub peak_bytes: u64,
    /// Counts, if the process counts.
    pub allocations: Option<u64>,
    pub frees: Option<u64>,
    pub cid_bytes: u64,
    pub transfer_bytes: u64,
    pub central_bytes: u64,
    pub page_free_bytes: u64,
    pub page_returned_bytes: u64,
    pub metadata_bytes: u64,
    pub mapped_bytes: u64,
    /// Slabs in use: a count, as all that follow.
    pub cids_in_use: u32,
    pub refills: u64,
    pub overflows: u64,
    pub central_locks: u64,
    pub lock_waits: u64,
    pub stops: u64,
    /// Hugepages that hold spans or blocks.
    pub hugepages: u32,
    /// Hugepages asked for by MADV_HUGEPAGE.
    pub hugepages_advised: u32,
    pub spans: u32,
    pub large_blocks: u32,
    pub threads_taken_in: u32,
    /// Threads that have turned time slice extensions on.
    pub slice_threads: u32,
    /// Requests for one, see `os::slice`: granted ones were yielded or revoked.
    pub slice_requests: u64,
    pub slice_grants: u64,
    pub slice_yields: u64,
    pub slice_revocations: u64,
    /// System calls that failed, for whatever reason.
    pub refusals: u32,
    /// What MADV_DONTNEED leaves: "zeroes", "keeps", or "unknown" before its use.
    pub dontneed: &'static str,
    pub classes: [ClassStats; size_class::COUNT],
}

impl Stats {
    const NONE: Stats = Stats {
        pid: 0,
        mode: "none",
        index: "none",
        registration: "none",
        abi_mode: "none",
        reason: "not initialised",
        rseq_size: 0,
        slices: "off",
        slices_reason: "not initialised",
        live_bytes: 0,
        peak_bytes: 0,
        allocations: None,
        frees: None,
        cid_bytes: 0,
        transfer_bytes: 0,
        central_bytes: 0,
        page_free_bytes: 0,
        page_returned_bytes: 0,
        metadata_bytes: 0,
        mapped_bytes: 0,
        cids_in_use: 0,
        refills: 0,
        overflows: 0,
        central_locks: 0,
        lock_waits: 0,
        stops: 0,
        hugepages: 0,
        hugepages_advised: 0,
        spans: 0,
        large_blocks: 0,
        threads_taken_in: 0,
        slice_threads: 0,
        slice_requests: 0,
        slice_grants: 0,
        slice_yields: 0,
        slice_revocations: 0,
        refusals: 0,
        dontneed: "unknown",
        classes: [ClassStats {
            class: 0,
            size_bytes: 0,
            spans: 0,
            objects: 0,
            central_free: 0,
            transfer: 0,
            cached: 0,
        }; size_class::COUNT],
    };

    /// Reads every layer; nothing in a signal handler that has interrupted the
    /// allocator. Locks: each layer's, one after another.
    pub fn collect() -> Stats {
        let mut stats = Stats::NONE;
        let Some(_inside) = Inside::enter() else { return stats };
        let Some(process) = process::get() else { return stats };
        stats.pid = sys::getpid();
        stats.describe(process);
        stats.count();
        stats.read_slabs(process);
        stats.read_middle();
        stats.read_back();
        stats
    }

    fn describe(&mut self, process: &Process) {
        self.mode = if process.in_sections() { "rseq" } else { "locked" };
        self.index = match process.index {
            Index::MmCid => "mm_cid",
            Index::CpuId => "cpu_id",
            Index::Shard => "shard",
        };
        (self.registration, self.rseq_size) = match process.registration {
            Registration::Libc => ("libc", rseq::libc_area().map_or(0, |(size, _)| size)),
            Registration::Own => ("own", process.registered_bytes() as u32),
            Registration::Taken => ("taken", process.registered_bytes() as u32),
            Registration::None => ("none", 0),
        };
        self.abi_mode = match process.registration {
            Registration::None => "none",
            _ if process.is_v2() => "V2",
            _ => "legacy",
        };
        self.reason = process.reason;
        (self.slices, self.slices_reason) = self.slices(process);
        if process.config.count {
            self.allocations = Some(counters::ALLOCATIONS.load(Relaxed));
            self.frees = Some(counters::FREES.load(Relaxed));
        }
    }

    fn slices(&self, process: &Process) -> (&'static str, &'static str) {
        let mode = match process.slices() {
            Ok(mode) => mode,
            Err(why) => return ("off", why),
        };
        let why_not = match slice::is_offered() {
            None => "this thread is not registered yet",
            Some(true) => match slice::refused() {
                _ if slice::THREADS.load(Relaxed) > 0 => return ("on", ""),
                _ if mode == slice::Mode::Count => "CIDALLOC_SLICE=count",
                0 => return ("offered", ""),
                _ => "the kernel refuses to turn them on",
            },
            Some(false) if (self.rseq_size as usize) < process.kernel.feature_bytes => {
                "the registration is not of the kernel's whole length (V2)"
            }
            Some(false) => "the kernel is built without them, or started with rseq_slice_ext=0",
        };
        ("off", why_not)
    }

    /// The counters. Relaxed: each is a number of its own.
    fn count(&mut self) {
        self.peak_bytes = PEAK_BYTES.load(Relaxed) as u64;
        self.refills = cpu_cache::REFILLS.load(Relaxed);
        self.overflows = cpu_cache::OVERFLOWS.load(Relaxed);
        self.cids_in_use = cpu_cache::OPEN_SLABS.load(Relaxed) as u32;
        self.lock_waits = u64::from(lock::WAITS.load(Relaxed));
        self.stops = u64::from(remote::STOPS.load(Relaxed));
        self.threads_taken_in = take_in::TAKEN_IN.load(Relaxed);
        self.slice_threads = slice::THREADS.load(Relaxed);
        self.slice_requests = slice::REQUESTED.load(Relaxed);
        self.slice_grants = slice::GRANTED.load(Relaxed);
        self.slice_yields = slice::YIELDED.load(Relaxed);
        self.slice_revocations = slice::REVOKED.load(Relaxed);
        self.refusals = refusal::failures();
    }

    fn read_slabs(&mut self, process: &Process) {
        for cid in (0..process.slabs()).map(Cid) {
            let slab = cpu_cache::state(cid).lock();
            if !slab.open {
                continue;
            }
            for (class, stats) in ClassId::all().zip(self.classes.iter_mut().skip(1)) {
                stats.cached += u64::from(slab.held(cid, class));
            }
        }
    }

    fn read_middle(&mut self) {
        for (class, stats) in ClassId::all().zip(self.classes.iter_mut().skip(1)) {
            let size = u64::from(info(class).size_bytes);
            stats.class = u32::from(class.0);
            stats.size_bytes = info(class).size_bytes;
            stats.transfer = transfer_cache::of(class).lock().len() as u64;
            {
                let central = central_free_list::of(class).lock();
                stats.spans = central.spans;
                stats.central_free = u64::from(central.free);
                self.central_locks += central.acquisitions;
            }
            if whole::serves(class) {
                stats.spans = whole::spans(class);
            }
            stats.objects = u64::from(stats.spans) * u64::from(info(class).objects);
            self.cid_bytes += stats.cached * size;
            self.transfer_bytes += stats.transfer * size;
            self.central_bytes += stats.central_free * size;
        }
    }

    fn read_back(&mut self) {
        let heap = PAGE_HEAP.lock();
        let sizes = heap.sizes();
        self.page_free_bytes = sizes.free as u64;
        self.page_returned_bytes = sizes.returned as u64;
        self.metadata_bytes = sizes.records as u64;
        self.mapped_bytes = sizes.mapped as u64;
        self.hugepages = sizes.hugepages_in_use;
        self.hugepages_advised = heap.counts.advised;
        self.spans = heap.counts.spans;
        self.large_blocks = heap.counts.large_blocks;
        self.dontneed = heap.dontneed();
        let in_use = (heap.counts.in_use_pages * PAGE_BYTES) as u64;
        let of_class = |c: &ClassStats| {
            let span = info(ClassId(c.class as u8)).span_pages().bytes() as u64;
            (u64::from(c.spans) * span, c.live() * u64::from(c.size_bytes))
        };
        let (in_spans, small) =
            self.classes.iter().map(of_class).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        self.live_bytes = small + in_use.saturating_sub(in_spans);
    }

    /// Writes the statistics for people.
    pub fn write_text(&self, fd: i32) {
        let mut out = Output::new(fd);
        let _ = self.text(&mut out);
    }

    /// Writes one flat JSON object.
    pub fn write_json(&self, fd: i32) {
        let mut out = Output::new(fd);
        let _ = self.json(&mut out);
    }

    /// Every number with its name and unit, in the order in which both forms
    /// show them.
    fn numbers(&self) -> [(&'static str, Option<u64>); 30] {
        let some = |n: u32| Some(u64::from(n));
        [
            ("live_bytes", Some(self.live_bytes)),
            ("peak_bytes", Some(self.peak_bytes)),
            ("allocations", self.allocations),
            ("frees", self.frees),
            ("cid_bytes", Some(self.cid_bytes)),
            ("transfer_bytes", Some(self.transfer_bytes)),
            ("central_bytes", Some(self.central_bytes)),
            ("page_free_bytes", Some(self.page_free_bytes)),
            ("page_returned_bytes", Some(self.page_returned_bytes)),
            ("metadata_bytes", Some(self.metadata_bytes)),
            ("mapped_bytes", Some(self.mapped_bytes)),
            ("cids_in_use", some(self.cids_in_use)),
            ("refills", Some(self.refills)),
            ("overflows", Some(self.overflows)),
            ("central_locks", Some(self.central_locks)),
            ("lock_waits", Some(self.lock_waits)),
            ("stops", Some(self.stops)),
            ("hugepages", some(self.hugepages)),
            ("hugepages_advised", some(self.hugepages_advised)),
            ("spans", some(self.spans)),
            ("large_blocks", some(self.large_blocks)),
            ("threads_taken_in", some(self.threads_taken_in)),
            ("slice_threads", some(self.slice_threads)),
            ("slice_requests", Some(self.slice_requests)),
            ("slice_grants", Some(self.slice_grants)),
            ("slice_yields", Some(self.slice_yields)),
            ("slice_revocations", Some(self.slice_revocations)),
            ("rseq_size", some(self.rseq_size)),
            ("refusals", some(self.refusals)),
            ("pid", some(self.pid)),
        ]
    }

    fn text(&self, out: &mut impl Write) -> fmt::Result {
        write!(out, "cidalloc {}: {} by {}", env!("CARGO_PKG_VERSION"), self.mode, self.index)?;
        write!(out, ", registration {}", self.registration)?;
        if self.registration != "none" {
            write!(out, ", {}", self.abi_mode)?;
        }
        if !self.reason.is_empty() {
            write!(out, " ({})", self.reason)?;
        }
        writeln!(out)?;
        write!(out, "{:>20} {}", "slices", self.slices)?;
        if !self.slices_reason.is_empty() {
            write!(out, " ({})", self.slices_reason)?;
        }
        writeln!(out)?;
        for (name, value) in self.numbers() {
            match value {
                Some(n) => writeln!(out, "{name:>20} {n}")?,
                None => writeln!(out, "{name:>20} not counted")?,
            }
        }
        if self.refusals > 0 {
            write!(out, "{:>20} ", "refused")?;
            refused(out)?;
            writeln!(out)?;
        }
        writeln!(out, "class     size    spans  objects     live  central transfer   cached")?;
        for c in self.classes.iter().filter(|c| c.spans > 0) {
            writeln!(
                out,
                "{:5} {:8} {:8} {:8} {:8} {:8} {:8} {:8}",
                c.class,
                c.size_bytes,
                c.spans,
                c.objects,
                c.live(),
                c.central_free,
                c.transfer,
                c.cached
            )?;
        }
        Ok(())
    }

    fn json(&self, out: &mut impl Write) -> fmt::Result {
        // Every string here is one of ours: nothing needs escaping.
        write!(out, "{{\"version\":\"{}\"", env!("CARGO_PKG_VERSION"))?;
        for (name, value) in [
            ("mode", self.mode),
            ("index", self.index),
            ("registration", self.registration),
            ("abi_mode", self.abi_mode),
            ("reason", self.reason),
            ("dontneed", self.dontneed),
            ("slices", self.slices),
            ("slices_reason", self.slices_reason),
        ] {
            write!(out, ",\"{name}\":\"{value}\"")?;
        }
        write!(out, ",\"refused\":\"")?;
        refused(out)?;
        write!(out, "\"")?;
        for (name, value) in self.numbers() {
            match value {
                Some(n) => write!(out, ",\"{name}\":{n}")?,
                None => write!(out, ",\"{name}\":null")?,
            }
        }
        write!(out, ",\"classes\":[")?;
        let mut comma = "";
        for c in self.classes.iter().filter(|c| c.spans > 0) {
            write!(
                out,
                "{comma}{{\"class\":{},\"size\":{},\"spans\":{},\"objects\":{},\"central_free\":{},\"transfer\":{},\"cached\":{}}}",
                c.class, c.size_bytes, c.spans, c.objects, c.central_free, c.transfer, c.cached
            )?;
            comma = ",";
        }
        writeln!(out, "]}}")
    }
}

/// The names of the system calls that have failed, between blanks.
fn refused(out: &mut impl Write) -> fmt::Result {
    let mut result = Ok(());
    let mut blank = "";
    refusal::each_failed(|name| {
        if result.is_ok() {
            result = write!(out, "{blank}{name}");
            blank = " ";
        }
    });
    result
}
