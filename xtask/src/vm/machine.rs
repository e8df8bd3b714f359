//! The machine that QEMU is for a guest, and QEMU as a process.
//!
//! KVM is used where it works. It does not where other modules than the
//! hardware's offer it. Elsewhere QEMU emulates, with a host thread per CPU, and
//! takes interrupts between blocks of instructions only: `one_insn` makes each
//! instruction a block, which takes 60 to 100 times as long.

use super::guest::{Arch, Guest};
use super::kernels::Kernel;
use crate::Result;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The words after QEMU's name. What the kernel says on its console goes to a file.
pub fn arguments(guest: &Guest, kernel: &Kernel, initrd: &Path, console: &Path) -> Vec<String> {
    let has_kvm = has_kvm(guest.arch) && !guest.counted;
    let is_x86 = guest.arch == Arch::X86_64;
    let mut words: Vec<String> =
        ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
            .map(String::from)
            .into();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    let mut line = String::from("quiet panic=-1 rdinit=/init mitigations=off printk.time=1");
    match (is_x86, has_kvm) {
        (true, true) => {
            add("-machine", "q35".into());
            add("-cpu", "host".into());
        }
        (true, false) => {
            add("-machine", "q35".into());
            add("-cpu", "max,la57=off".into());
            // With a host thread per CPU, one CPU may still execute what another
            // has patched, and die of it. A second after the start kernels patch
            // how they read the clock when they go over from "tsc-early": they
            // shall stay with that.
            line += " nokaslr tsc=reliable initcall_blacklist=init_tsc_clocksource";
            // On a busy host the timer's first ticks may come too late for a kernel
            // that insists on them.
            line += " no_timer_check";
        }
        (false, true) => {
            add("-machine", "virt,gic-version=host".into());
            add("-cpu", "host".into());
        }
        (false, false) => {
            add("-machine", "virt,gic-version=3".into());
            // The authentication of pointers that costs QEMU least.
            add("-cpu", "max,pauth-impdef=on".into());
            line += " nokaslr";
        }
    }
    line += if is_x86 { " console=ttyS0" } else { " console=ttyAMA0" };
    if has_kvm {
        add("-accel", "kvm".into());
    } else {
        let threads = if guest.counted { "single" } else { "multi" };
        add("-accel", format!("tcg,thread={threads},tb-size=512"));
        if guest.counted {
            // While nothing runs the clock goes on to the next event.
            add("-icount", "shift=0,sleep=off".into());
        }
    }
    if is_single(guest) {
        // `single` is told to it when the guest has booted.
        let path = console.with_file_name(MONITOR);
        let socket = format!("socket,id=monitor,path={},server=on,wait=off", path.display());
        add("-chardev", socket);
        add("-mon", "chardev=monitor,mode=readline".into());
    }
    add("-smp", guest.cpus.to_string());
    add("-m", guest.memory_mib.to_string());
    if guest.nodes > 1 {
        for node in 0..guest.nodes {
            let share = |all: u32| all / guest.nodes;
            // The first has what is left over.
            let left_over = if node == 0 { guest.memory_mib % guest.nodes } else { 0 };
            let memory = share(guest.memory_mib) + left_over;
            let cpu = |node: u32| node * guest.cpus / guest.nodes;
            let (first, last) = (cpu(node), cpu(node + 1) - 1);
            add("-object", format!("memory-backend-ram,id=memory{node},size={memory}M"));
            add("-numa", format!("node,nodeid={node},memdev=memory{node},cpus={first}-{last}"));
        }
    }
    add("-device", "virtio-rng-pci".into());
    add("-serial", format!("file:{}", console.display()));
    add("-chardev", "stdio,id=out,signal=off".into());
    match port(guest, kernel) {
        "vport*p1" => {
            add("-device", "virtio-serial-pci".into());
            add("-device", "virtserialport,chardev=out,nr=1".into());
        }
        _ if is_x86 => add("-serial", "chardev:out".into()),
        _ => add("-device", "pci-serial,chardev=out".into()),
    }
    add("-kernel", kernel.image.display().to_string());
    add("-initrd", initrd.display().to_string());
    for parameter in &guest.parameters {
        line = line + " " + parameter;
    }
    add("-append", line);
    words
}

/// The guest's device for what the command writes.
pub fn port(guest: &Guest, kernel: &Kernel) -> &'static str {
    match (kernel.has_virtio_ports(), guest.arch) {
        (true, _) => "vport*p1",
        (false, Arch::X86_64) => "ttyS1",
        (false, Arch::Aarch64) => "ttyS0",
    }
}

