//! The report for people: a section for each part, a line for each fact, and the fallbacks last.

use std::fmt::{Display, Write};

use super::Report;
use super::kernel::CpuList;
use super::memory::Bound;
use super::rseq::AbiMode;
use crate::preemption::Seen;
use crate::summary::bytes;

/// Returns the report, ending in a newline.
pub fn text(report: &Report) -> String {
    let mut page = Page(String::new());
    allocator(&mut page, report);
    machine(&mut page, report);
    rseq(&mut page, report);
    memory(&mut page, report);
    fallbacks(&mut page, report);
    page.0
}

struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        let _ = writeln!(self.0, "{name}");
    }

    fn fact(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "  {name:<18} {value}");
    }
}

fn allocator(page: &mut Page, report: &Report) {
    let own = &report.allocator;
    page.section("cidalloc");
    page.fact("version", own.version);
    page.fact("mode", &own.mode);
    page.fact("index", &own.index);
    page.fact("registration", &own.registration);
    if !own.reason.is_empty() {
        page.fact("reason", &own.reason);
    }
    if !own.refused.is_empty() {
        page.fact("refused", own.refused.join(", "));
    }
    page.fact("MADV_DONTNEED", &own.dontneed);
    page.fact("time slices", with_reason(&own.slices, &own.slices_reason));
    page.fact("mapped", format_args!("{} in this process", bytes(own.mapped_bytes)));
}

fn machine(page: &mut Page, report: &Report) {
    page.section("system");
    page.fact("kernel", format_args!("{} {}", report.kernel.release, report.kernel.machine));
    if report.kernel.seccomp {
        page.fact("seccomp", "restricts this process");
    }
    let version = report.libc.version.as_deref().unwrap_or("of unknown version");
    page.fact("C library", format_args!("{} {version}", report.libc.name));
    page.fact("CPUs possible", cpus(&report.cpus.possible));
    page.fact("CPUs online", cpus(&report.cpus.online));
    page.fact("CPUs allowed", cpus(&report.cpus.allowed));
}

fn cpus(cpus: &CpuList) -> String {
    format!("{} ({})", or_unknown(cpus.count), cpus.list.as_deref().unwrap_or("unknown"))
}

fn rseq(page: &mut Page, report: &Report) {
    let rseq = &report.rseq;
    page.section("restartable sequences");
    page.fact("registered by", rseq.registered_by);
    if rseq.registered_by != "none" {
        page.fact("length", format_args!("{} bytes", or_unknown(rseq.registered_length)));
    }
    let mode = match rseq.abi_mode {
        AbiMode::Legacy => "legacy",
        AbiMode::V2 => "V2 (optimised)",
        AbiMode::None => "none",
    };
    page.fact("ABI mode", mode);
    if let Some(error) = &rseq.refused {
        page.fact("refused", error);
    }
    page.fact("aborts", &report.aborts.rule);
    if let Some(seen) = report.aborts.seen {
        let Seen { preempted, aborted } = seen;
        page.fact(
            "",
            format_args!("seen now: {aborted} of {preempted} preempted sections aborted"),
        );
    }
    if let Some(otherwise) = &report.aborts.otherwise {
        page.fact("", otherwise);
    }
    page.fact("mm_cid", if rseq.mm_cid { "yes" } else { "no" });
    page.fact("feature size", or_absent(rseq.feature_size));
    page.fact("alignment", or_absent(rseq.align));
    page.fact("__rseq_size", or_absent(rseq.libc_size));
    page.fact("__rseq_offset", or_absent(rseq.libc_offset));
    page.fact(
        "slice extension",
        with_reason(report.slice_extension.state, report.slice_extension.reason),
    );
    let membarrier = &report.membarrier;
    let commands = membarrier.commands.map(|bits| format!("{bits:#x}"));
    page.fact("membarrier", format_args!("commands {}", or_unknown(commands)));
    let state = match (membarrier.private_expedited_rseq, membarrier.registered_by_allocator) {
        (true, true) => "usable, registered by the allocator",
        (true, false) => "usable, not registered by the allocator",
        (false, _) => "not usable",
    };
    page.fact("membarrier rseq", with_reason(state, &membarrier.reason));
}

fn memory(page: &mut Page, report: &Report) {
    let memory = &report.memory;
    page.section("memory");
    page.fact("page size", bytes(memory.page_size));
    page.fact("hugepages", or_absent(memory.thp.enabled.as_deref()));
    if memory.thp.disabled {
        page.fact("hugepages off", "by prctl(PR_SET_THP_DISABLE)");
    }
    page.fact("hugepage defrag", or_absent(memory.thp.defrag.as_deref()));
    page.fact("hugepage size", or_absent(memory.thp.hugepage_size.map(bytes)));
    page.fact("address space", bound(memory.limits.address_space));
    page.fact("data", bound(memory.limits.data));
    page.fact("locked memory", bound(memory.limits.locked_memory));
    page.fact("overcommit_memory", or_unknown(memory.limits.overcommit_memory));
    page.fact("max_map_count", or_unknown(memory.limits.max_map_count));
}

fn fallbacks(page: &mut Page, report: &Report) {
    page.section("fallbacks");
    if report.fallbacks.is_empty() {
        let _ = writeln!(page.0, "  none");
    }
    for fallback in &report.fallbacks {
        page.fact(fallback.what, format_args!("{}: {}", fallback.in_force, fallback.reason));
    }
}

fn with_reason(state: &str, reason: &str) -> String {
    if reason.is_empty() { state.to_owned() } else { format!("{state}: {reason}") }
}

fn bound(bound: Bound) -> String {
    bound.0.map_or("unlimited".into(), bytes)
}

fn or_unknown(value: Option<impl Display>) -> String {
    value.map_or("unknown".into(), |value| value.to_string())
}

fn or_absent(value: Option<impl Display>) -> String {
    value.map_or("absent".into(), |value| value.to_string())
}
