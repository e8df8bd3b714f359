//! Owns all contact with the allocator's crate: this binary's own heap, its option table, its
//! live statistics. Nothing else in the command names `cidalloc::`.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;

use crate::statistics::Statistics;
use crate::sys;

#[global_allocator]
static ALLOCATOR: cidalloc::CidAlloc = cidalloc::CidAlloc;

/// Tells whether `variable` names an option of the allocator this binary was built with.
pub fn is_option(variable: &str) -> bool {
    cidalloc::config::OPTIONS.iter().any(|option| option.name == variable)
}

/// Returns the state of the allocator in this process.
///
/// Read through the same JSON as other processes' statistics, so that one description of the
/// fields serves both.
pub fn own_statistics() -> io::Result<Statistics> {
    // Memory is given back once, so that the allocator has looked what that does.
    drop(std::hint::black_box(vec![1u8; 4 << 20]));
    cidalloc::heap::trim();
    // Collected first: what follows allocates.
    let statistics = cidalloc::heap::stats::Stats::collect();
    let mut file = File::from(sys::memory_file(c"cidalloc-statistics")?);
    statistics.write_json(file.as_raw_fd());
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// Returns the options' table for `run --help`.
pub fn options_help() -> String {
    let mut help =
        String::from("Options of the allocator, set by --option or as environment variables:");
    for option in &cidalloc::config::OPTIONS {
        help.push('\n');
        help.push_str(&option_entry(
            option.name,
            option.unit,
            option.range,
            option.default,
            option.meaning,
        ));
    }
    help
}

/// Columns of a help line; clap wraps at 100 what is longer.
const HELP_COLUMNS: usize = 96;
const INDENT: &str = "        ";

/// Formats an option: a line with its name, range, unit and default, then its meaning, indented.
fn option_entry(name: &str, unit: &str, range: &str, default: &str, meaning: &str) -> String {
    let unit = if unit == "-" { String::new() } else { format!(" {unit}") };
    let mut entry = format!("  {name}  {range}{unit} [default: {default}]\n");
    let mut column = 0;
    for word in meaning.split_whitespace() {
        if column > 0 && column + 1 + word.len() > HELP_COLUMNS {
            entry.push('\n');
            column = 0;
        }
        let gap = if column == 0 { INDENT } else { " " };
        entry.push_str(gap);
        entry.push_str(word);
        column += gap.len() + word.len();
    }
    entry
}
