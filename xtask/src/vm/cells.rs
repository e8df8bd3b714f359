//! The cells of the matrix, and what the allocator must make of each: a table of
//! facts about kernels and C libraries, not worked out from anything that the
//! allocator itself looks at.

use super::guest::{Arch, Guest};
use std::time::Duration;

/// One kernel with one C library, in one shape.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// As rig's kernels are named: "6.1", "7.2-slice"; "machine" is the one that
    /// this command runs on.
    pub kernel: &'static str,
    pub arch: Arch,
    pub libc: Libc,
    pub cpus: u32,
    pub nodes: u32,
    /// Interrupts fall between any two instructions.
    pub one_insn: bool,
    /// One of the cells of --short.
    pub short: bool,
    pub expected: Expected,
    /// With `glibc.pthread.rseq=0`, where the registration must be ours.
    pub expected_own: Expected,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Libc {
    Glibc(&'static str),
    /// Linked statically, in a guest without any C library.
    Musl,
}

/// What `cidalloc doctor --json` must say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// "rseq" or "locked".
    pub mode: &'static str,
    /// "mm_cid", "cpu_id" or "shard".
    pub index: &'static str,
    /// Whose registration the allocator uses.
    pub registration: &'static str,
    /// What is in the reason for a fallback; empty where there is none.
    pub reason: &'static str,
    /// Whose registration is in force, which the allocator need not use.
    pub registered_by: &'static str,
    /// Bytes registered; 0 for no registration.
    pub length: u32,
    /// "V2", "legacy" or "none".
    pub abi: &'static str,
    /// What may become of the slice extension: alternatives.
    pub slice: &'static [&'static str],
}

/// Linux 6.3 to 6.19, and any kernel with glibc before 2.41.
const LEGACY: Expected = Expected {
    mode: "rseq",
    index: "mm_cid",
    registration: "libc",
    reason: "",
    registered_by: "libc",
    length: 32,
    abi: "legacy",
    slice: &["EINVAL"],
};

/// Before 6.3.
const NO_CIDS: Expected =
    Expected { index: "cpu_id", reason: "the kernel has no mm_cid (before Linux 6.3)", ..LEGACY };

/// Linux 7.0 and later with glibc before 2.41, which registers 32 bytes.
const LEGACY_ON_V2: Expected = Expected { slice: &["ENOTSUPP"], ..LEGACY };

/// Linux 7.0 and later with glibc from 2.41 on.
const V2: Expected = Expected { length: 33, abi: "V2", slice: &["ENOTSUPP"], ..LEGACY };

/// The same where the kernel is built with the slice extension. The allocator may
/// have switched it on when `doctor` looks.
const V2_SLICE: Expected = Expected { slice: &["available", "enabled"], ..V2 };

/// aarch64 kernels whose sections are not always aborted: no section is used.
const FAULTY: Expected = Expected {
    mode: "locked",
    index: "shard",
    registration: "none",
    reason: "aarch64 kernels 6.19 to 7.0",
    ..LEGACY
};

/// The same registration as the C library's, made by the allocator.
const fn own(of: Expected) -> Expected {
    Expected { registration: "own", registered_by: "own", ..of }
}

/// Where no section is used, nothing is registered.
const FAULTY_OWN: Expected = Expected { registered_by: "none", length: 0, abi: "none", ..FAULTY };

const fn cell(
    arch: Arch,
    kernel: &'static str,
    libc: Libc,
    expected: Expected,
    expected_own: Expected,
) -> Cell {
    Cell {
        kernel,
        arch,
        libc,
        cpus: 4,
        nodes: 1,
        one_insn: false,
        short: false,
        expected,
        expected_own,
    }
}

/// musl registers nothing.
const fn musl(arch: Arch, kernel: &'static str, expected_own: Expected) -> Cell {
    cell(arch, kernel, Libc::Musl, expected_own, expected_own)
}

impl Cell {
    const fn short(self) -> Cell {
        Cell { short: true, ..self }
    }

    const fn large(self, nodes: u32) -> Cell {
        Cell { cpus: 16, nodes, ..self }
    }

