//! The kernel, the C library and the CPUs.

use serde::Serialize;

use super::read_line;
use crate::sys;

#[derive(Debug, Serialize)]
pub struct Kernel {
    /// As uname -r.
    pub release: String,
    /// As uname -m.
    pub machine: String,
    /// Whether a seccomp filter restricts this process's system calls.
    pub seccomp: bool,
}

impl Kernel {
    pub fn collect() -> Self {
        let sys::Release { release, machine } = sys::release();
        // 0 off, 1 strict, 2 filter.
        let seccomp = status_field("Seccomp").is_some_and(|mode| mode != "0");
        Kernel { release, machine, seccomp }
    }

    /// Returns the release's major and minor number, 0.0 if it does not begin with them.
    pub fn version(&self) -> (u32, u32) {
        version_of(&self.release)
    }
}

fn version_of(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[derive(Debug, Serialize)]
pub struct CLibrary {
    /// "glibc", "musl" or "unknown".
    pub name: &'static str,
    pub version: Option<String>,
}

impl CLibrary {
    pub fn collect() -> Self {
        match sys::glibc_version() {
            Some(version) => CLibrary { name: "glibc", version: Some(version) },
            // musl does not tell its version to programs.
            None if cfg!(target_env = "musl") => CLibrary { name: "musl", version: None },
            None => CLibrary { name: "unknown", version: None },
        }
    }

    /// Returns major and minor version; None unless it is glibc.
    pub fn glibc(&self) -> Option<(u32, u32)> {
        (self.name == "glibc").then(|| self.version.as_deref().map(version_of)).flatten()
    }
}

/// CPUs as the kernel's lists ("0-3,8") and their number.
#[derive(Debug, Serialize)]
pub struct Cpus {
    /// Bounds every cid and cpu id.
    pub possible: CpuList,
    pub online: CpuList,
    /// This process's affinity, cpusets included.
    pub allowed: CpuList,
}

#[derive(Debug, Serialize)]
pub struct CpuList {
    pub list: Option<String>,
    pub count: Option<u64>,
}

impl Cpus {
    pub fn collect() -> Self {
        Cpus {
            possible: CpuList::new(read_line("/sys/devices/system/cpu/possible")),
            online: CpuList::new(read_line("/sys/devices/system/cpu/online")),
            allowed: CpuList::new(status_field("Cpus_allowed_list")),
        }
    }
}

impl CpuList {
    fn new(list: Option<String>) -> Self {
        let count = list.as_deref().and_then(count_list);
        CpuList { list, count }
    }
}

/// Counts the CPUs of a list such as "0-3,8".
fn count_list(list: &str) -> Option<u64> {
    list.split(',').filter(|range| !range.is_empty()).try_fold(0u64, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Returns a field of /proc/self/status.
fn status_field(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_list("0"), Some(1));
        assert_eq!(count_list("0-1"), Some(2));
        assert_eq!(count_list("0-3,8,10-11"), Some(7));
        assert_eq!(count_list(""), Some(0));
        assert_eq!(count_list("3-0"), None);
        assert_eq!(count_list("all"), None);
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(version_of("6.18.44-fc"), (6, 18));
        assert_eq!(version_of("7.2"), (7, 2));
        assert_eq!(version_of("7.3+deb14-amd64"), (7, 3));
        assert_eq!(version_of("2.36"), (2, 36));
        assert_eq!(version_of("odd"), (0, 0));
    }
}
