//! The options of the environment: one table, read once at initialisation.
//!
//! A name nobody knows or a value out of range is reported once on stderr and
//! ignored.

use crate::os::environment;
use crate::os::output::Output;
use crate::os::refusal::Refusals;
use core::fmt::Write;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// A row of the table of options.
#[derive(Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    pub unit: &'static str,
    /// The values taken, for people.
    pub range: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
    set: fn(&mut Config, &[u8]) -> bool,
}

/// Which registration of rseq threads use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RseqChoice {
    /// The C library's where it has one, else our own.
    Auto,
    Libc,
    Own,
    /// Our own, also in place of one by the C library that is too short for V2.
    Take,
    Off,
}

/// What picks the slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexChoice {
    Auto,
    MmCid,
    CpuId,
    Shard,
}

/// Whether threads ask for more time while they refill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SliceChoice {
    /// Where the kernel grants it.
    Auto,
    Off,
    /// They write requests that are never granted, to count those that were lost.
    Count,
}

/// Where statistics go at exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatsChoice {
    Off,
    /// As text to stderr.
    Text,
    /// As JSON to [`Config::stats_path`].
    Json,
}

const PATH_BYTES: usize = 512;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub stats: StatsChoice,
    path: [u8; PATH_BYTES],
    pub count: bool,
    /// Every block is checked: the checking mode.
    pub check: bool,
    pub rseq: RseqChoice,
    pub index: IndexChoice,
    pub slice: SliceChoice,
    /// What a slab may hold at the most.
    pub slab_bytes: u32,
    /// The time in which unused free memory goes back to the kernel.
    pub decay_ms: u32,
    /// A thread of the allocator's own beats.
    pub background: bool,
    /// Whether hugepages are asked for at all.
    pub thp: bool,
    /// From what heap size on hugepages are asked for.
    pub thp_after_bytes: usize,
    /// Libraries may be opened with RTLD_DEEPBIND.
    pub keep_deepbind: bool,
    /// System calls refused on purpose.
    pub fail: Refusals,
}

