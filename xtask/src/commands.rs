//! Other programs, run for what they do or say.

use crate::Result;
use crate::places::root;
use std::process::{Command, Stdio};

/// Runs it in the repository, if it names no other directory; on failure the end
/// of what it said.
pub fn run(command: &mut Command) -> Result<()> {
    text(command).map(|_| ())
}

/// As `run`; what it printed.
pub fn text(command: &mut Command) -> Result<String> {
    at_root(command);
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(8)..].join("\n  ");
    Err(format!("{} {}: {end}", command.get_program().to_string_lossy(), output.status))
}

/// As `run`, for what takes long: it shows its own progress.
pub fn run_aloud(command: &mut Command) -> Result<()> {
    at_root(command);
    let status = command.stdin(Stdio::null()).status().map_err(|e| format!("{command:?}: {e}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{} {status}", command.get_program().to_string_lossy())),
    }
}

fn at_root(command: &mut Command) {
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
}