    /// Two CPUs: each costs a thread of the emulator, and threads must share one.
    const fn one_insn(self) -> Cell {
        Cell { one_insn: true, cpus: 2, ..self }
    }
}

const X: Arch = Arch::X86_64;
const A: Arch = Arch::Aarch64;
const G36: Libc = Libc::Glibc("2.36");
const G41: Libc = Libc::Glibc("2.41");
const G43: Libc = Libc::Glibc("2.43");

/// Every kernel, every C library, and each combination that changes the
/// registration; then shapes of machines, and guests that are interrupted anywhere.
pub const CELLS: &[Cell] = &[
    cell(X, "6.1", G36, NO_CIDS, own(NO_CIDS)),
    cell(X, "6.1", G41, NO_CIDS, own(NO_CIDS)).short(),
    musl(X, "6.1", own(NO_CIDS)),
    cell(X, "6.12", G36, LEGACY, own(LEGACY)),
    cell(X, "6.12", G41, LEGACY, own(LEGACY)),
    musl(X, "6.12", own(LEGACY)),
    cell(X, "6.18", G36, LEGACY, own(LEGACY)),
    cell(X, "6.18", G41, LEGACY, own(LEGACY)),
    cell(X, "6.19", G36, LEGACY, own(LEGACY)),
    cell(X, "6.19", G41, LEGACY, own(LEGACY)),
    musl(X, "6.19", own(LEGACY)),
    cell(X, "7.0", G36, LEGACY_ON_V2, own(V2)),
    cell(X, "7.0", G41, V2, own(V2)),
    cell(X, "7.2", G36, LEGACY_ON_V2, own(V2)),
    cell(X, "7.2", G41, V2, own(V2)).short(),
    cell(X, "7.2", G43, V2, own(V2)),
    musl(X, "7.2", own(V2)).short(),
    cell(X, "7.3", G36, LEGACY_ON_V2, own(V2)),
    cell(X, "7.3", G41, V2, own(V2)),
    cell(X, "7.3", G43, V2, own(V2)),
    cell(X, "7.2-slice", G36, LEGACY_ON_V2, own(V2_SLICE)),
    cell(X, "7.2-slice", G41, V2_SLICE, own(V2_SLICE)).short(),
    cell(X, "7.2-slice", G43, V2_SLICE, own(V2_SLICE)),
    musl(X, "7.2-slice", own(V2_SLICE)),
    cell(A, "6.12", G36, LEGACY, own(LEGACY)),
    cell(A, "6.12", G41, LEGACY, own(LEGACY)),
    cell(A, "6.19", G36, FAULTY, FAULTY_OWN),
    cell(A, "6.19", G41, FAULTY, FAULTY_OWN),
    cell(A, "7.2", G36, LEGACY_ON_V2, own(V2)),
    cell(A, "7.2", G41, V2, own(V2)).short(),
    cell(A, "7.2", G43, V2, own(V2)),
    musl(A, "6.12", own(LEGACY)),
    musl(A, "6.19", FAULTY_OWN),
    musl(A, "7.2", own(V2)),
    // Shapes.
    cell(X, "6.1", G41, NO_CIDS, own(NO_CIDS)).large(4),
    cell(X, "6.12", G36, LEGACY, own(LEGACY)).large(1),
    cell(X, "7.2", G41, V2, own(V2)).large(2),
    cell(X, "7.2-slice", G41, V2_SLICE, own(V2_SLICE)).large(4),
    cell(A, "7.2", G41, V2, own(V2)).large(2),
    // Interrupted anywhere.
    cell(X, "6.1", G41, NO_CIDS, own(NO_CIDS)).one_insn(),
    cell(X, "6.12", G41, LEGACY, own(LEGACY)).one_insn(),
    cell(X, "6.18", G41, LEGACY, own(LEGACY)).one_insn(),
    cell(X, "6.19", G41, LEGACY, own(LEGACY)).one_insn(),
    cell(X, "7.0", G41, V2, own(V2)).one_insn(),
    cell(X, "7.2", G36, LEGACY_ON_V2, own(V2)).one_insn(),
    cell(X, "7.2", G41, V2, own(V2)).one_insn().short(),
    cell(X, "7.3", G41, V2, own(V2)).one_insn(),
    cell(X, "7.2-slice", G41, V2_SLICE, own(V2_SLICE)).one_insn(),
    cell(A, "6.12", G41, LEGACY, own(LEGACY)).one_insn(),
    cell(A, "6.19", G41, FAULTY, FAULTY_OWN).one_insn(),
    cell(A, "7.2", G41, V2, own(V2)).one_insn().short(),
];

