//! The hit of each entry, as compiled: what a thread executes from the entry's
//! first instruction to its return when the slab has what it wants.
//!
//! The path is the straightest one through a COMMIT: from the entry to a
//! return, by way of the last instruction of a restartable sequence, with the
//! fewest branches taken, as compilers lay out what is likely, and then with
//! the fewest instructions. Sequences are found by their descriptors in
//! `__rseq_cs`, as debuggers find them. (Stepping through a running program
//! shows nothing: every step aborts the sequence.) Counted
//! are instructions, loads, stores, conditional branches, jumps and calls, and
//! compared with `tests/golden/fast_path.<arch>`; `CIDALLOC_TEST_BLESS=1` records
//! the present counts. C's entries are those of `libcidalloc.so`, Rust's those
//! of the command, a Rust program with cidalloc as its global allocator.
//!
//! `CIDALLOC_TEST_AARCH64_DIR` names a directory with both built for aarch64.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone, Copy, PartialEq)]
enum Arch {
    X86,
    Arm,
}

// ---- the golden file

/// A row of the golden file: an entry, the file it is in, and its symbol.
const ENTRIES: [(&str, &str, &str); 6] = [
    ("malloc", "libcidalloc.so", "malloc"),
    ("free", "libcidalloc.so", "free"),
    ("operator_new", "libcidalloc.so", "_Znwm"),
    ("operator_delete_sized", "libcidalloc.so", "_ZdlPvm"),
    ("global_alloc", "cidalloc", "__rust_alloc"),
    ("global_dealloc", "cidalloc", "__rust_dealloc"),
];

const COLUMNS: &str = "entry\tinstructions\tloads\tstores\tbranches\tjumps\tcalls";

#[derive(Debug, Default, PartialEq)]
struct Counts {
    instructions: usize,
    loads: usize,
    stores: usize,
    /// Conditional.
    branches: usize,
    jumps: usize,
    calls: usize,
}

impl Counts {
    fn row(&self, entry: &str) -> String {
        let Counts { instructions, loads, stores, branches, jumps, calls } = self;
        format!("{entry}\t{instructions}\t{loads}\t{stores}\t{branches}\t{jumps}\t{calls}")
    }
}

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("fast_path.{name}"))
}

/// Counts every entry of the files in `dir` and compares with the golden file.
fn check(arch: Arch, dir: &Path, golden: &Path) {
    let mut programs = HashMap::new();
    let mut found = String::new();
    let mut listings = String::new();
    for (entry, file, symbol) in ENTRIES {
        let program = programs.entry(file).or_insert_with(|| Program::read(arch, &dir.join(file)));
        let path = program.hit(symbol);
        let counts = program.count(&path);
        assert_eq!(counts.calls, 0, "{entry} calls on its fast path:\n{}", program.list(&path));
        found += &format!("{}\n", counts.row(entry));
        listings += &format!("{entry}\n{}\n", program.list(&path));
    }
    let compiler = compiler_of(&dir.join("libcidalloc.so"));
    let present = format!("# {compiler}\n{COLUMNS}\n{found}");
    if std::env::var_os("CIDALLOC_TEST_BLESS").is_some() {
        std::fs::write(golden, &present).expect("tests/golden is writable");
    }
    let recorded = std::fs::read_to_string(golden).expect("the golden file");
    if recorded.lines().next() == present.lines().next() {
        assert_eq!(
            present, recorded,
            "the fast path has changed; CIDALLOC_TEST_BLESS=1 records it. It is now:\n{listings}"
        );
        return;
    }
    // Another compiler arranges the Rust around the sequences its own way.
    println!("recorded with another compiler: {compiler} is held to three instructions more");
    for (found, recorded) in found.lines().zip(recorded.lines().skip(2)) {
        let most = recorded.split('\t').zip([0, 3, 1, 0, 1, 1, 0]);
        for (i, (found, (recorded, slack))) in found.split('\t').zip(most).enumerate() {
            let [Ok(found), Ok(recorded)] = [found, recorded].map(str::parse::<usize>) else {
                assert_eq!(found, recorded);
                continue;
            };
            assert!(found <= recorded + slack, "column {i} of {found}: {recorded}\n{listings}");
        }
    }
}

/// The compiler named in a file's `.comment`.
fn compiler_of(file: &Path) -> String {
    let text = run(Command::new("readelf").args(["-p", ".comment"]).arg(file));
    let at = text.find("rustc version ").expect("rustc left its name");
    text[at..].split(" (").next().unwrap().to_string()
}

