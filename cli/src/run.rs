//! `cidalloc run`: starts a command with the library preloaded.
//!
//! Without --stats this process becomes the command. With --stats it stays as the parent, to
//! read what the command's process and its descendants wrote when they ended.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::arguments::{RunArguments, Setting};
use crate::command::{self, Missing};
use crate::statistics;
use crate::summary::{self, Outcome};
use crate::{OWN_FAILURE, core_api, library, signals, sys};

/// As shells and env(1) have it.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Runs the command and returns the exit status; does not return if this process could become the
/// command.
pub fn run(arguments: &RunArguments) -> i32 {
    if arguments.stats
        && arguments.options.iter().any(|setting| setting.variable == "CIDALLOC_STATS")
    {
        complain("--stats sets CIDALLOC_STATS itself and cannot be combined with that option");
        return 2;
    }
    let library = match library::find(arguments.lib.as_deref()) {
        Ok(library) => library,
        Err(reason) => {
            complain(&reason);
            return OWN_FAILURE;
        }
    };
    let (name, rest) = arguments.command.split_first().expect("clap requires CMD");
    let path = match command::find(name) {
        Ok(path) => path,
        Err(Missing::NotFound) => return failed_to_start(name, &os_error(libc::ENOENT)),
        Err(Missing::NotExecutable) => return failed_to_start(name, &os_error(libc::EACCES)),
    };
    let obstacle = command::preload_obstacle(&path);
    if let Some(reason) = &obstacle {
        let name = name.to_string_lossy();
        complain(&format!("warning: {name} {reason}: it will not run on cidalloc"));
    }

    let mut command = Command::new(&path);
    command.arg0(name).args(rest).env("LD_PRELOAD", preload_list(&library));
    set_options(&mut command, &arguments.options);
    if arguments.stats {
        run_with_statistics(command, name, arguments, obstacle)
    } else {
        let error = command.exec();
        failed_to_start(name, &error)
    }
}

/// Hands the known options to the command and reports the others.
fn set_options(command: &mut Command, options: &[Setting]) {
    for setting in options {
        if core_api::is_option(&setting.variable) {
            command.env(&setting.variable, &setting.value);
        } else {
            // Said here and not passed on: otherwise every process of the command would say it.
            complain(&format!(
                "warning: unknown option {} ignored; 'cidalloc run --help' lists them",
                setting.variable
            ));
        }
    }
}

/// Prepends the library to what is preloaded already.
fn preload_list(library: &Path) -> OsString {
    let mut list = library.as_os_str().to_owned();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        list.push(":");
        list.push(others);
    }
    list
}

fn run_with_statistics(
    mut command: Command,
    name: &OsStr,
    arguments: &RunArguments,
    obstacle: Option<String>,
) -> i32 {
    let directory = match TemporaryDirectory::new() {
        Ok(directory) => directory,
        Err(error) => {
            complain(&format!(
                "cannot make a directory for the statistics in {}: {error}",
                env::temp_dir().display()
            ));
            return OWN_FAILURE;
        }
    };
    let mut target = OsString::from("json:");
    target.push(directory.path.join("%p.json"));
    command.env("CIDALLOC_STATS", target);
    if !arguments.options.iter().any(|setting| setting.variable == "CIDALLOC_COUNT") {
        command.env("CIDALLOC_COUNT", "1");
    }

    let (pid, status) = match signals::run_to_end(&mut command) {
        Ok(ended) => ended,
        Err(error) => return failed_to_start(name, &error),
    };
    match statistics::collect(&directory.path) {
        Ok(collected) => {
            let outcome = Outcome { name, pid, status, obstacle, collected };
            eprint!("{}", summary::text(&outcome));
        }
        Err(error) => complain(&format!("cannot read the statistics: {error}")),
    }
    exit_code(status)
}

/// The command's own status, or 128 + the signal that killed it.
fn exit_code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => OWN_FAILURE,
    }
}

fn failed_to_start(name: &OsStr, error: &io::Error) -> i32 {
    let (code, what) = match error.raw_os_error() {
        Some(libc::ENOENT) => (NOT_FOUND, "not found".into()),
        _ => (NOT_EXECUTABLE, format!("cannot be executed: {error}")),
    };
    complain(&format!("{}: {what}", name.to_string_lossy()));
    code
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn complain(text: &str) {
    eprintln!("cidalloc: {text}");
}

/// A directory of this user's own, removed with what is in it.
struct TemporaryDirectory {
    path: PathBuf,
}

/// Leaves room for the names below it.
const LONGEST_PARENT: usize = 400;

impl TemporaryDirectory {
    fn new() -> io::Result<Self> {
        let mut parent = std::path::absolute(env::temp_dir())?;
        // In CIDALLOC_STATS, '%p' stands for the pid, and the allocator takes 511 bytes at most.
        let text = parent.as_os_str().as_encoded_bytes();
        if text.contains(&b'%') || text.len() > LONGEST_PARENT {
            parent = PathBuf::from("/tmp");
        }
        sys::make_temporary_directory(&parent.join("cidalloc-XXXXXX")).map(|path| Self { path })
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // A descendant that still runs may be writing; what it leaves is small.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
