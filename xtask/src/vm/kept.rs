//! What a right cell said, kept below cargo's target directory: `--resume` goes on
//! after the cells in which the same programs have run the same steps.

use super::cells::{Cell, MACHINE};
use super::guest;
use crate::Result;
use crate::places::target;
use serde_json::{Value, json};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the cell's run is kept, and of what it must be.
pub struct Kept {
    file: PathBuf,
    /// Of the guest, and of every file that it was given.
    hash: String,
}

/// One run of a cell's steps.
#[derive(Debug, PartialEq)]
pub struct Run {
    pub output: String,
    pub wall: Duration,
}

impl Kept {
    /// For a cell that is given this directory; None for the machine, of which nobody
    /// knows what has changed.
    pub fn of(cell: &Cell, directory: &Path) -> Option<Kept> {
        if cell.kernel == MACHINE {
            return None;
        }
        let hash = hash(&guest::made_of(&cell.guest()).ok()?, directory).ok()?;
        let name = cell.name().replace([' ', '/'], "_");
        Some(Kept { file: target().join("vm/kept").join(name + ".json"), hash })
    }

    /// The run, if one of the same is there.
    pub fn run(&self) -> Option<Run> {
        let kept: Value = serde_json::from_str(&fs::read_to_string(&self.file).ok()?).ok()?;
        if kept["hash"] != self.hash {
            return None;
        }
        let output = kept["output"].as_str()?.to_owned();
        Some(Run { output, wall: Duration::from_secs_f64(kept["wall_s"].as_f64()?) })
    }

    pub fn keep(&self, run: &Run) -> Result<()> {
        let kept = json!({
            "hash": self.hash,
            "wall_s": run.wall.as_secs_f64(),
            "output": run.output,
        });
        let directory = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&self.file, kept.to_string()))
            .map_err(|e| format!("{}: {e}", self.file.display()))
    }
}

/// Of a text and the names and contents of the directory's files.
fn hash(text: &str, directory: &Path) -> Result<String> {
    let told = |e| format!("{}: {e}", directory.display());
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(told)? {
        files.push(entry.map_err(told)?.path());
    }
    files.sort();
    for file in files {
        hasher.write(file.as_os_str().as_encoded_bytes());
        hasher.write(&fs::read(&file).map_err(told)?);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_something_else_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("steps");
        fs::write(&file, "one").unwrap();
        let kept = |text: &str| Kept {
            file: directory.path().with_extension("json"),
            hash: hash(text, directory.path()).unwrap(),
        };
        assert_eq!(kept("guest").run(), None);
        let run = Run { output: "said\n".into(), wall: Duration::from_secs(3) };
        kept("guest").keep(&run).unwrap();
        assert_eq!(kept("guest").run(), Some(run));
        assert_eq!(kept("another").run(), None);
        fs::write(&file, "two").unwrap();
        assert_eq!(kept("guest").run(), None);
        fs::remove_file(directory.path().with_extension("json")).unwrap();
    }
}
