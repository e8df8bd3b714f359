//! The documents name tests: each must exist.

use std::path::Path;

/// The tests of `FILE.rs`, with the modules beside it.
fn tests_of(file: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut text = std::fs::read_to_string(tests.join(file)).unwrap_or_default();
    if let Ok(modules) = std::fs::read_dir(tests.join(file.trim_end_matches(".rs"))) {
        for module in modules.map(|entry| entry.expect("readable").path()) {
            if module.extension().is_some_and(|e| e == "rs") {
                text += &std::fs::read_to_string(module).expect("readable");
            }
        }
    }
    text
}

fn exists(name: &str) -> bool {
    match name.split_once("::") {
        // Tests made by a macro are named without `fn`.
        Some((file, test)) => {
            let text = tests_of(file);
            [format!("fn {test}("), format!(" {test} ")].iter().any(|n| text.contains(n))
        }
        None => !tests_of(name).is_empty(),
    }
}

#[test]
fn every_test_named_in_reliability_exists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let text = std::fs::read_to_string(path).expect("docs/reliability.md");
    let names = text.split('`').skip(1).step_by(2).filter(|n| n.contains(".rs"));
    let names: Vec<&str> = names.filter(|n| !n.contains('/')).collect();
    assert!(names.len() > 40, "{names:?}");
    let missing: Vec<&&str> = names.iter().filter(|n| !exists(n)).collect();
    assert!(missing.is_empty(), "docs/reliability.md names what is not there: {missing:?}");
}

#[test]
fn a_name_of_no_test_is_found() {
    assert!(exists("documents.rs::a_name_of_no_test_is_found"));
    assert!(!exists("documents.rs::no_such_test") && !exists("no_such_file.rs"));
}
