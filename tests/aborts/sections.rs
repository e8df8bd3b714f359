//! The sections of a running process's `libcidalloc.so`, and their points: each
//! instruction of a sequence, as a place where its thread may be stopped.
//!
//! Descriptors are read from the process, where they are relocated. On x86_64
//! objdump tells where instructions begin; on aarch64 that is every four bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

/// Where a point lies in its sequence, and so what a stop there must lead to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// From where an abort begins anew up to the section: no abort.
    Before,
    /// In the section: an abort.
    Inside,
    /// The first instruction after the commit, or of a miss: no abort.
    After,
}

#[derive(Clone, Debug)]
pub struct Point {
    pub address: u64,
    pub part: Part,
    /// Function, offset in it, and what is known of it, for a report.
    pub name: String,
}

/// One descriptor. Addresses are the process's.
#[derive(Clone, Debug)]
pub struct Section {
    pub function: String,
    pub descriptor: u64,
    pub start: u64,
    pub end: u64,
    pub abort: u64,
    pub points: Vec<Point>,
    /// The commit, and the second instruction behind it.
    pub commit: u64,
    pub next: u64,
}

impl Section {
    /// Where control leaves the sequence.
    pub fn exits(&self) -> impl Iterator<Item = u64> + '_ {
        self.points.iter().filter(|p| p.part == Part::After).map(|p| p.address)
    }

    /// The miss that only a thread comes to whose id has changed under way.
    pub fn needs_lost_id(&self, point: &Point) -> bool {
        self.is_locked() && point.part == Part::After && point.address != self.end
    }

    /// Whether the thread holds the slab's lock in the section: `set_limits`
    /// alone. Nobody else can do more than hit there.
    pub fn is_locked(&self) -> bool {
        self.function.contains("set_limits")
    }
}

/// A library's file.
struct Elf {
    bytes: Vec<u8>,
}

impl Elf {
    fn number(&self, at: usize, len: usize) -> u64 {
        let mut word = [0; 8];
        word[..len].copy_from_slice(&self.bytes[at..at + len]);
        u64::from_le_bytes(word)
    }

    /// Name, address as linked, offset in the file, and size of each section.
    fn sections(&self) -> Vec<(String, u64, usize, usize)> {
        let table = self.number(0x28, 8) as usize;
        let (each, count) = (self.number(0x3a, 2) as usize, self.number(0x3c, 2) as usize);
        let field = |i: usize, at: usize, len: usize| self.number(table + i * each + at, len);
        let names = field(self.number(0x3e, 2) as usize, 0x18, 8) as usize;
        (0..count)
            .map(|i| {
                let name = self.text(names + field(i, 0, 4) as usize);
                let (offset, size) = (field(i, 0x18, 8) as usize, field(i, 0x20, 8) as usize);
                (name, field(i, 0x10, 8), offset, size)
            })
            .collect()
    }

    fn text(&self, at: usize) -> String {
        let len = self.bytes[at..].iter().position(|b| *b == 0).unwrap();
        String::from_utf8_lossy(&self.bytes[at..at + len]).into_owned()
    }

    /// Address and name of each function, in rising order.
    fn functions(&self) -> Vec<(u64, String)> {
        let sections = self.sections();
        let of = |name: &str| sections.iter().find(|s| s.0 == name).expect("a symbol table");
        let (symbols, strings) = (of(".symtab"), of(".strtab"));
        const EACH: usize = 24;
        const FUNCTION: u64 = 2;
        let mut functions: Vec<(u64, String)> = (0..symbols.3 / EACH)
            .map(|i| symbols.2 + i * EACH)
            .filter(|at| self.number(at + 4, 1) & 15 == FUNCTION)
            .map(|at| (self.number(at + 8, 8), self.text(strings.2 + self.number(at, 4) as usize)))
            .collect();
        functions.sort();
        functions
    }
}