/// Every option, in the order in which they are shown.
pub static OPTIONS: [OptionSpec; 13] = [
    OptionSpec {
        name: "CIDALLOC_STATS",
        unit: "-",
        range: "0, 1, json:PATH",
        default: "0",
        meaning: "statistics at exit: 1 as text to stderr, json:PATH as JSON to a file (%p is the process id)",
        set: |c, v| match v {
            b"0" | b"1" => {
                c.stats = if v == b"1" { StatsChoice::Text } else { StatsChoice::Off };
                true
            }
            _ => v.strip_prefix(b"json:").is_some_and(|path| c.set_path(path)),
        },
    },
    OptionSpec {
        name: "CIDALLOC_COUNT",
        unit: "-",
        range: "0, 1",
        default: "0",
        meaning: "count every allocation and free, at some cost in time",
        set: |c, v| pick(v, &[(b"0", false), (b"1", true)], &mut c.count),
    },
    OptionSpec {
        name: "CIDALLOC_CHECK",
        unit: "-",
        range: "0, 1",
        default: "0",
        meaning: "end the process at the first misuse of a block, at a high cost in time and memory",
        set: |c, v| pick(v, &[(b"0", false), (b"1", true)], &mut c.check),
    },
    OptionSpec {
        name: "CIDALLOC_RSEQ",
        unit: "-",
        range: "auto, libc, own, take, off",
        default: "auto",
        meaning: "the rseq registration to use; take: our own, in place of a C library's of 32 bytes (docs/registration.md); off: slabs behind locks",
        set: |c, v| {
            let values: [(&[u8], _); 5] = [
                (b"auto", RseqChoice::Auto),
                (b"libc", RseqChoice::Libc),
                (b"own", RseqChoice::Own),
                (b"take", RseqChoice::Take),
                (b"off", RseqChoice::Off),
            ];
            pick(v, &values, &mut c.rseq)
        },
    },
    OptionSpec {
        name: "CIDALLOC_INDEX",
        unit: "-",
        range: "auto, mm_cid, cpu_id, shard",
        default: "auto",
        meaning: "what picks a thread's slab; shard: slabs behind locks",
        set: |c, v| {
            let values: [(&[u8], _); 4] = [
                (b"auto", IndexChoice::Auto),
                (b"mm_cid", IndexChoice::MmCid),
                (b"cpu_id", IndexChoice::CpuId),
                (b"shard", IndexChoice::Shard),
            ];
            pick(v, &values, &mut c.index)
        },
    },
    OptionSpec {
        name: "CIDALLOC_SLICE",
        unit: "-",
        range: "auto, off, count",
        default: "auto",
        meaning: "time slice extensions for threads that hold locks, where the kernel has them; count: for measurements, none, but counted how often such a thread was preempted",
        set: |c, v| {
            let values: [(&[u8], _); 3] = [
                (b"auto", SliceChoice::Auto),
                (b"off", SliceChoice::Off),
                (b"count", SliceChoice::Count),
            ];
            pick(v, &values, &mut c.slice)
        },
    },
    OptionSpec {
        name: "CIDALLOC_SLAB_BYTES",
        unit: "bytes",
        range: "65536 to 1073741824",
        default: "33554432",
        meaning: "what one slab may keep at the most, on average; a heap of a few MiB lets it keep 2 MiB, a larger one a sixteenth of itself more for all slabs",
        set: |c, v| number(v, 1 << 16, 1 << 30).map(|n| c.slab_bytes = n as u32).is_some(),
    },
    OptionSpec {
        name: "CIDALLOC_DECAY_MS",
        unit: "milliseconds",
        range: "0 to 3600000",
        default: "1000",
        meaning: "the time in which free memory that stays unused goes back to the kernel",
        set: |c, v| number(v, 0, 3_600_000).map(|n| c.decay_ms = n as u32).is_some(),
    },
    OptionSpec {
        name: "CIDALLOC_BACKGROUND",
        unit: "-",
        range: "off, on",
        default: "off",
        meaning: "a thread that gives free memory back while the program makes no call at all",
        set: |c, v| pick(v, &[(b"off", false), (b"on", true)], &mut c.background),
    },
    OptionSpec {
        name: "CIDALLOC_THP",
        unit: "-",
        range: "0, 1",
        default: "1",
        meaning: "ask the kernel for transparent hugepages",
        set: |c, v| pick(v, &[(b"0", false), (b"1", true)], &mut c.thp),
    },
    OptionSpec {
        name: "CIDALLOC_THP_AFTER",
        unit: "bytes",
        range: "0 to 1099511627776",
        default: "8388608",
        meaning: "the heap size from which on hugepages are asked for",
        set: |c, v| number(v, 0, 1 << 40).map(|n| c.thp_after_bytes = n).is_some(),
    },
    OptionSpec {
        name: "CIDALLOC_DEEPBIND",
        unit: "-",
        range: "drop, keep",
        default: "drop",
        meaning: "whether dlopen keeps RTLD_DEEPBIND, by which libraries reach the C library's malloc",
        set: |c, v| pick(v, &[(b"drop", false), (b"keep", true)], &mut c.keep_deepbind),
    },
    OptionSpec {
        name: "CIDALLOC_FAIL",
        unit: "-",
        range: "off, nth:N, from:N, rate:P, rate:P:SEED; then ,CALL...",
        default: "off",
        meaning: "for tests: refuse the allocator's Nth system call, all from the Nth on, or one in P at random; of the named ones only, if any are: mmap, munmap, mprotect, madvise, mremap, rseq, membarrier, openat, read, write, fcntl, getrandom, sched_getaffinity, prlimit64, uname, tgkill, process_vm_readv, prctl; or keep: MADV_DONTNEED does nothing and reports success",
        set: |c, v| Refusals::parse(v).map(|refusals| c.fail = refusals).is_some(),
    },
];

/// What every name of an option starts with.
pub const PREFIX: &[u8] = b"CIDALLOC_";

/// Why an entry of the environment is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    Unknown,
    /// With the values that would be taken.
    NotInRange(&'static str),
}

/// Names with this prefix belong to tests and tools, not to the allocator.
const FOREIGN_PREFIXES: [&[u8]; 2] = [b"CIDALLOC_TEST_", b"CIDALLOC_LIB"];

impl Config {
    pub const DEFAULT: Config = Config {
        stats: StatsChoice::Off,
        path: [0; PATH_BYTES],
        count: false,
        check: false,
        rseq: RseqChoice::Auto,
        index: IndexChoice::Auto,
        slice: SliceChoice::Auto,
        slab_bytes: 32 << 20,
        decay_ms: 1000,
        background: false,
        thp: true,
        thp_after_bytes: 8 << 20,
        keep_deepbind: false,
        fail: Refusals::NONE,
    };