/// The kernel that this command runs on; see [`machine`].
pub const MACHINE: &str = "machine";

/// The machine itself, without QEMU: what it must report is what the guest cell
/// reports whose kernel and C library are the newest not newer than its own.
/// Versions are (major, minor); None where no cell is old enough.
pub fn machine(kernel: (u32, u32), glibc: (u32, u32), cpus: u32) -> Option<Cell> {
    let arch = if cfg!(target_arch = "aarch64") { A } else { X };
    let age = |cell: &Cell| match cell.libc {
        Libc::Glibc(libc) if !cell.kernel.contains('-') => {
            Some((version(cell.kernel)?, version(libc)?))
        }
        _ => None,
    };
    let alike = CELLS
        .iter()
        .filter(|cell| cell.arch == arch)
        .filter(|cell| age(cell).is_some_and(|(k, libc)| k <= kernel && libc <= glibc))
        .max_by_key(|cell| age(cell))?;
    // Whether it has the slice extension is its builder's choice.
    let slice: &[&str] = match alike.expected.abi {
        "V2" => &["ENOTSUPP", "available", "enabled"],
        _ => alike.expected.slice,
    };
    Some(Cell {
        kernel: MACHINE,
        cpus,
        nodes: 1,
        one_insn: false,
        short: true,
        expected: Expected { slice, ..alike.expected },
        expected_own: Expected { slice, ..alike.expected_own },
        ..*alike
    })
}

/// Major and minor number of a release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl Cell {
    /// "x86_64 7.2, glibc 2.41, 16 CPUs in 2 nodes"; patterns look into it.
    pub fn name(&self) -> String {
        let mut name = format!("{} {}, {}", self.arch.name(), self.kernel, self.libc.name());
        if self.kernel == MACHINE {
            return name;
        }
        if self.cpus == 16 {
            name += ", 16 CPUs";
            if self.nodes > 1 {
                name += &format!(" in {} nodes", self.nodes);
            }
        }
        if self.one_insn {
            name += ", interrupted anywhere";
        }
        name
    }

    /// With `CIDALLOC_RSEQ=take`, where that makes the difference between legacy and V2.
    pub fn expected_taken(&self) -> Option<Expected> {
        let is_reached = self.expected.abi == "legacy" && self.expected_own.abi == "V2";
        let taken = Expected { registration: "taken", registered_by: "taken", ..self.expected_own };
        is_reached.then_some(taken)
    }

    /// Whether the kernel knows `rseq_debug=1`, which kills whoever breaks the ABI.
    pub fn is_strict(&self) -> bool {
        self.kernel != MACHINE && version(self.kernel) >= Some((6, 19))
    }

    /// The guest, but for what is shared with it.
    pub fn guest(&self) -> Guest {
        let (libc, packages) = match self.libc {
            Libc::Glibc(libc) if self.one_insn => (Some(libc.into()), Vec::new()),
            Libc::Glibc(libc) => (Some(libc.into()), vec!["perl-base".into(), "sqlite3".into()]),
            Libc::Musl => (None, Vec::new()),
        };
        let mut parameters: Vec<String> = Vec::new();
        if self.is_strict() {
            parameters.push("rseq_debug=1".into());
        }
        if self.arch == Arch::X86_64 {
            // Emulated on a busy machine, the timer may seem to be broken.
            parameters.push("no_timer_check".into());
        }
        Guest {
            kernel: self.kernel.into(),
            arch: self.arch,
            libc,
            cpus: self.cpus,
            memory_mib: if self.cpus > 4 { 3072 } else { 1536 },
            nodes: self.nodes,
            parameters,
            one_insn: self.one_insn,
            timeout: Duration::from_secs(2400),
            packages,
            ..Guest::default()
        }
    }
}

