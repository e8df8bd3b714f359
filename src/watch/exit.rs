//! Statistics at the end of the process, where the environment asked for them.

#![allow(unsafe_code)]

use crate::config::{Config, StatsChoice};
use crate::front::process::{self, Process};
use crate::os::sys;
use crate::watch::stats::Stats;
use core::ffi::CStr;

#[used]
#[unsafe(link_section = ".fini_array")]
static REPORT: extern "C" fn() = report;

extern "C" fn report() {
    if let Some(process) = process::peek().filter(|p| p.config.stats != StatsChoice::Off) {
        write(process);
    }
}

#[cold]
#[inline(never)]
fn write(process: &Process) {
    match process.config.stats {
        StatsChoice::Off => {}
        StatsChoice::Text => Stats::collect().write_text(process.stderr),
        StatsChoice::Json => {
            let mut path = [0; 600];
            let Some(path) = expand(&process.config, &mut path) else { return };
            if let Ok(fd) = sys::open_write(path) {
                Stats::collect().write_json(fd);
                sys::close(fd);
            }
        }
    }
}

/// The statistics' path with %p replaced by the process id.
fn expand<'a>(config: &Config, out: &'a mut [u8]) -> Option<&'a CStr> {
    let mut used = 0;
    let mut put = |byte: u8| -> Option<()> {
        *out.get_mut(used)? = byte;
        used += 1;
        Some(())
    };
    let mut rest = config.stats_path();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' && tail.first() == Some(&b'p') {
            let pid = sys::getpid();
            let mut place = 1_000_000_000;
            while place > 1 && pid < place {
                place /= 10;
            }
            while place > 0 {
                put(b'0' + (pid / place % 10) as u8)?;
                place /= 10;
            }
            rest = tail.get(1..)?;
        } else {
            put(byte)?;
            rest = tail;
        }
    }
    put(0)?;
    CStr::from_bytes_until_nul(out).ok()
}
