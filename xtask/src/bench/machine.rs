//! The machine's description, for the head of every result.

use std::fs;
use std::process::Command;

/// Lines of "what: value".
pub fn describe() -> Vec<String> {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_once(':')).map_or("unknown", |(_, v)| v.trim()).to_owned()
    };
    let first = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        text.ok().and_then(|t| t.lines().next().map(str::to_owned)).unwrap_or("unknown".into())
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let hypervisor = file("/proc/cpuinfo").contains("hypervisor");
    vec![
        format!(
            "CPU: {} x {}{}",
            cpus,
            field(&file("/proc/cpuinfo"), "model name"),
            if hypervisor { ", virtual" } else { "" }
        ),
        format!("memory: {}", field(&file("/proc/meminfo"), "MemTotal")),
        format!("kernel: {}", file("/proc/sys/kernel/osrelease")),
        format!("transparent hugepages: {}", file("/sys/kernel/mm/transparent_hugepage/enabled")),
        format!("overcommit: {}", file("/proc/sys/vm/overcommit_memory")),
        format!("C library: {}", first("ldd", "--version")),
        format!("C compiler: {}", first("cc", "--version")),
        format!("Rust compiler: {}", first("rustc", "--version")),
        format!("date: {}", first("date", "-uI")),
    ]
}
