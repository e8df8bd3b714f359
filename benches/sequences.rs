//! Bare pop and push of two designs of a per-CPU cache, in the same run:
//!
//! - `cidalloc`: this crate's own `asm/<arch>/{pop,push}.s`. The id is read in
//!   every section; a header holds the address of the top slot in 64 bits.
//! - `tcmalloc`: the layout that google/tcmalloc publishes. A slab pointer cached
//!   in a thread-local word, valid while its top bit is set; a header of two
//!   16-bit slot numbers; a mark below the first slot instead of a lower limit.
//!   Written here from that design, instruction for instruction as cheap as what
//!   it compiles to, without the result test that ours needs. x86_64 only: on
//!   aarch64 the bench times our sequences alone.
//! - `tcmalloc+prefetch`: the same with the prefetches its authors add after the
//!   commit.
//!
//! Both run on areas of this bench's own, with the registration that this thread
//! really has. Criterion times one function after the other; the table at the
//! end comes from alternating short rounds, so that whatever else the machine
//! does falls on both. The ratio in it is the median of the rounds' ratios.

#[cfg(not(cidalloc_native))]
fn main() {}

#[cfg(cidalloc_native)]
fn main() {
    native::main();
}

#[cfg(cidalloc_native)]
mod native {
    use criterion::{Criterion, Throughput};
    use std::hint::black_box;
    use std::time::Duration;

    /// Classes in use; 0 stands for none, as in both allocators.
    const CLASSES: usize = 24;
    const SLOTS: usize = 256;
    /// Half of the slots are full, so that neither end is in reach.
    const OBJECTS: usize = SLOTS / 2;
    const BATCH: usize = 48;
    /// A slab's headers end here at the latest.
    const FIRST_SLOT_AT: usize = 4096;
    const _: () =
        assert!(BATCH < OBJECTS && FIRST_SLOT_AT + (CLASSES + 1) * SLOTS * 8 <= SLAB_BYTES);

    // As src/os/thread.rs, src/os/rseq.rs and src/front/slab.rs have them;
    // `Ours::enter` notices when they differ.
    const SLABS_AT: usize = 0;
    const INDEX_AT: usize = 8;
    const RSEQ_AT: usize = 16;
    const RSEQ_CS_AT: usize = 8;
    const MM_CID_AT: usize = 24;
    const CPU_ID_AT: usize = 4;
    const SLAB_SHIFT: u32 = 18;
    const SLAB_BYTES: usize = 1 << SLAB_SHIFT;
    const HEADER_BYTES: usize = 16;
    const END_AT: usize = 8;
    const BEGIN_AT: usize = 12;
    #[cfg(target_arch = "x86_64")]
    const SIGNATURE: u32 = 0x5305_3053;
    #[cfg(target_arch = "aarch64")]
    const SIGNATURE: u32 = 0xd428_bc00;

    /// One design's two operations. Objects are addresses nobody touches.
    trait Cache: Copy {
        fn pop(self, class: usize) -> usize;
        fn push(self, class: usize, object: usize);
    }

    #[cold]
    fn missed() -> ! {
        panic!("a class ran empty or full, or the id is above the CPUs configured");
    }

    /// A zeroed mapping of `count` slabs, at a multiple of a slab; never unmapped.
    fn map_slabs(count: usize) -> usize {
        let len = (count + 1) * SLAB_BYTES;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        assert!(at != libc::MAP_FAILED, "no address space");
        (at as usize).next_multiple_of(SLAB_BYTES)
    }

    /// What the slots hold: addresses 64 bytes apart, in a mapping so that they
    /// may be prefetched.
    fn object(class: usize, i: usize, base: usize) -> usize {
        base + (class * SLOTS + i) * 64
    }

    mod ours {
        use super::*;
        use std::arch::asm;