/// Reads all sections of `library`, which process `pid` has loaded.
pub fn read(library: &Path, pid: i32, memory: &File) -> Vec<Section> {
    let elf = Elf { bytes: std::fs::read(library).expect("the library") };
    let base = base_of(library, pid);
    let functions = elf.functions();
    let starts = instructions(library);
    let words = |section: &str| -> Vec<u64> {
        let (_, address, _, size) =
            elf.sections().into_iter().find(|s| s.0 == section).expect("the library has sections");
        let mut bytes = vec![0; size];
        memory.read_exact_at(&mut bytes, base + address).expect("the library's data");
        bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
    };
    let exits = words("__rseq_exit_point_array");
    let descriptors = elf.sections().into_iter().find(|s| s.0 == "__rseq_cs").unwrap().1 + base;
    let mut sections = Vec::new();
    for (i, words) in words("__rseq_cs").chunks_exact(4).enumerate() {
        let [_, start, len, abort] = words.try_into().unwrap();
        let name_of = |address: u64| {
            let at = address - base;
            let i = functions.partition_point(|(start, _)| *start <= at);
            let (begin, name) = &functions[i.checked_sub(1).expect("the function")];
            (name.clone(), at - begin)
        };
        // The boundaries in the process from `from` on.
        let boundaries = |from: u64| match starts {
            Some(starts) => starts.range(from - base..).map(|at| at + base).collect::<Vec<_>>(),
            None => (0..200).map(|i| from + 4 * i).collect(),
        };
        let mut points = Vec::new();
        let mut add = |address: u64, part: Part, what: &str| {
            let (function, offset) = name_of(address);
            let name = format!("{function}+{offset:#x} ({what})");
            points.push(Point { address, part, name });
        };
        let end = start + len;
        let retry = jump_target(memory, abort);
        assert!(retry < start && start < end, "a section at {start:#x} is strange");
        let owner = name_of(start);
        for address in boundaries(retry).into_iter().take_while(|a| *a < end) {
            match address < start {
                true => add(address, Part::Before, "before the section"),
                false => {
                    let what = format!("section+{:#x} of {:#x}", address - start, end - start);
                    add(address, Part::Inside, &what);
                }
            }
        }
        add(end, Part::After, "after the commit");
        let exits = exits.chunks_exact(2).filter(|pair| pair[0] == start).map(|pair| pair[1]);
        for exit in exits.filter(|exit| *exit != end).collect::<BTreeSet<_>>() {
            add(exit, Part::After, &format!("a miss in {}+{:#x}", owner.0, owner.1));
        }
        sections.push(Section {
            function: owner.0,
            descriptor: descriptors + 32 * i as u64,
            start,
            end,
            abort,
            commit: boundaries(start).into_iter().take_while(|a| *a < end).last().unwrap(),
            next: boundaries(end)[1],
            points,
        });
    }
    sections
}

/// Where a process has loaded a library.
fn base_of(library: &Path, pid: i32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let name = library.file_name().unwrap().to_str().unwrap();
    let line = maps.lines().find(|line| line.ends_with(name)).expect("the library is loaded");
    u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
}

/// Where the instructions of the library begin, as linked; none where all are
/// four bytes long.
fn instructions(library: &Path) -> Option<&'static BTreeSet<u64>> {
    static STARTS: OnceLock<BTreeSet<u64>> = OnceLock::new();
    let address = |line: &str| {
        u64::from_str_radix(line.strip_prefix(' ')?.split_once(":\t")?.0.trim(), 16).ok()
    };
    let disassemble = || {
        let mut objdump = crate::common::command("objdump");
        let text = crate::common::run_ok(objdump.args(["-d", "--no-show-raw-insn"]).arg(library));
        text.lines().filter_map(address).collect()
    };
    cfg!(target_arch = "x86_64").then(|| STARTS.get_or_init(disassemble))
}

/// Where the jump goes that an abort begins with.
fn jump_target(memory: &File, at: u64) -> u64 {
    let mut code = [0; 5];
    memory.read_exact_at(&mut code, at).expect("the code");
    let word = |from: usize| i32::from_le_bytes(code[from..from + 4].try_into().unwrap());
    let (len, distance) = match code[0] {
        _ if cfg!(target_arch = "aarch64") => {
            assert_eq!(word(0) as u32 >> 26, 5, "an abort begins with a jump");
            (0, (word(0) << 6 >> 4) as i64)
        }
        0xeb => (2, i64::from(code[1] as i8)),
        0xe9 => (5, i64::from(word(1))),
        other => panic!("an abort begins with a jump, not {other:#x}"),
    };
    at.wrapping_add(len).wrapping_add_signed(distance)
}
