//! `cargo xtask vm boot` runs a command in a guest and ends as it did; without what
//! guests are made of it skips. Nothing is downloaded: what boots is in the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const SKIPPED: Option<i32> = Some(77);

fn boot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["vm", "boot", "--cached", "--cpus", "2"]).args(arguments);
    command
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// Runs it, unless the cache lacks something: None.
fn outcome(command: &mut Command) -> Option<Output> {
    let output = command.output().expect("xtask runs");
    if output.status.code() == SKIPPED {
        println!("{}", said(&output));
        return None;
    }
    Some(output)
}

#[test]
fn a_command_runs_in_a_guest_as_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path().canonicalize().unwrap().join("with space");
    fs::create_dir(&share).unwrap();
    let script = "#!/bin/sh\necho error >&2\npwd\nuname -r\nnproc\n\
        ls /sys/devices/system/node | grep -c '^node'\necho \"$A|$1\"\ncat /proc/cmdline\n\
        id -u\nls /lib*/ld-linux* | wc -l\nprintf 'no end'\nexit 3\n";
    fs::write(share.join("script"), script).unwrap();
    fs::set_permissions(share.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let log = dir.path().join("log");
    let mut command = boot(&["--kernel", "7.2", "--numa", "2", "--append", "rseq_debug=1 quiet"]);
    command.args(["--env", "A=it's $1", "--share"]).arg(&share).arg("--log").arg(&log);
    let Some(output) = outcome(command.args(["--", "./script", "an 'argument'"])) else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "error");
    assert_eq!(Path::new(lines[1]), share);
    assert!(lines[2].starts_with("7.2."), "{text}");
    assert_eq!(lines[3..6], ["2", "2", "it's $1|an 'argument'"]);
    assert!(lines[6].contains("rseq_debug=1"), "{text}");
    assert_eq!(lines[7], "0", "it is root");
    assert_ne!(lines[8], "0", "it has a loader");
    assert_eq!(lines[9..], ["no end"]);
    assert!(fs::read_to_string(log).unwrap().contains("Linux version 7.2."));
}

#[test]
fn guests_that_do_not_end_and_guests_that_die_are_told_apart() {
    let mut command = boot(&["--kernel", "7.2", "--libc", "none", "--timeout", "20"]);
    let Some(output) = outcome(command.args(["--", "sleep", "1000"])) else { return };
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    let panic = "echo started; sleep 5; echo c >/proc/sysrq-trigger; sleep 1000";
    let mut command = boot(&["--kernel", "7.2", "--libc", "none"]);
    let output = outcome(command.args(["--", "sh", "-c", panic])).expect("it was there just now");
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert_eq!(output.stdout, b"started\n", "{}", said(&output));
    assert!(said(&output).contains("Kernel panic"), "{}", said(&output));
}

#[test]
fn what_is_missing_is_said_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = boot(&["--kernel", "7.2", "--", "true"]);
    let output = command.env("CIDALLOC_VM_CACHE", dir.path()).output().unwrap();
    assert_eq!(output.status.code(), SKIPPED);
    let text = said(&output);
    assert!(text.contains("SKIP: NOT RUN on kernel 7.2 for x86_64: no "), "{text}");
    assert!(text.contains("cargo xtask vm --prepare"), "{text}");
}

#[test]
fn what_cannot_be_run_is_refused() {
    for arguments in [
        &["--kernel", "7.2"][..],
        &["--kernel", "7.2", "--cpus", "0", "--", "true"],
        &["--kernel", "7.2", "--env", "no", "--", "true"],
        &["--kernel", "7.2", "--memory", "much", "--", "true"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let output = command.args(["vm", "boot", "--cached"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
    let mut command = boot(&["--kernel", "7.2", "--share", "/no/such/directory", "--", "true"]);
    let Some(output) = outcome(&mut command) else { return };
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/no/such/directory"), "{}", said(&output));
}