// ---- a disassembled program

#[derive(Debug)]
struct Instruction {
    mnemonic: String,
    operands: String,
    next: u64,
}

struct Program {
    arch: Arch,
    code: BTreeMap<u64, Instruction>,
    symbols: HashMap<String, u64>,
    /// Start and end of each restartable sequence.
    sequences: Vec<(u64, u64)>,
}

/// Where control goes after an instruction.
enum Flow {
    Next,
    Branch(u64),
    Jump(Option<u64>),
    Call(Option<u64>),
    Return,
    Never,
}

/// A place on a path: the next instruction, what is behind, and whither the
/// calls in progress return.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    at: u64,
    committed: bool,
    returns: Vec<u64>,
}

/// What a branch taken and a call count for in instructions, when the
/// straightest path is looked for, and how long that may be.
const TAKEN: usize = 100;
const CALLED: usize = 1000;
const MOST: usize = 3000;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

impl Program {
    fn read(arch: Arch, file: &Path) -> Program {
        let objdump = |options: &[&str]| {
            let tool = if arch == Arch::Arm { "aarch64-linux-gnu-objdump" } else { "objdump" };
            run(Command::new(tool).args(options).arg(file))
        };
        let mut program =
            Program { arch, code: BTreeMap::new(), symbols: HashMap::new(), sequences: Vec::new() };
        program.read_code(&objdump(&["-d", "--no-show-raw-insn", "-w"]));
        for table in ["-t", "-T"] {
            program.read_symbols(&objdump(&[table]));
        }
        let contents = objdump(&["-s", "-j", "__rseq_cs"]);
        program.read_sequences(&contents, &objdump(&["-R"]));
        program
    }

    fn read_code(&mut self, text: &str) {
        let mut last: Option<u64> = None;
        for line in text.lines() {
            // "   1234:\tmov    (%rax),%rbx        # 5678 <name>"
            let Some((address, rest)) = line.split_once(":\t") else { continue };
            let Some(address) = hex(address) else { continue };
            let rest = rest.split(" # ").next().unwrap().split(" // ").next().unwrap().trim();
            let (mut mnemonic, mut operands) =
                rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            while ["lock", "rep", "repz", "bnd", "notrack", "data16", "cs", "ds"]
                .contains(&mnemonic)
            {
                let rest = operands.trim();
                (mnemonic, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            }
            if let Some(last) = last.and_then(|last| self.code.get_mut(&last)) {
                last.next = address;
            }
            let (mnemonic, operands) = (mnemonic.to_string(), operands.trim().to_string());
            self.code.insert(address, Instruction { mnemonic, operands, next: 0 });
            last = Some(address);
        }
    }

    fn read_symbols(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (first, last) = (words.next().and_then(hex), words.next_back());
            if let (Some(address), Some(name)) = (first, last) {
                if self.code.contains_key(&address) {
                    self.symbols.insert(name.to_string(), address);
                }
            }
        }
    }

