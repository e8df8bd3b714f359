//! Running models, and models that must fail.

use crate::fresh;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One model at a time: the allocator's parts are statics.
static ONE: Mutex<()> = Mutex::new(());

/// Preemptions beyond those that a model asks for: longer runs, by hand.
fn more() -> usize {
    let text = std::env::var("CIDALLOC_TEST_MODEL_MORE").unwrap_or_default();
    text.parse().unwrap_or(0)
}

/// Every execution of `model` in which threads are preempted at most
/// `preemptions` times. Panics where one does.
pub fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions + more());
    builder.max_branches = 20_000;
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = executions.clone();
    let started = std::time::Instant::now();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        fresh::renew();
        model();
    });
    let count = executions.load(std::sync::atomic::Ordering::Relaxed);
    println!("{count} executions in {:.1} s", started.elapsed().as_secs_f64());
}

/// The same of a model with a planted defect: some execution must panic, and
/// say one of `expected`.
///
/// In a process of its own, as loom's objects panic again while they are
/// dropped, which aborts. The caller is a test: the process runs it alone.
pub fn must_fail(expected: &[&str], preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    const INNER: &str = "CIDALLOC_TEST_MODEL_INNER";
    if std::env::var_os(INNER).is_some() {
        return explore(preemptions, model);
    }
    let test = std::thread::current().name().expect("a test").to_string();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(INNER, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(!output.status.success(), "the planted defect went unseen:\n{text}");
    assert!(expected.iter().any(|e| text.contains(e)), "failed, but not as planted:\n{text}");
}
