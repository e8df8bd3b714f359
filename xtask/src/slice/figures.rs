//! The figures of one load, as the guest tells them to the host: a line of named numbers.

use crate::Result;
use std::collections::BTreeMap;

/// What the threads saw.
pub struct Load {
    /// Calls of malloc.
    pub per_second: f64,
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub p999_ns: f64,
    pub max_ns: f64,
}

impl Load {
    pub fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("per_second", self.per_second),
            ("p50_ns", self.p50_ns),
            ("p99_ns", self.p99_ns),
            ("p999_ns", self.p999_ns),
            ("max_ns", self.max_ns),
        ]
    }
}

/// The arms of the comparison: values of CIDALLOC_SLICE.
pub const ARMS: [&str; 3] = ["off", "count", "auto"];

/// One load of one arm.
#[derive(Clone, Debug)]
pub struct Figures {
    pub arm: String,
    /// Threads for each CPU.
    pub per_cpu: u64,
    pub numbers: BTreeMap<String, f64>,
}

const MARK: &str = "slice-figures";

impl Figures {
    pub fn of(&self, name: &str) -> f64 {
        self.numbers.get(name).copied().unwrap_or(f64::NAN)
    }

    pub fn line(&self) -> String {
        let head = format!("{MARK} {} {}", self.arm, self.per_cpu);
        self.numbers.iter().fold(head, |line, (name, number)| format!("{line} {name}={number}"))
    }

    /// The figures among the lines of an output.
    pub fn read(output: &str) -> Result<Vec<Figures>> {
        let lines = output.lines().filter_map(|line| line.trim().strip_prefix(MARK));
        lines.map(|line| parse(line).ok_or(format!("no figures: {line}"))).collect()
    }
}

fn parse(line: &str) -> Option<Figures> {
    let mut words = line.split_whitespace();
    let arm = words.next()?.to_owned();
    let per_cpu = words.next()?.parse().ok()?;
    let number = |word: &str| -> Option<(String, f64)> {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let numbers = words.map(number).collect::<Option<_>>()?;
    Some(Figures { arm, per_cpu, numbers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_through_a_line() {
        let numbers = BTreeMap::from([("a".to_owned(), 1.5), ("b".to_owned(), 2e9)]);
        let one = Figures { arm: "auto".into(), per_cpu: 4, numbers };
        let text = format!("[ 1.0] noise\n{}\nmore", one.line());
        let read = Figures::read(&text).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!((&read[0].arm, read[0].per_cpu), (&one.arm, 4));
        assert_eq!(read[0].numbers, one.numbers);
        assert!(Figures::read("slice-figures auto x").is_err());
    }
}
