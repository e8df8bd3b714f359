//! Debian's packages, fetched through apt and unpacked, never installed.
//!
//! The lists are our own, of every release in which something may be, so that the
//! host's release and its sources do not matter; only its mirror is used.

use super::cache::{Cache, emptied, told};
use crate::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

/// The releases, from the oldest.
pub const RELEASES: [&str; 6] =
    ["bookworm", "trixie", "trixie-backports", "forky", "sid", "experimental"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian/";

/// Lists that old are fetched again before something is said not to be there.
const OLD: Duration = Duration::from_secs(600);

/// What packages depend on for their installation only, which does not take place.
const NOT_UNPACKED: [&str; 13] = [
    "adduser",
    "base-files",
    "base-passwd",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "libpam-modules",
    "libpam-modules-bin",
    "libpam-runtime",
    "passwd",
    "perl-base",
    "sysvinit-utils",
    "tar",
];

/// A package that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
}

/// The packages for one architecture, as Debian calls it.
pub struct Archive<'a> {
    cache: &'a Cache,
    architecture: String,
    dir: PathBuf,
}

impl<'a> Archive<'a> {
    pub fn open(cache: &'a Cache, architecture: &str) -> Result<Self> {
        let dir = cache.directory(&format!("apt-{architecture}"))?;
        Ok(Archive { cache, architecture: architecture.to_owned(), dir })
    }

