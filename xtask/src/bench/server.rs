//! A program that times single calls by request, under one allocator: started, asked,
//! and ended. Of the standard library only: benches/peers.rs includes this file.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// xtask/workloads/calls.cpp, or the Rust programs' `serve`.
pub struct Server {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// Starts `program` under `library`, if there is one.
    pub fn start<'a>(
        program: &Path,
        library: Option<&Path>,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.arg("serve").envs(environment).env_remove("LD_PRELOAD");
        // cidalloc would say that it is none of its options.
        command.env_remove("CIDALLOC_BENCH_CACHE");
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("pipes were asked for".into());
        };
        Ok(Server { child, requests, answers: BufReader::new(answers) })
    }

    fn ask(&mut self, request: &str) -> Result<String, String> {
        let mut line = String::new();
        writeln!(self.requests, "{request}")
            .and_then(|()| self.answers.read_line(&mut line))
            .map_err(|e| format!("{request}: {e}"))?;
        Ok(line)
    }

    /// The names of all rows.
    pub fn rows(&mut self) -> Result<Vec<String>, String> {
        Ok(self.ask("rows")?.split_whitespace().map(str::to_owned).collect())
    }

    /// Nanoseconds of so many operations.
    pub fn time_ns(&mut self, row: &str, operations: u64) -> Result<u64, String> {
        let answer = self.ask(&format!("{row} {operations}"))?;
        answer.trim().parse().map_err(|_| format!("{row}: the answer was {answer:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
