//! Weather: signals and migrations that hit threads while they work.

use crate::blocks::Random;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Signals handled, and threads moved to another CPU or the same.
pub static SIGNALS: AtomicUsize = AtomicUsize::new(0);
pub static MOVES: AtomicUsize = AtomicUsize::new(0);

/// What there had been when a scene began.
pub struct Weather {
    signals: usize,
    moves: usize,
}

impl Weather {
    pub fn now() -> Weather {
        Weather { signals: SIGNALS.load(Relaxed), moves: MOVES.load(Relaxed) }
    }

    /// A slow machine gets the time it needs.
    pub fn was_enough(&self) -> bool {
        const ENOUGH: usize = 30;
        let now = Weather::now();
        let can_move = cpus().len() > 1;
        now.signals >= self.signals + ENOUGH && (!can_move || now.moves >= self.moves + ENOUGH)
    }
}

extern "C" fn on_signal(_: i32) {
    SIGNALS.fetch_add(1, Relaxed);
}

/// Threads that the weather may hit.
pub static EXPOSED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// While it lives, this thread is hit by the weather.
pub struct Exposed(i32);

impl Exposed {
    pub fn new() -> Exposed {
        // SAFETY: no arguments.
        let tid = unsafe { libc::gettid() };
        EXPOSED.lock().unwrap().push(tid);
        Exposed(tid)
    }
}

impl Drop for Exposed {
    fn drop(&mut self) {
        EXPOSED.lock().unwrap_or_else(|e| e.into_inner()).retain(|tid| *tid != self.0);
    }
}

/// The CPUs this process may run on.
pub fn cpus() -> Vec<usize> {
    // SAFETY: a zeroed set is an empty one; the call fills it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

pub fn set_affinity(tid: i32, cpus: &[usize]) -> bool {
    // SAFETY: a zeroed set is an empty one.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.iter().for_each(|cpu| libc::CPU_SET(*cpu, &mut set));
        libc::sched_setaffinity(tid, size_of_val(&set), &set) == 0
    }
}

pub fn install_handler() {
    // SAFETY: the handler adds to an atomic and nothing else.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        for signal in [libc::SIGUSR1, libc::SIGALRM] {
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    }
}

/// An alarm each `us` microseconds; none at 0.
fn set_alarm(us: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: us };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: passes a value.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// Sends signals to, and moves, one exposed thread after another.
pub fn storm(stop: &AtomicBool) {
    let cpus = cpus();
    let mut random = Random::new(0);
    set_alarm(700);
    while !stop.load(Relaxed) {
        std::thread::sleep(Duration::from_micros(100));
        // Under the lock the chosen thread cannot end.
        let exposed = EXPOSED.lock().unwrap();
        for _ in 0..exposed.len().min(4) {
            let tid = exposed[random.below(exposed.len())];
            // SAFETY: a live thread of this process; the handler is installed.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1) };
            if cpus.len() > 1 {
                let tid = exposed[random.below(exposed.len())];
                let moved = set_affinity(tid, &[cpus[random.below(cpus.len())]]);
                MOVES.fetch_add(moved as usize, Relaxed);
            }
        }
    }
    set_alarm(0);
}