    /// Descriptors are 32 bytes: version, flags, start, length, abort. In a
    /// program that may lie anywhere, addresses are in its relocations.
    fn read_sequences(&mut self, contents: &str, relocations: &str) {
        let mut bytes = Vec::new();
        let mut base = None;
        for line in contents.lines().filter(|l| l.starts_with(' ')) {
            let mut words = line.split_whitespace();
            base = base.or(words.next().and_then(hex));
            // Up to four groups of four bytes, then the same as text.
            let data = line.trim_start().split_once(' ').unwrap().1;
            let data = &data[..data.len().min(35)];
            for pair in data.replace(' ', "").as_bytes().chunks(2) {
                let pair = std::str::from_utf8(pair).unwrap();
                bytes.extend(u8::from_str_radix(pair, 16).ok());
            }
        }
        let base = base.expect("the program has sequences");
        let relocated: HashMap<u64, u64> = relocations
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let at = words.next().and_then(hex)?;
                Some((at, hex(words.next_back()?.strip_prefix("*ABS*+")?)?))
            })
            .collect();
        for (i, descriptor) in bytes.chunks_exact(32).enumerate() {
            let word = |at: usize| u64::from_le_bytes(descriptor[at..at + 8].try_into().unwrap());
            let place = base + 32 * i as u64;
            let start = relocated.get(&(place + 8)).copied().unwrap_or(word(8));
            self.sequences.push((start, start + word(16)));
        }
        assert!(self.sequences.iter().all(|(start, end)| start < end));
    }

    fn address_of(&self, symbol: &str) -> u64 {
        // Rust's own entries carry the compiler's mark before their name.
        let mangled = format!("___rustc{}_{symbol}", symbol.len());
        let is_it = |name: &str| name == symbol || name.ends_with(&mangled);
        let found: BTreeSet<u64> =
            self.symbols.iter().filter(|(name, _)| is_it(name)).map(|(_, a)| *a).collect();
        assert_eq!(found.len(), 1, "{symbol} is at {found:x?}");
        *found.first().unwrap()
    }

    fn flow(&self, instruction: &Instruction) -> Flow {
        let Instruction { mnemonic, operands, .. } = instruction;
        let target = || {
            let place = operands.rsplit(',').next().unwrap().split('<').next().unwrap();
            // An asterisk marks an address out of memory or a register.
            hex(place).filter(|_| !operands.starts_with('*'))
        };
        match (self.arch, mnemonic.as_str()) {
            (Arch::X86, "ret" | "retq") | (Arch::Arm, "ret") => Flow::Return,
            (Arch::X86, "call" | "callq") | (Arch::Arm, "bl" | "blr") => Flow::Call(target()),
            (Arch::X86, "jmp" | "jmpq") | (Arch::Arm, "b" | "br") => Flow::Jump(target()),
            (Arch::X86, "ud1" | "ud2" | "hlt" | "int3") | (Arch::Arm, "udf" | "brk") => Flow::Never,
            (Arch::X86, m) if m.starts_with('j') => Flow::Branch(target().expect("a target")),
            (Arch::Arm, m) if m.starts_with("b.") => Flow::Branch(target().expect("a target")),
            (Arch::Arm, "cbz" | "cbnz" | "tbz" | "tbnz") => {
                Flow::Branch(target().expect("a target"))
            }
            _ => Flow::Next,
        }
    }

    /// The instructions of the straightest path from `symbol` to its return
    /// that goes through a sequence to its end.
    fn hit(&self, symbol: &str) -> Vec<u64> {
        let start = Place { at: self.address_of(symbol), committed: false, returns: Vec::new() };
        let mut reached: HashMap<Place, (usize, Option<Place>)> =
            HashMap::from([(start.clone(), (0, None))]);
        let mut queue = BinaryHeap::from([(Reverse(0), start)]);
        while let Some((Reverse(cost), place)) = queue.pop() {
            let Some(instruction) = self.code.get(&place.at) else { continue };
            if reached[&place].0 < cost {
                continue;
            }
            // The sequence's last instruction is its COMMIT.
            let commits = self
                .sequences
                .iter()
                .any(|(start, end)| (*start..*end).contains(&place.at) && instruction.next == *end);
            let mut next = |at: u64, returns: Vec<u64>, step: usize| {
                let to = Place { at, committed: place.committed || commits, returns };
                let cost = cost + 1 + step;
                if cost < MOST && reached.get(&to).is_none_or(|(before, _)| cost < *before) {
                    reached.insert(to.clone(), (cost, Some(place.clone())));
                    queue.push((Reverse(cost), to));
                }
            };
            let mut returns = place.returns.clone();
            match self.flow(instruction) {
                Flow::Next => next(instruction.next, returns, 0),
                Flow::Branch(target) => {
                    next(instruction.next, returns.clone(), 0);
                    next(target, returns, TAKEN);
                }
                Flow::Jump(Some(target)) => next(target, returns, 0),
                Flow::Call(Some(target)) if returns.len() < 2 => {
                    returns.push(instruction.next);
                    next(target, returns, CALLED);
                }
                Flow::Return => match returns.pop() {
                    Some(back) => next(back, returns, 0),
                    None if place.committed => {
                        let mut path = vec![place.at];
                        let mut place = &place;
                        while let Some((_, Some(before))) = reached.get(place) {
                            path.push(before.at);
                            place = before;
                        }
                        path.reverse();
                        return path;
                    }
                    None => {}
                },
                Flow::Jump(None) | Flow::Call(_) | Flow::Never => {}
            }
        }
        panic!("{symbol} has no path through a COMMIT");
    }

    fn count(&self, path: &[u64]) -> Counts {
        let mut counts = Counts { instructions: path.len(), ..Counts::default() };
        for at in path {
            let instruction = &self.code[at];
            match self.flow(instruction) {
                Flow::Branch(_) => counts.branches += 1,
                Flow::Jump(_) => counts.jumps += 1,
                Flow::Call(_) => counts.calls += 1,
                _ => {}
            }
            let (loads, stores) = self.memory(instruction);
            counts.loads += loads as usize;
            counts.stores += stores as usize;
        }
        counts
    }

    /// Whether an instruction reads and writes memory. Returns and calls are
    /// not counted for the stack.
    fn memory(&self, instruction: &Instruction) -> (bool, bool) {
        let Instruction { mnemonic, operands, .. } = instruction;
        if self.arch == Arch::Arm {
            return (mnemonic.starts_with("ld"), mnemonic.starts_with("st"));
        }
        let is_memory = |operand: &str| operand.contains('(') || operand.contains("%fs:");
        let operands = split_operands(operands);
        let last = operands.last().is_some_and(|o| is_memory(o));
        let other = operands.iter().rev().skip(1).any(|o| is_memory(o));
        match mnemonic.as_str() {
            m if m.starts_with("lea") || m.starts_with("nop") => (false, false),
            m if m.starts_with("push") => (last, true),
            m if m.starts_with("pop") => (true, last),
            m if m.starts_with("cmp") || m.starts_with("test") => (last || other, false),
            m if m.starts_with("mov") || m.starts_with("set") => (other, last),
            m if m.starts_with('j') || m.starts_with("call") => (last, false),
            _ => (last || other, last),
        }
    }

    fn list(&self, path: &[u64]) -> String {
        path.iter()
            .map(|at| {
                let Instruction { mnemonic, operands, .. } = &self.code[at];
                format!("  {at:x}: {mnemonic} {operands}\n")
            })
            .collect()
    }
}