    /// The names of all packages that start so.
    pub fn names(&self, start: &str) -> Result<Vec<String>> {
        self.update(None)?;
        let text = succeeded("apt-cache", self.apt("apt-cache").args(["pkgnames", start]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The versions of a package and where they are.
    pub fn versions(&self, name: &str) -> Result<Vec<(String, String)>> {
        self.update(None)?;
        let text = succeeded("apt-cache", self.apt("apt-cache").args(["madison", name]))?;
        Ok(text.lines().filter_map(version_and_release).collect())
    }

    /// Fetches new lists, if those that are there are not of just now.
    pub fn refresh(&self) -> Result<bool> {
        self.update(Some(OLD))
    }

    /// Unpacks the newest of a package.
    pub fn unpack(&self, name: &str, into: &Path) -> Result<Package> {
        let command = |archives: &Path| {
            let mut command = self.apt("apt-get");
            command.args(["download", name]).current_dir(archives);
            command
        };
        let mut packages = self.fetch(name, &command, into, &[])?;
        packages.pop().ok_or_else(|| format!("no package {name}"))
    }

    /// Unpacks packages of a release and all that they depend on, but for what only
    /// an installation needs and is not named.
    pub fn unpack_all(&self, release: &str, names: &[&str], into: &Path) -> Result<Vec<Package>> {
        let command = |archives: &Path| {
            let mut command = self.apt("apt-get");
            command
                .args(["install", "--yes", "--download-only", "--no-install-recommends"])
                .args(["-t", release, "-o", "Dir::State::status=/dev/null"])
                .args(["-o", "Debug::NoLocking=true", "-o"])
                .arg(format!("Dir::Cache::archives={}", archives.display()))
                .args(names);
            command
        };
        let but: Vec<&str> = NOT_UNPACKED.into_iter().filter(|n| !names.contains(n)).collect();
        self.fetch(&names.join(" "), &command, into, &but)
    }

    fn fetch(
        &self,
        what: &str,
        command: &dyn Fn(&Path) -> Command,
        into: &Path,
        but: &[&str],
    ) -> Result<Vec<Package>> {
        self.update(None)?;
        eprintln!("vm: fetching {what} for {}", self.architecture);
        let archives = into.join(".archives");
        let mut fetched = download(command, &archives);
        // The archive may have replaced what the lists name.
        if fetched.is_err() && self.refresh()? {
            fetched = download(command, &archives);
        }
        let fetched = fetched
            .map_err(|why| format!("cannot fetch {what} for {}: {why}", self.architecture))?;
        let mut packages = Vec::new();
        for file in fetched {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let package = package_of(&name).ok_or_else(|| format!("no package: {name}"))?;
            if !but.contains(&package.name.as_str()) {
                succeeded("dpkg-deb", Command::new("dpkg-deb").arg("-x").arg(&file).arg(into))?;
                packages.push(package);
            }
        }
        fs::remove_dir_all(&archives).map_err(|e| told(&archives, &e))?;
        Ok(packages)
    }

    /// Fetches the lists, if there are none, or if they are that old. Returns whether
    /// it did.
    fn update(&self, age: Option<Duration>) -> Result<bool> {
        let stamp = self.dir.join("updated");
        let is_due = || {
            let modified = fs::metadata(&stamp).and_then(|m| m.modified());
            let is_old = |t: SystemTime| t.elapsed().is_ok_and(|e| age.is_some_and(|age| e > age));
            !fs::read_to_string(&stamp).is_ok_and(|text| text == RELEASES.join(" "))
                || modified.is_ok_and(is_old)
        };
        if !is_due() {
            return Ok(false);
        }
        let _lock = self.cache.lock(&format!("apt-{}", self.architecture))?;
        if !is_due() {
            return Ok(false);
        }
        if !Path::new(KEYRING).exists() {
            return Err(format!("no {KEYRING} (package debian-archive-keyring)"));
        }
        for dir in ["lists/partial", "state", "cache"] {
            let dir = self.dir.join(dir);
            fs::create_dir_all(&dir).map_err(|e| told(&dir, &e))?;
        }
        let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
        let targets = Command::new("apt-get")
            .args(["indextargets", "--format", format, "Created-By: Packages"])
            .output()
            .map_err(|e| format!("apt-get: {e}; the packages are Debian's"))?;
        let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
        let mirror = mirror(&targets).unwrap_or(MIRROR);
        let line = |release| format!("deb [signed-by={KEYRING}] {mirror} {release} main\n");
        let sources = self.dir.join("sources.list");
        let lines: String = RELEASES.map(line).concat();
        fs::write(&sources, lines).map_err(|e| told(&sources, &e))?;
        eprintln!("vm: fetching lists of packages for {}", self.architecture);
        succeeded("apt-get update", self.apt("apt-get").args(["--error-on=any", "update"]))?;
        fs::write(&stamp, RELEASES.join(" ")).map_err(|e| told(&stamp, &e))?;
        Ok(true)
    }

    fn apt(&self, program: &str) -> Command {
        let dir = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        let options = [
            ("APT::Architecture", self.architecture.clone()),
            ("APT::Architectures::", self.architecture.clone()),
            ("APT::Default-Release", String::new()),
            // Its other user must not be needed to read our directories.
            ("APT::Sandbox::User", String::new()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "3".into()),
            ("Dir::Cache", dir("cache")),
            ("Dir::Etc::Preferences", "/dev/null".into()),
            ("Dir::Etc::PreferencesParts", "/dev/null".into()),
            ("Dir::Etc::SourceList", dir("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State", dir("state")),
            ("Dir::State::Lists", dir("lists")),
        ];
        for (name, value) in options {
            command.arg("-o").arg(format!("{name}={value}"));
        }
        command
    }
}

/// The files that the command downloads into a directory that is made for them.
fn download(command: &dyn Fn(&Path) -> Command, archives: &Path) -> Result<Vec<PathBuf>> {
    emptied(archives)?;
    fs::create_dir(archives.join("partial")).map_err(|e| told(archives, &e))?;
    succeeded("apt-get", &mut command(archives))?;
    let mut files: Vec<PathBuf> = fs::read_dir(archives)
        .map_err(|e| told(archives, &e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "deb"))
        .collect();
    files.sort();
    if files.is_empty() { Err("apt-get fetched nothing".into()) } else { Ok(files) }
}

/// What the program printed; if it failed, the end of that.
fn succeeded(name: &str, command: &mut Command) -> Result<String> {
    let output: Output =
        command.stdin(Stdio::null()).output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&both);
    let said: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = said[said.len().saturating_sub(4)..].join("\n  ");
    Err(format!("{name}: {}: {end}", output.status))
}

/// The host's mirror of Debian, from lines of address, release and component.
fn mirror(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (address, release, component) = (fields.next()?, fields.next()?, fields.next()?);
        // Other releases, such as bookworm-security, may be elsewhere.
        let is_plain = release.bytes().all(|b| b.is_ascii_lowercase());
        let is_debian = address.trim_end_matches('/').ends_with("/debian");
        (is_plain && is_debian && component == "main").then_some(address)
    })
}

/// Of a line such as `libc6 | 2.36-9 | http://deb.debian.org/debian bookworm/main amd64 Packages`.
fn version_and_release(line: &str) -> Option<(String, String)> {
    let mut fields = line.split('|').map(str::trim);
    let (_, version, place) = (fields.next()?, fields.next()?, fields.next()?);
    let release = place.split_whitespace().nth(1)?.split('/').next()?;
    Some((version.to_owned(), release.to_owned()))
}

/// Of a file's name such as `libc6_2.36-9+deb12u10_amd64.deb`.
fn package_of(file: &str) -> Option<Package> {
    let mut fields = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (fields.next()?.to_owned(), fields.next()?.replace("%3a", ":"));
    fields.next()?;
    Some(Package { name, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_mirror_is_that_of_its_release() {
        let host = "\
            http://security.example/debian-security/ bookworm-security main\n\
            http://mirror.example/debian/ bookworm-updates main\n\
            http://other.example/postgres/ bookworm main\n\
            http://mirror.example/debian/ bookworm contrib\n\
            http://mirror.example/debian/ bookworm main\n";
        assert_eq!(mirror(host), Some("http://mirror.example/debian/"));
        assert_eq!(mirror("http://archive.ubuntu.com/ubuntu/ noble main\n"), None);
        assert_eq!(mirror(""), None);
    }

    #[test]
    fn lines_of_versions_are_understood() {
        let line = "     libc6 | 2.41-12+deb13u1 | http://deb.debian.org/debian trixie/main amd64 Packages";
        let due = ("2.41-12+deb13u1".to_owned(), "trixie".to_owned());
        assert_eq!(version_and_release(line), Some(due));
        assert_eq!(version_and_release("N: nothing"), None);
    }

    #[test]
    fn names_of_files_are_understood() {
        let package = package_of("libstdc++6_1%3a12.2.0-14_amd64.deb").unwrap();
        let due = Package { name: "libstdc++6".into(), version: "1:12.2.0-14".into() };
        assert_eq!(package, due);
        assert_eq!(package_of("lock"), None);
        assert_eq!(package_of("a_1.deb"), None);
    }
}
