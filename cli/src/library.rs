//! Finds the library to preload.

use std::env;
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "libcidalloc.so";

/// Returns the absolute path of the library: `given` (--lib), else $CIDALLOC_LIB, else beside this
/// binary, else in ../lib. A path that was named but does not exist is an error, not a reason
/// to take another library than the one asked for.
pub fn find(given: Option<&Path>) -> Result<PathBuf, String> {
    let path = match (given, env::var_os("CIDALLOC_LIB").filter(|value| !value.is_empty())) {
        (Some(path), _) => named(path, "--lib")?,
        (None, Some(path)) => named(Path::new(&path), "CIDALLOC_LIB")?,
        (None, None) => beside_this_binary()?,
    };
    let path =
        std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    // The dynamic loader splits LD_PRELOAD at both and knows no way to quote them.
    if path.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b':' | b' ')) {
        return Err(format!(
            "{}: a path with ':' or ' ' in it cannot be preloaded; name a link to it by --lib",
            path.display()
        ));
    }
    Ok(path)
}

fn named(path: &Path, by: &str) -> Result<PathBuf, String> {
    if path.is_file() {
        Ok(path.to_owned())
    } else {
        Err(format!("no library at {} (named by {by})", path.display()))
    }
}

fn beside_this_binary() -> Result<PathBuf, String> {
    let binary =
        env::current_exe().map_err(|error| format!("cannot tell where this binary is: {error}"))?;
    let directory = binary.parent().unwrap_or(Path::new("/"));
    let mut candidates = vec![directory.join(FILE_NAME)];
    if let Some(prefix) = directory.parent() {
        candidates.push(prefix.join("lib").join(FILE_NAME));
    }
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(format!(
            "{FILE_NAME} not found: looked for {}; name it by --lib or CIDALLOC_LIB",
            candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(" and ")
        )),
    }
}