/// The operands of an instruction; commas within parentheses separate none.
fn split_operands(operands: &str) -> Vec<&str> {
    let mut depth = 0;
    operands
        .split(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        })
        .filter(|operand| !operand.is_empty())
        .collect()
}

// ---- the tests

#[test]
fn the_fast_paths_are_as_recorded() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--release", "-p", "cidalloc-ffi", "-p", "cidalloc-cli"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target);
    run(&mut build);
    check(Arch::X86, &target.join("release"), &golden_path("x86_64"));
}

#[test]
fn the_fast_paths_on_aarch64_are_as_recorded() {
    match std::env::var_os("CIDALLOC_TEST_AARCH64_DIR") {
        Some(dir) => check(Arch::Arm, Path::new(&dir), &golden_path("aarch64")),
        None => println!("skipped: CIDALLOC_TEST_AARCH64_DIR names no build for aarch64"),
    }
}

/// A program of a few lines, to see that the count is right.
fn toy(code: &str) -> Program {
    let mut toy = Program {
        arch: Arch::X86,
        code: BTreeMap::new(),
        symbols: HashMap::from([("entry".to_string(), 0)]),
        sequences: vec![(0x10, 0x14)],
    };
    toy.read_code(code);
    toy
}

#[test]
fn the_hit_is_the_straightest_way_through_a_commit() {
    let toy = toy("
       0:\ttest   %rdi,%rdi
       3:\tje     40 <entry+0x40>
       5:\tjae    10 <entry+0x10>
       8:\tmov    (%rax),%rbx
       c:\tjbe    30 <entry+0x30>
      10:\tmov    %rbx,-0x8(%rcx,%rdx,1)
      14:\tret
      30:\tcall   50 <slow>
      35:\tret
      40:\tret
      50:\tlea    0x10(%rip),%rax        # 67 <x>
      57:\tjmp    10 <entry+0x10>");
    let path = toy.hit("entry");
    assert_eq!(path, [0, 3, 5, 8, 0xc, 0x10, 0x14], "{}", toy.list(&path));
    let due = Counts { instructions: 7, loads: 1, stores: 1, branches: 3, ..Counts::default() };
    assert_eq!(toy.count(&path), due);
}

#[test]
fn loads_and_stores_are_told_apart() {
    let code = "
       0:\tmov    %fs:(%rax),%rcx
       1:\tmov    %rcx,(%rax,%rbx,8)
       2:\tadd    $0x8,(%rax)
       3:\tcmp    0xc(%rax,%rcx,1),%edx
       4:\tlea    0x8(%rax),%rcx
       5:\tpush   %rbx
       6:\tpop    %rbx
       7:\tmovzbl (%rcx,%rax,1),%eax
       8:\tjmp    *0x10(%rax)
       9:\tnopw   0x0(%rax,%rax,1)";
    let toy = toy(code);
    let found: Vec<_> = toy.code.values().map(|i| toy.memory(i)).collect();
    let (l, s, none) = ((true, false), (false, true), (false, false));
    assert_eq!(found, [l, s, (true, true), l, none, s, l, l, l, none]);
}
