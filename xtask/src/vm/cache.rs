//! What was downloaded and built, kept outside the checkout.
//!
//! An entry is a directory that gets its name when it is whole, so that whoever
//! sees it may use it without a lock; one process makes it while others wait. It
//! remembers its recipe, and is made anew when that changed.

use crate::Result;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Names the cache.
const VARIABLE: &str = "CIDALLOC_VM_CACHE";
/// Names the cache of all tests, of which it is a part else.
const TESTS_VARIABLE: &str = "CIDALLOC_TEST_CACHE";

/// The file in each entry that says what it was made of.
const RECIPE: &str = "recipe";

pub struct Cache {
    dir: PathBuf,
    /// What is not there is not made.
    is_closed: bool,
}

/// Until it is dropped, other processes wait for this lock.
pub struct Lock {
    _file: File,
}

impl Cache {
    pub fn open() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let dir = variable(VARIABLE)
            .or_else(|| variable(TESTS_VARIABLE).map(|dir| dir.join("vm")))
            .or_else(|| variable("HOME").map(|dir| dir.join(".cache/cidalloc/vm")))
            .ok_or_else(|| format!("neither HOME nor {VARIABLE} is set"))?;
        let dir = std::path::absolute(&dir).map_err(|e| told(&dir, &e))?;
        Self::at(dir)
    }

    /// The same, in which nothing is made.
    pub fn closed() -> Result<Self> {
        Ok(Cache { is_closed: true, ..Self::open()? })
    }

    fn at(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(|e| told(&dir, &e))?;
        Ok(Cache { dir, is_closed: false })
    }

    /// A directory that is no entry: what is in it may be unfinished.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).map_err(|e| told(&dir, &e))?;
        Ok(dir)
    }

    /// The entry, if it is there and made by the recipe.
    pub fn found(&self, name: &str, recipe: &str) -> Option<PathBuf> {
        let dir = self.dir.join(name);
        fs::read_to_string(dir.join(RECIPE)).is_ok_and(|made_by| made_by == recipe).then_some(dir)
    }

    /// The entry, which `make` fills if it is not there: it is given an empty
    /// directory.
    pub fn entry(
        &self,
        name: &str,
        recipe: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(dir) = self.found(name, recipe) {
            return Ok(dir);
        }
        if self.is_closed {
            return Err(format!(
                "no {name} in {}: run cargo xtask vm --prepare",
                self.dir.display()
            ));
        }
        let _lock = self.lock(name)?;
        if let Some(dir) = self.found(name, recipe) {
            return Ok(dir);
        }
        let (done, unfinished) = (self.dir.join(name), self.dir.join(format!("{name}.unfinished")));
        emptied(&unfinished)?;
        make(&unfinished)?;
        fs::write(unfinished.join(RECIPE), recipe).map_err(|e| told(&unfinished, &e))?;
        remove(&done)?;
        fs::rename(&unfinished, &done).map_err(|e| told(&done, &e))?;
        Ok(done)
    }

    /// Waits until no other process has the lock of that name.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let path = self.directory("locks")?.join(name);
        let file = File::create(&path).map_err(|e| told(&path, &e))?;
        // SAFETY: the file is open.
        let flock = |how| unsafe { libc::flock(file.as_raw_fd(), how) } == 0;
        if !flock(libc::LOCK_EX | libc::LOCK_NB) {
            eprintln!("vm: waiting for another process that makes {name}");
            while !flock(libc::LOCK_EX) {
                let why = io::Error::last_os_error();
                if why.kind() != io::ErrorKind::Interrupted {
                    return Err(told(&path, &why));
                }
            }
        }
        Ok(Lock { _file: file })
    }
}

/// Makes the directory, without what was in it.
pub fn emptied(dir: &Path) -> Result<()> {
    remove(dir)?;
    fs::create_dir_all(dir).map_err(|e| told(dir, &e))
}

pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(told(dir, &e)),
        _ => Ok(()),
    }
}

/// What went wrong with a file.
pub fn told(path: &Path, why: &io::Error) -> String {
    format!("{}: {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    #[test]
    fn an_entry_is_made_once_by_each_recipe() {
        let (_dir, cache) = cache();
        let made = AtomicU32::new(0);
        let make = |dir: &Path| {
            assert!(fs::read_dir(dir).unwrap().next().is_none(), "it is empty");
            made.fetch_add(1, Ordering::Relaxed);
            fs::write(dir.join("file"), made.load(Ordering::Relaxed).to_string()).unwrap();
            Ok(())
        };
        for (recipe, text) in [("a", "1"), ("a", "1"), ("b", "2"), ("b", "2"), ("a", "3")] {
            let dir = cache.entry("name", recipe, make).unwrap();
            assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), text);
            assert!(cache.found("name", recipe).is_some());
        }
        assert!(cache.found("name", "b").is_none() && cache.found("other", "a").is_none());
    }

    #[test]
    fn what_failed_is_not_there_and_leaves_nothing() {
        let (_dir, cache) = cache();
        let fail = |dir: &Path| {
            fs::write(dir.join("half"), "").unwrap();
            Err("no".to_owned())
        };
        assert_eq!(cache.entry("name", "", fail).unwrap_err(), "no");
        assert!(cache.found("name", "").is_none());
        let dir = cache.entry("name", "", |_| Ok(())).unwrap();
        assert!(!dir.join("half").exists());
    }

    #[test]
    fn a_closed_cache_makes_nothing() {
        let (_dir, cache) = cache();
        cache.entry("there", "", |_| Ok(())).unwrap();
        let closed = Cache { is_closed: true, ..cache };
        assert!(closed.entry("there", "", |_| panic!("it is there")).is_ok());
        let why = closed.entry("name", "", |_| panic!("nothing is made")).unwrap_err();
        assert!(why.contains("no name in") && why.contains("--prepare"), "{why}");
    }

    #[test]
    fn two_at_once_make_it_once() {
        let (_dir, cache) = cache();
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    cache.entry("name", "", |_| {
                        made.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(())
                    })
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}
