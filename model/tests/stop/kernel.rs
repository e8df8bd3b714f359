//! The kernel's side of restartable sequences: cids, interruptions, the fence.

use cidalloc_model::fresh::Fresh;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What restartable sequences are to the code that uses them.
pub trait Rseq {
    type Section: Copy;
    /// A section begins, on a cid.
    fn begin(&self) -> (u32, Self::Section);
    /// A store in the section, the last one being the commit; false, and
    /// nothing stored, if the section was aborted before.
    fn store(&self, section: Self::Section, store: impl FnOnce()) -> bool;
}

/// A thread as the kernel sees it.
pub struct Cpu {
    /// Held by the thread at a section's two ends, by the kernel for what
    /// interrupts it. Both are full barriers for the thread.
    state: loom::sync::Mutex<(u32, u32)>,
    /// `mm_cid`, which the thread may read at any time.
    pub cid: AtomicU32,
}

static CPUS: [Fresh<Cpu>; 3] = [const { Fresh::new() }; 3];

/// Thread n, first on cid n.
pub fn cpu(n: usize) -> &'static Cpu {
    let make =
        || Cpu { state: loom::sync::Mutex::new((n as u32, 0)), cid: AtomicU32::new(n as u32) };
    // SAFETY: values of an execution live as long as it does.
    unsafe { &*CPUS[n].get(make) }
}

impl Rseq for Cpu {
    type Section = u32;

    fn begin(&self) -> (u32, u32) {
        *self.state.lock().unwrap()
    }

    fn store(&self, section: u32, store: impl FnOnce()) -> bool {
        let state = self.state.lock().unwrap();
        let done = state.1 == section;
        if done {
            store();
        }
        done
    }
}

impl Cpu {
    /// A signal, or a preemption after which the thread goes on as before.
    pub fn interrupt(&self) {
        self.state.lock().unwrap().1 += 1;
    }

    /// The thread gets another cid, which nobody holds.
    pub fn migrate(&self, cid: u32) {
        let mut state = self.state.lock().unwrap();
        *state = (cid, state.1 + 1);
        self.cid.store(cid, Relaxed);
    }
}

/// Two threads lose their cids and get each other's.
pub fn swap(one: &Cpu, other: &Cpu) {
    let mut a = one.state.lock().unwrap();
    let mut b = other.state.lock().unwrap();
    (*a, *b) = ((b.0, a.1 + 1), (a.0, b.1 + 1));
    one.cid.store(a.0, Relaxed);
    other.cid.store(b.0, Relaxed);
}

/// membarrier: what is in flight aborts, in one thread after the other.
pub fn fence() {
    (0..CPUS.len()).for_each(|n| cpu(n).interrupt());
}