/// Whether the hardware runs guests of that kind, and we may ask it to.
fn has_kvm(arch: Arch) -> bool {
    let is_open = || File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let has = |module: &str| Path::new("/sys/module").join(module).exists();
    let is_of_hardware = match arch {
        Arch::X86_64 => has("kvm_intel") || has("kvm_amd"),
        Arch::Aarch64 => true,
    };
    Arch::of_host() == Some(arch) && is_of_hardware && is_open()
}

/// The socket of QEMU's monitor, in the guest's directory.
const MONITOR: &str = "monitor";

/// Whether the guest's command is emulated by single instructions.
pub fn is_single(guest: &Guest) -> bool {
    guest.one_insn && !has_kvm(guest.arch)
}

/// Switches emulation by single instructions on or off: a boot would take minutes.
pub fn single(directory: &Path, is_on: bool) -> Result<()> {
    let failed = |e: io::Error| format!("QEMU's monitor: {e}");
    let mut monitor = UnixStream::connect(directory.join(MONITOR)).map_err(failed)?;
    monitor.set_read_timeout(Some(MONITOR_PATIENCE)).map_err(failed)?;
    let command = if is_on { "one-insn-per-tb on" } else { "one-insn-per-tb off" };
    monitor.write_all(format!("{command}\n").as_bytes()).map_err(failed)?;
    // Two prompts: before the command and after it. What it says between them is wrong.
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while said.windows(PROMPT.len()).filter(|w| *w == PROMPT.as_bytes()).count() < 2 {
        match monitor.read(&mut buffer).map_err(failed)? {
            0 => return Err("QEMU's monitor was closed".into()),
            n => said.extend_from_slice(&buffer[..n]),
        }
    }
    let said = String::from_utf8_lossy(&said);
    match said.contains("unknown command") || said.contains("Error") {
        true => Err(format!("QEMU cannot emulate by single instructions: {said}")),
        false => Ok(()),
    }
}

const PROMPT: &str = "(qemu) ";
const MONITOR_PATIENCE: Duration = Duration::from_secs(60);

/// QEMU; dropped, it is killed.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Result<Self> {
        // Its input stays open: at its end QEMU would close the port.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: a system call without memory, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // It does not outlive the thread that waits for it.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command.spawn().map(Running).map_err(|e| format!("QEMU: {e}"))
    }

    /// What the guest sends, until QEMU ends.
    pub fn pieces(&mut self) -> mpsc::Receiver<Vec<u8>> {
        let mut port = self.0.stdout.take().expect("it is piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = port.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn words(guest: &Guest, config: &str) -> String {
        let kernel = Kernel {
            image: PathBuf::from("/k"),
            package: String::new(),
            config: config.to_owned(),
        };
        arguments(guest, &kernel, Path::new("/i"), Path::new("/c")).join(" ")
    }

    #[test]
    fn nodes_divide_all_cpus_and_all_memory() {
        for (cpus, nodes, memory_mib) in [(4, 2, 1024), (7, 3, 1000), (16, 4, 2048), (2, 2, 513)] {
            let guest = Guest { cpus, nodes, memory_mib, ..Guest::default() };
            let text = words(&guest, "");
            let values = |key: &str| -> Vec<String> {
                let parts = text.split([' ', ',']).filter_map(|part| part.strip_prefix(key));
                parts.map(str::to_owned).collect()
            };
            let sizes: u32 =
                values("size=").iter().map(|s| s[..s.len() - 1].parse::<u32>().unwrap()).sum();
            assert_eq!((memory_mib, nodes as usize), (sizes, values("nodeid=").len()));
            let mut next = 0;
            for range in values("cpus=") {
                let (first, last) = range.split_once('-').unwrap();
                assert_eq!(first, next.to_string());
                next = last.parse::<u32>().unwrap() + 1;
            }
            assert_eq!(next, cpus);
        }
        assert!(!words(&Guest::default(), "").contains("-numa"));
    }

    #[test]
    fn the_port_is_one_that_the_kernel_has() {
        let guest = |arch| Guest { arch, ..Guest::default() };
        let has_module = "CONFIG_VIRTIO_CONSOLE=m\n";
        for arch in [Arch::X86_64, Arch::Aarch64] {
            assert!(words(&guest(arch), "CONFIG_VIRTIO_CONSOLE=y\n").contains("virtserialport"));
            assert!(!words(&guest(arch), has_module).contains("virtserialport"));
        }
        assert!(words(&guest(Arch::X86_64), has_module).contains("-serial chardev:out"));
        assert!(words(&guest(Arch::Aarch64), has_module).contains("-device pci-serial"));
    }

    #[test]
    fn parameters_are_the_last_on_the_kernels_line() {
        let parameters = vec!["rseq_debug=1".to_owned(), "maxcpus=1".to_owned()];
        let text = words(&Guest { parameters, ..Guest::default() }, "");
        assert!(text.ends_with(" rseq_debug=1 maxcpus=1"), "{text}");
    }
}
