//! The options: any bytes as an environment, `NAME=value` entries with NUL
//! between them. What must come of an entry is worked out from the table's
//! texts, which are what users are told.

use super::Target;
use cidalloc::config::{Config, OPTIONS, OptionSpec, PREFIX, Refusal};
use cidalloc::trial::environment;

pub static TARGET: Target = Target {
    name: "options",
    run,
    faults: &[
        "an unknown name passes",
        "a value beyond the range passes",
        "a value of the range is refused",
        "a value refused is kept",
        "the last byte of a path is lost",
    ],
};

fn run(bytes: &[u8], planted: &str) -> Result<(), String> {
    let mut config = Config::DEFAULT;
    for entry in bytes.split(|byte| *byte == 0) {
        let before = config;
        let Some((name, value)) = environment::split(entry, PREFIX) else {
            let due = entry.starts_with(PREFIX) && entry.contains(&b'=');
            check!(!due, "not seen: {}", entry.escape_ascii());
            continue;
        };
        check!([name, b"=", value].concat() == entry, "{} torn", entry.escape_ascii());
        let mut result = config.set(name, value);
        match (planted, result) {
            ("an unknown name passes", Err(Refusal::Unknown))
            | ("a value beyond the range passes", Err(Refusal::NotInRange(_))) => result = Ok(()),
            ("a value of the range is refused", Ok(())) => result = Err(Refusal::Unknown),
            ("a value refused is kept", Err(_)) => config.decay_ms ^= 1,
            _ => {}
        }
        let entry = entry.escape_ascii();
        let due = due(name, value);
        check!(due.is_none_or(|due| due == result), "{entry}: {result:?}, due {due:?}");
        if result.is_err() {
            check!(text(&config) == text(&before), "{entry}: refused and kept");
        } else {
            check_value(&config, name, value, planted).map_err(|f| format!("{entry}: {f}"))?;
        }
    }
    for (option, found) in [
        ("CIDALLOC_SLAB_BYTES", config.slab_bytes.into()),
        ("CIDALLOC_DECAY_MS", config.decay_ms.into()),
        ("CIDALLOC_THP_AFTER", config.thp_after_bytes as u128),
    ] {
        let range = OPTIONS.iter().find(|o| o.name == option).and_then(bounds);
        let within = range.is_some_and(|(least, most)| (least..=most).contains(&found));
        check!(within, "{option} is {found}, its range {range:?}");
    }
    Ok(())
}

/// All fields.
fn text(config: &Config) -> String {
    format!("{config:?}")
}

/// What must come of an entry; `None` where the table leaves that open.
fn due(name: &[u8], value: &[u8]) -> Option<Result<(), Refusal>> {
    if name.starts_with(b"CIDALLOC_TEST_") || name.starts_with(b"CIDALLOC_LIB") {
        return Some(Ok(()));
    }
    let Some(option) = OPTIONS.iter().find(|o| o.name.as_bytes() == name) else {
        return Some(Err(Refusal::Unknown));
    };
    let is_word = || option.range.split(", ").any(|word| word.as_bytes() == value);
    let taken = match bounds(option) {
        Some((least, most)) => number(value).is_some_and(|n| (least..=most).contains(&n)),
        None if option.name == "CIDALLOC_STATS" => match value.strip_prefix(b"json:") {
            Some(path) => (1..512).contains(&path.len()),
            None => is_word(),
        },
        None if option.name == "CIDALLOC_FAIL" => is_refusal(option, value),
        // Words in capitals stand for something.
        None if option.range.contains(char::is_uppercase) => return None,
        None => is_word(),
    };
    Some(if taken { Ok(()) } else { Err(Refusal::NotInRange(option.range)) })
}

/// The ends of a range that reads "least to most".
fn bounds(option: &OptionSpec) -> Option<(u128, u128)> {
    let (least, most) = option.range.split_once(" to ")?;
    Some((least.parse().ok()?, most.parse().ok()?))
}

/// A decimal number with K, M or G behind it or nothing.
fn number(value: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(value).ok()?;
    let digits = text.trim_end_matches(|c: char| "kKmMgG".contains(c));
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // More digits than u128 has are beyond every range; leading zeros are not.
    let digits = digits.trim_start_matches('0');
    match digits.len() {
        _ if !plain => None,
        0 => Some(0),
        1..=28 => Some(digits.parse::<u128>().ok()? * unit),
        _ => None,
    }
}

/// `WHEN[,CALL]...`, with the calls that the option's meaning lists.
fn is_refusal(option: &OptionSpec, value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return false };
    let mut words = value.split(',');
    let when: Vec<&str> = words.next().unwrap_or("").split(':').collect();
    let counts = |text: &str| {
        let digits = text.trim_start_matches('0');
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain && digits.len() <= 20 && digits.parse::<u128>().is_ok_and(|n| n < 1 << 64)
    };
    let whens = match *when {
        ["off"] => true,
        ["nth" | "from" | "rate", n] => counts(n),
        ["rate", p, seed] => counts(p) && counts(seed),
        _ => false,
    };
    let calls = option.meaning.split_once("if any are: ").map_or("", |(_, rest)| rest);
    let calls = calls.split_once(';').map_or("", |(calls, _)| calls);
    whens && words.all(|word| word == "keep" || calls.split(", ").any(|call| call == word))
}

/// What was taken is in force.
fn check_value(config: &Config, name: &[u8], value: &[u8], planted: &str) -> Result<(), String> {
    let found = match name {
        b"CIDALLOC_SLAB_BYTES" => config.slab_bytes.into(),
        b"CIDALLOC_DECAY_MS" => config.decay_ms.into(),
        b"CIDALLOC_THP_AFTER" => config.thp_after_bytes as u128,
        b"CIDALLOC_STATS" => {
            let Some(path) = value.strip_prefix(b"json:") else { return Ok(()) };
            let mut found = config.stats_path();
            if planted == "the last byte of a path is lost" {
                found = &found[..found.len() - 1];
            }
            check!(found == path, "the path is {}", found.escape_ascii());
            return Ok(());
        }
        _ => return Ok(()),
    };
    check!(Some(found) == number(value), "in force is {found}");
    Ok(())
}
