//! What the kernel says and does, asked without the allocator.

use std::ffi::CStr;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

const PR_RSEQ_SLICE_EXTENSION: i32 = 79;
const SET: u64 = 2;

/// Turns this thread's extensions on or off; whether the kernel has done it.
pub fn turn_slices(on: bool) -> bool {
    // SAFETY: turns a feature of this thread on or off.
    unsafe { libc::prctl(PR_RSEQ_SLICE_EXTENSION, SET, u64::from(on), 0u64, 0u64) == 0 }
}

/// Whether it grants extensions to threads that the C library has registered.
pub fn offers_slices() -> bool {
    turn_slices(true) && turn_slices(false)
}

/// Since boot, of all processes: /sys/kernel/debug/rseq/stats.
#[derive(Debug, PartialEq)]
pub struct KernelCounts {
    pub granted: u64,
    pub yielded: u64,
}

impl KernelCounts {
    pub fn read() -> Option<KernelCounts> {
        let text = std::fs::read_to_string("/sys/kernel/debug/rseq/stats").ok()?;
        let count = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        Some(KernelCounts { granted: count("sgrant")?, yielded: count("syield")? })
    }
}

/// This thread's `struct rseq`, as the C library registered it.
pub struct Area(usize);

/// Where `slice_ctrl` begins, with the byte of the request.
const REQUEST_AT: usize = 28;

impl Area {
    pub fn of_this_thread() -> Option<Area> {
        let look_up = |name: &CStr| {
            // SAFETY: a look-up by name.
            unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
        };
        let (size, offset) = (look_up(c"__rseq_size"), look_up(c"__rseq_offset"));
        if size.is_null() || offset.is_null() {
            return None;
        }
        // SAFETY: constants of the C library, of these types.
        let (size, offset) = unsafe { (*size.cast::<u32>(), *offset.cast::<isize>()) };
        (size as usize > REQUEST_AT).then(|| Area(thread_pointer().wrapping_add_signed(offset)))
    }

    fn byte(&self) -> &AtomicU8 {
        // SAFETY: within the area, which lives as long as the thread.
        unsafe { &*((self.0 + REQUEST_AT) as *const AtomicU8) }
    }

    pub fn request(&self, on: u8) {
        self.byte().store(on, Relaxed);
    }

    pub fn requested(&self) -> bool {
        self.byte().load(Relaxed) != 0
    }
}

fn thread_pointer() -> usize {
    let at: usize;
    // SAFETY: reads a register, or the word that holds the thread pointer.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {}, fs:0", out(reg) at);
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) at);
    }
    at
}

/// From now on, for all threads to come: rseq_slice_yield ends the process.
pub fn kill_for_slice_yield() {
    const SLICE_YIELD: u32 = 471;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut steps = [
        step(LOAD, 0, 0), // the call's number
        step(IF_EQUAL, 1, SLICE_YIELD),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the filter.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
            0,
            "{}",
            std::io::Error::last_os_error()
        );
    }
}