        #[cfg(target_arch = "x86_64")]
        macro_rules! sequence {
            ($name:literal) => {
                concat!(
                    include_str!(concat!("../asm/x86_64/", $name)),
                    include_str!("../asm/x86_64/section.s")
                )
            };
        }
        #[cfg(target_arch = "aarch64")]
        macro_rules! sequence {
            ($name:literal) => {
                concat!(
                    include_str!(concat!("../asm/aarch64/", $name)),
                    include_str!("../asm/aarch64/section.s")
                )
            };
        }

        /// This thread's words, of which `slabs` points to our own area.
        #[derive(Clone, Copy)]
        pub struct Ours {
            // Only the other layout asks for it, and only on x86_64.
            #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
            pub rseq: usize,
        }

        /// The crate's thread words: the symbol that its sequences name.
        fn words() -> *mut usize {
            let at: *mut usize;
            // SAFETY: computes an address.
            unsafe {
                #[cfg(target_arch = "x86_64")]
                asm!("mov {at}, qword ptr [rip + cidalloc_thread@GOTTPOFF]",
                     "add {at}, qword ptr fs:[0]",
                     at = out(reg) at, options(nostack, readonly));
                #[cfg(target_arch = "aarch64")]
                asm!("adrp {at}, :gottprel:cidalloc_thread",
                     "ldr {at}, [{at}, :gottprel_lo12:cidalloc_thread]",
                     "mrs {base}, tpidr_el0",
                     "add {at}, {at}, {base}",
                     at = out(reg) at, base = out(reg) _, options(nostack, readonly));
            }
            at
        }

