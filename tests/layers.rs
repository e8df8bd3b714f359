//! A layer may use only the layers below it: the `crate::` paths of `src/**`,
//! in imports and in code, lead downwards or stay within the layer.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers bottom up; one row is one layer. The first serves all.
const LAYERS: [&[&str]; 10] = [
    &["units", "size_class", "census"],
    &["os"],
    &["config"],
    &["back"],
    &["middle"],
    &["front"],
    &["check"],
    // The entries, and the watch that reads every layer below for them.
    &["alloc", "heap", "fork", "diagnosis", "watch"],
    &["global"],
    &["trial"],
];

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `text` without comments and without the contents of strings.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") {
            3
        } else if c == '"' {
            let bytes = rest.as_bytes();
            let mut end = 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            (end + 1).min(rest.len())
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// The first names of the use tree that begins at `text`: one, or those of a
/// braced list.
fn heads(text: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = text.trim_start().strip_prefix('{') else { return vec![name(text)] };
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                found.push(name(&list[start..i]));
                start = i + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The modules at the crate's root that `text` names.
fn uses_of(text: &str) -> Vec<String> {
    let code = code_of(text);
    let within_a_name = |at: usize| code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices("crate::")
        .filter(|(at, _)| !within_a_name(*at))
        .flat_map(|(at, found)| heads(&code[at + found.len()..]))
        .collect()
}

/// What is wrong in the file at `path` below `src`, one line each.
fn faults_of(path: &Path, text: &str) -> Vec<String> {
    let top = path.components().next().expect("a path").as_os_str();
    let module = Path::new(top).file_stem().expect("a name").to_string_lossy();
    if module == "lib" {
        return Vec::new();
    }
    let Some(own) = rank(&module) else {
        return vec![format!("{}: `{module}` has no place in LAYERS", path.display())];
    };
    let mut faults: Vec<String> = uses_of(text)
        .into_iter()
        .filter_map(|used| match rank(&used) {
            Some(rank) if rank <= own => None,
            Some(_) => Some(format!("{}: uses {used}, which is above {module}", path.display())),
            None => Some(format!("{}: crate::{used} names no layer", path.display())),
        })
        .collect();
    if code_of(text).contains("super::super::") {
        faults.push(format!("{}: super::super:: hides which layer it uses", path.display()));
    }
    faults
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_layer_uses_only_what_is_below() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() >= 10, "src/** is not there: {files:?}");
    let faults: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).expect("readable");
            faults_of(file.strip_prefix(&src).unwrap(), &text)
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn an_upward_use_is_found_in_every_form() {
    let upward = [
        "use crate::front::slab;",
        "use crate::{os::sys, front::{slab, remote}};",
        "pub use crate::{\n    os::{sys, lock},\n    front,\n};",
        "fn f() { crate::front::stop(); }",
        "macro_rules! m { () => { $crate::front::stop() } }",
        "/* a note */ use crate::front as f; // use crate::os",
        "const S: &str = \"// \"; use crate::front::slab;",
    ];
    for text in upward {
        let faults = faults_of(Path::new("back/span.rs"), text);
        assert_eq!(faults, ["back/span.rs: uses front, which is above back"], "{text}");
    }
}

#[test]
fn downward_and_sideways_uses_pass() {
    let text = "
        //! See crate::front for the caller.
        use crate::os::{lock::Lock, sys};
        use crate::{config, units::Pages, back::region::Region};
        const S: &str = \"use crate::global;\";
        pub(crate) fn f() { super::page_map::get(); my_crate::front(); }";
    assert_eq!(faults_of(Path::new("back/span.rs"), text), [""; 0]);
    assert_eq!(faults_of(Path::new("global.rs"), "use crate::{alloc, heap};"), [""; 0]);
}

#[test]
fn a_module_without_a_place_is_found() {
    assert_eq!(faults_of(Path::new("extra/x.rs"), "").len(), 1);
    assert_eq!(faults_of(Path::new("back/x.rs"), "use crate::CidAlloc;").len(), 1);
    assert_eq!(faults_of(Path::new("back/x.rs"), "use super::super::front;").len(), 1);
}