    /// Reads the environment. Complains the first time only: a process without
    /// memory to start with reads it again.
    pub fn read() -> Config {
        static READ: AtomicBool = AtomicBool::new(false);
        let again = READ.swap(true, Relaxed); // nothing depends on it
        let mut config = Config::DEFAULT;
        environment::each(PREFIX, |name, value| match config.set(name, value) {
            Err(refusal) if !again => complain(name, refusal),
            _ => {}
        });
        config
    }

    /// Takes in one entry of the environment.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p)) {
            return Ok(());
        }
        let option = OPTIONS.iter().find(|o| o.name.as_bytes() == name);
        let option = option.ok_or(Refusal::Unknown)?;
        if (option.set)(self, value) { Ok(()) } else { Err(Refusal::NotInRange(option.range)) }
    }

    /// Whether every operation must take a slow path.
    pub fn sees_all(&self) -> bool {
        self.count || self.check
    }

    /// The path of the JSON statistics, with %p not yet replaced.
    pub fn stats_path(&self) -> &[u8] {
        let end = self.path.iter().position(|&b| b == 0).unwrap_or(0);
        self.path.get(..end).unwrap_or_default()
    }

    fn set_path(&mut self, path: &[u8]) -> bool {
        // One byte stays for the terminating NUL.
        if path.is_empty() || path.len() >= PATH_BYTES {
            return false;
        }
        // Of an earlier, longer path nothing stays behind.
        self.path = [0; PATH_BYTES];
        for (slot, &byte) in self.path.iter_mut().zip(path) {
            *slot = byte;
        }
        self.stats = StatsChoice::Json;
        true
    }
}

fn complain(name: &[u8], refusal: Refusal) {
    let mut out = Output::stderr();
    let _ = write!(out, "cidalloc: {}: ", core::str::from_utf8(name).unwrap_or("option"));
    let _ = match refusal {
        Refusal::Unknown => writeln!(out, "unknown option, ignored"),
        Refusal::NotInRange(range) => writeln!(out, "value not in range ({range}), ignored"),
    };
}

fn pick<T: Copy>(value: &[u8], values: &[(&[u8], T)], target: &mut T) -> bool {
    match values.iter().find(|(name, _)| *name == value) {
        Some((_, chosen)) => {
            *target = *chosen;
            true
        }
        None => false,
    }
}

/// A decimal number with an optional suffix K, M or G (powers of 1024).
fn number(value: &[u8], least: usize, most: usize) -> Option<usize> {
    let (digits, shift) = match value.split_last()? {
        (b'K' | b'k', rest) => (rest, 10),
        (b'M' | b'm', rest) => (rest, 20),
        (b'G' | b'g', rest) => (rest, 30),
        _ => (value, 0),
    };
    if digits.is_empty() {
        return None;
    }
    let mut n: usize = 0;
    for &b in digits {
        let digit = char::from(b).to_digit(10)?;
        n = n.checked_mul(10)?.checked_add(digit as usize)?;
    }
    let n = n.checked_mul(1 << shift)?;
    (least..=most).contains(&n).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_suffixes_and_ranges() {
        assert_eq!(number(b"64K", 0, 1 << 20), Some(65536));
        assert_eq!(number(b"2M", 0, 1 << 20), None);
        for bad in [&b""[..], b"K", b"-1", b"1.5", b"99999999999999999999", b"17179869184G"] {
            assert_eq!(number(bad, 0, usize::MAX), None);
        }
    }

    #[test]
    fn every_default_in_the_table_is_the_default_in_force() {
        for option in &OPTIONS {
            let mut config = Config::DEFAULT;
            assert!((option.set)(&mut config, option.default.as_bytes()), "{}", option.name);
            assert_eq!(values_of(&config), values_of(&Config::DEFAULT));
        }
    }

    #[test]
    fn a_path_leaves_nothing_of_the_one_before() {
        let mut config = Config::DEFAULT;
        assert!(config.set_path(b"/tmp/long") && config.set_path(b"/x"));
        assert_eq!(config.stats_path(), b"/x");
    }

    fn values_of(c: &Config) -> impl PartialEq + core::fmt::Debug {
        (
            (c.stats, c.count, c.check, c.rseq, c.index, c.slice, c.slab_bytes, c.decay_ms),
            (c.background, c.thp, c.thp_after_bytes, c.keep_deepbind, c.fail),
        )
    }
}