impl Libc {
    pub fn name(&self) -> String {
        match self {
            Libc::Glibc(version) => format!("glibc {version}"),
            Libc::Musl => "musl".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kernel_and_c_library_has_a_cell() {
        let has = |arch, kernel, libc| {
            CELLS.iter().any(|c| c.arch == arch && c.kernel == kernel && c.libc == libc)
        };
        for kernel in ["6.1", "6.12", "6.18", "6.19", "7.0", "7.2", "7.3", "7.2-slice"] {
            assert!(has(X, kernel, G36) && has(X, kernel, G41), "{kernel}");
            let anywhere = |c: &Cell| c.arch == X && c.kernel == kernel && c.one_insn;
            assert!(CELLS.iter().any(anywhere), "{kernel} interrupted anywhere");
        }
        for kernel in ["6.12", "6.19", "7.2"] {
            assert!(has(A, kernel, G36) && has(A, kernel, G41), "{kernel}");
            let anywhere = |c: &Cell| c.arch == A && c.kernel == kernel && c.one_insn;
            assert!(CELLS.iter().any(anywhere), "{kernel} interrupted anywhere");
        }
        for arch in [X, A] {
            assert!(CELLS.iter().any(|c| c.arch == arch && c.libc == G43));
            assert!(CELLS.iter().any(|c| c.arch == arch && c.nodes > 1 && c.cpus == 16));
        }
        for arch in [X, A] {
            assert!(CELLS.iter().any(|c| c.arch == arch && c.libc == Libc::Musl));
        }
    }

    #[test]
    fn names_tell_cells_apart() {
        let names: BTreeSet<_> = CELLS.iter().map(Cell::name).collect();
        assert_eq!(names.len(), CELLS.len());
    }

    #[test]
    fn the_short_form_has_what_ci_must_run() {
        let has = |arch, kernel, libc, one_insn| {
            let same = |c: &&Cell| {
                (c.arch, c.kernel, c.libc, c.one_insn) == (arch, kernel, libc, one_insn)
            };
            CELLS.iter().filter(|c| c.short).any(|c| same(&c))
        };
        assert!(has(X, "7.2", G41, false) && has(X, "7.2", G41, true));
        assert!(has(X, "7.2-slice", G41, false) && has(X, "6.1", G41, false));
        assert!(has(A, "7.2", G41, false) && has(A, "7.2", G41, true));
    }

    #[test]
    fn registrations_are_taken_over_where_that_reaches_v2() {
        let taken = |cell: &Cell| cell.expected_taken().map(|e| (e.length, e.abi));
        for cell in CELLS {
            let is_due = cell.libc == G36 && version(cell.kernel) >= Some((7, 0));
            assert_eq!(taken(cell), is_due.then_some((33, "V2")), "{}", cell.name());
        }
    }

    #[test]
    fn strict_is_what_the_kernel_can_be() {
        let strict: BTreeSet<_> =
            CELLS.iter().filter(|c| c.is_strict()).map(|c| c.kernel).collect();
        assert_eq!(strict, BTreeSet::from(["6.19", "7.0", "7.2", "7.2-slice", "7.3"]));
    }

    #[test]
    fn the_machine_is_like_the_cell_nearest_to_it() {
        if cfg!(target_arch = "x86_64") {
            let on = |kernel, glibc| machine(kernel, glibc, 2).map(|c| c.expected);
            assert_eq!(on((6, 18), (2, 36)), Some(LEGACY));
            assert_eq!(on((6, 2), (2, 36)), Some(NO_CIDS));
            assert_eq!(on((7, 4), (2, 40)).map(|e| e.abi), Some("legacy"));
            assert_eq!(on((7, 4), (2, 44)).map(|e| e.length), Some(33));
            assert_eq!(on((5, 10), (2, 36)), None);
        }
    }
}