        impl Ours {
            /// Makes the crate take this thread in, then turns its sections to
            /// slabs of our own; None where there is no rseq. From then on this
            /// thread must not allocate from the crate.
            pub fn enter() -> Option<Ours> {
                let block = cidalloc::heap::allocate(64);
                // SAFETY: just allocated.
                unsafe { cidalloc::heap::free(block) };
                let word = |at: usize| words().wrapping_byte_add(at);
                // SAFETY: this thread's words.
                let (slabs, index, rseq) =
                    unsafe { (*word(SLABS_AT), *word(INDEX_AT), *word(RSEQ_AT)) };
                if slabs == 0 {
                    return None;
                }
                let index_at = index.wrapping_sub(rseq);
                assert!(index_at == MM_CID_AT || index_at == CPU_ID_AT, "thread words differ");
                // SAFETY: reads a number.
                let ids = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) } as usize;
                let slabs = map_slabs(ids);
                let objects = map_slabs(1);
                for slab in (0..ids).map(|id| slabs + id * SLAB_BYTES) {
                    for class in 1..=CLASSES {
                        let begin = slab + FIRST_SLOT_AT + class * SLOTS * 8;
                        for i in 0..OBJECTS {
                            // SAFETY: within the slab.
                            unsafe {
                                ((begin + i * 8) as *mut usize).write(object(class, i, objects))
                            };
                        }
                        let header = slab + class * HEADER_BYTES;
                        // SAFETY: within the slab.
                        unsafe {
                            (header as *mut usize).write(begin + OBJECTS * 8);
                            ((header + END_AT) as *mut u32).write((begin + SLOTS * 8) as u32);
                            ((header + BEGIN_AT) as *mut u32).write(begin as u32);
                        }
                    }
                }
                // SAFETY: this thread's word; the slabs are never unmapped.
                unsafe { *word(SLABS_AT) = slabs };
                Some(Ours { rseq })
            }
        }

        impl Cache for Ours {
            #[inline(always)]
            fn pop(self, class: usize) -> usize {
                let object: usize;
                // SAFETY: this thread is registered and the slabs are its own.
                unsafe {
                    asm!(
                        sequence!("pop.s"),
                        class_at = in(reg) class * HEADER_BYTES,
                        object = out(reg) object,
                        slab = out(reg) _,
                        cur = out(reg) _,
                        rseq = out(reg) _,
                        SLABS_AT = const SLABS_AT,
                        INDEX_AT = const INDEX_AT,
                        RSEQ_AT = const RSEQ_AT,
                        RSEQ_CS_AT = const RSEQ_CS_AT,
                        SLAB_SHIFT = const SLAB_SHIFT,
                        BEGIN_AT = const BEGIN_AT,
                        SIGNATURE = const SIGNATURE,
                        options(nostack)
                    );
                }
                if object == 0 {
                    missed();
                }
                object
            }

            #[inline(always)]
            fn push(self, class: usize, object: usize) {
                let done: usize;
                // SAFETY: as `pop`.
                unsafe {
                    asm!(
                        sequence!("push.s"),
                        class_at = in(reg) class * HEADER_BYTES,
                        object = in(reg) object,
                        done = out(reg) done,
                        slab = out(reg) _,
                        rseq = out(reg) _,
                        desc = out(reg) _,
                        SLABS_AT = const SLABS_AT,
                        INDEX_AT = const INDEX_AT,
                        RSEQ_AT = const RSEQ_AT,
                        RSEQ_CS_AT = const RSEQ_CS_AT,
                        SLAB_SHIFT = const SLAB_SHIFT,
                        END_AT = const END_AT,
                        SIGNATURE = const SIGNATURE,
                        options(nostack)
                    );
                }
                if done == 0 {
                    missed();
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    mod peer {
        use super::*;
        use std::arch::{asm, global_asm};

        // The cached pointer's word. In the real thing the kernel's write of the
        // id that overlaps its top half takes the bit away; here nobody else
        // uses the slab, so that nothing needs to.
        global_asm!(
            ".pushsection .tbss.bench_peer,\"awT\",@nobits",
            ".balign 8",
            ".hidden bench_peer_slab",
            ".globl bench_peer_slab",
            ".type bench_peer_slab, @object",
            ".size bench_peer_slab, 8",
            "bench_peer_slab:",
            ".zero 8",
            ".popsection",
        );

        /// The cached-bit of the word.
        const CACHED: usize = 1 << 63;
        const HEADER_BYTES: usize = 4;

        /// `rseq_cs` is an address held in a register; there it is a constant
        /// offset of the thread pointer, which costs the same.
        #[derive(Clone, Copy)]
        pub struct Peer<const PREFETCH: bool> {
            rseq_cs: usize,
        }

        /// Fills the slab and caches its pointer.
        pub fn enter(rseq: usize) -> (Peer<false>, Peer<true>) {
            let slab = map_slabs(1);
            let objects = map_slabs(1);
            for class in 1..=CLASSES {
                // One slot more than ours: the mark, an odd value that may be
                // prefetched, below the first one.
                let begin = FIRST_SLOT_AT / 8 + class * (SLOTS + 1) + 1;
                // SAFETY: within the slab.
                unsafe {
                    let slots = slab as *mut usize;
                    slots.add(begin - 1).write(slab | 1);
                    for i in 0..OBJECTS {
                        slots.add(begin + i).write(object(class, i, objects));
                    }
                    let header = (slab + class * HEADER_BYTES) as *mut u16;
                    header.write((begin + OBJECTS) as u16);
                    header.add(1).write((begin + SLOTS) as u16);
                }
            }
            // SAFETY: this thread's word.
            unsafe {
                asm!("mov qword ptr fs:[bench_peer_slab@TPOFF], {}", in(reg) slab | CACHED,
                     options(nostack));
            }
            let rseq_cs = rseq + RSEQ_CS_AT;
            (Peer { rseq_cs }, Peer { rseq_cs })
        }

        /// A section between labels 3 and 4, with a miss at 8, which traps: there
        /// the asm jumps to a label of its caller's, and tests nothing after it.
        macro_rules! section {
            ([$($body:literal),*], [$($after:literal),*], $($operand:tt)*) => {
                asm!(
                    "2:",
                    "lea {current}, [rip + 6f]",
                    "mov qword ptr [{rseq_cs}], {current}",
                    "3:",
                    "mov {slab}, qword ptr fs:[bench_peer_slab@TPOFF]",
                    "btr {slab}, 63", // carry = cached
                    "jnc 8f",
                    $($body,)*
                    "4:",
                    $($after,)*
                    ".pushsection .text.bench_cold, \"ax\", @progbits",
                    "8: ud2",
                    ".byte 0x0f, 0xb9, 0x3d",
                    ".long {SIGNATURE}",
                    "7: jmp 2b",
                    ".popsection",
                    ".pushsection __rseq_cs, \"aw\", @progbits",
                    ".balign 32",
                    "6: .long 0, 0",
                    ".quad 3b, 4b - 3b, 7b",
                    ".popsection",
                    slab = out(reg) _,
                    current = out(reg) _,
                    SIGNATURE = const SIGNATURE,
                    $($operand)*
                    options(nostack)
                )
            };
        }

        macro_rules! pop {
            ($self:ident, $class:ident, $object:ident, [$($after:literal),*]) => {
                section!(
                    [
                        "movzx {current:r}, word ptr [{slab} + {class} * 4]",
                        "mov {object}, qword ptr [{slab} + {current} * 8 - 8]",
                        "test {object:l}, 1", // the mark: empty
                        "jnz 8f",
                        "mov {next}, qword ptr [{slab} + {current} * 8 - 16]",
                        "lea {current}, [{current} - 1]",
                        "mov word ptr [{slab} + {class} * 4], {current:x}"
                    ],
                    [$($after),*],
                    class = in(reg) $class,
                    rseq_cs = in(reg) $self.rseq_cs,
                    object = out(reg) $object,
                    next = out(reg) _,
                )
            };
        }

        macro_rules! push {
            ($self:ident, $class:ident, $object:ident, [$($after:literal),*]) => {
                section!(
                    [
                        "movzx {current:r}, word ptr [{slab} + {class} * 4]",
                        "cmp {current:x}, word ptr [{slab} + {class} * 4 + 2]",
                        "jae 8f", // full
                        "mov qword ptr [{slab} + {current} * 8], {object}",
                        "lea {current}, [{current} + 1]",
                        "mov word ptr [{slab} + {class} * 4], {current:x}"
                    ],
                    [$($after),*],
                    class = in(reg) $class,
                    rseq_cs = in(reg) $self.rseq_cs,
                    object = in(reg) $object,
                )
            };
        }

        impl<const PREFETCH: bool> Cache for Peer<PREFETCH> {
            #[inline(always)]
            fn pop(self, class: usize) -> usize {
                let object: usize;
                // SAFETY: this thread is registered and the slab is its own.
                unsafe {
                    if PREFETCH {
                        pop!(
                            self,
                            class,
                            object,
                            ["prefetchw [{slab} + {current} * 8 - 16]", "prefetcht0 [{next}]"]
                        );
                    } else {
                        pop!(self, class, object, []);
                    }
                }
                object
            }

            #[inline(always)]
            fn push(self, class: usize, object: usize) {
                // SAFETY: as `pop`.
                unsafe {
                    if PREFETCH {
                        push!(self, class, object, ["prefetchw [{slab} + {current} * 8]"]);
                    } else {
                        push!(self, class, object, []);
                    }
                }
            }
        }
    }

    /// The CPU time of this thread: what other programs take does not count.
    fn thread_time() -> Duration {
        // SAFETY: a plain call; all bytes are a valid timespec.
        unsafe {
            let mut t: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t);
            Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
        }
    }

    /// Times `pairs` pops and as many pushes.
    type Work<C> = fn(C, u64) -> Duration;

    #[inline(never)]
    fn same_class<C: Cache>(cache: C, pairs: u64) -> Duration {
        let class = black_box(3);
        let start = thread_time();
        for _ in 0..pairs {
            let object = cache.pop(class);
            cache.push(class, object);
        }
        thread_time() - start
    }

    #[inline(never)]
    fn batches<C: Cache>(cache: C, pairs: u64) -> Duration {
        let class = black_box(3);
        let mut held = [0; BATCH];
        let start = thread_time();
        for _ in 0..pairs.div_ceil(BATCH as u64) {
            for object in &mut held {
                *object = cache.pop(class);
            }
            for &object in &held {
                cache.push(class, object);
            }
        }
        thread_time() - start
    }

    #[inline(never)]
    fn mixed_classes<C: Cache>(cache: C, pairs: u64) -> Duration {
        // Every class once in an order without a pattern of use.
        let mut order = [0u32; CLASSES];
        for (i, class) in order.iter_mut().enumerate() {
            *class = 1 + (i * 7 % CLASSES) as u32;
        }
        let order = black_box(order);
        let start = thread_time();
        for _ in 0..pairs.div_ceil(CLASSES as u64) {
            for &class in &order {
                let object = cache.pop(class as usize);
                cache.push(class as usize, object);
            }
        }
        thread_time() - start
    }

    const WORK: [&str; 3] = ["same_class", "batch_of_48", "24_classes_mixed"];

    fn work<C: Cache>(which: usize) -> Work<C> {
        [same_class::<C>, batches::<C>, mixed_classes::<C>][which]
    }

    fn ns_per_pair(elapsed: Duration, pairs: u64) -> f64 {
        elapsed.as_nanos() as f64 / pairs as f64
    }

    fn median(values: &mut [f64]) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// The rounds of one kind of work: each entry times one design.
    fn alternate(name: &str, designs: &[(&str, &dyn Fn(u64) -> Duration)]) {
        // Well below a time slice, so that most rounds run undisturbed.
        const PAIRS: u64 = 96_000;
        const ROUNDS: usize = 101;
        let mut ns = vec![Vec::with_capacity(ROUNDS); designs.len()];
        for round in 0..ROUNDS {
            for i in 0..designs.len() {
                let i = (i + round) % designs.len();
                ns[i].push(ns_per_pair(designs[i].1(PAIRS), PAIRS));
            }
        }
        for (i, (design, _)) in designs.iter().enumerate() {
            let mut ratios: Vec<f64> = ns[0].iter().zip(&ns[i]).map(|(a, b)| a / b).collect();
            let least = ns[i].iter().copied().fold(f64::INFINITY, f64::min);
            println!(
                "{name:17} {design:17} {:6.2} ns/pair, least {least:6.2}   cidalloc/{design} {:.2}",
                median(&mut ns[i].clone()),
                median(&mut ratios)
            );
        }
    }

    /// Stays on one CPU, so that the id stays the same.
    fn stay_here() {
        // SAFETY: plain calls; the set is initialised.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &set);
        }
    }

    pub fn main() {
        stay_here();
        let Some(ours) = ours::Ours::enter() else {
            println!("no restartable sequences here: nothing to measure");
            return;
        };
        #[cfg(target_arch = "x86_64")]
        let (peer, prefetching) = peer::enter(ours.rseq);

        let mut criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .sample_size(30)
            .configure_from_args();
        for (which, name) in WORK.into_iter().enumerate() {
            let mut group = criterion.benchmark_group(format!("sequences/{name}"));
            group.throughput(Throughput::Elements(1));
            group.bench_function("cidalloc", |b| b.iter_custom(|n| work(which)(ours, n)));
            #[cfg(target_arch = "x86_64")]
            {
                group.bench_function("tcmalloc", |b| b.iter_custom(|n| work(which)(peer, n)));
                group.bench_function("tcmalloc+prefetch", |b| {
                    b.iter_custom(|n| work(which)(prefetching, n))
                });
            }
            group.finish();
        }
        criterion.final_summary();

        println!("\nmedians of alternating rounds:");
        for (which, name) in WORK.into_iter().enumerate() {
            alternate(
                name,
                &[
                    ("cidalloc", &|n| work(which)(ours, n)),
                    #[cfg(target_arch = "x86_64")]
                    ("tcmalloc", &|n| work(which)(peer, n)),
                    #[cfg(target_arch = "x86_64")]
                    ("tcmalloc+prefetch", &|n| work(which)(prefetching, n)),
                ],
            );
        }
    }
}
