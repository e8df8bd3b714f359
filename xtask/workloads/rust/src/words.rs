//! Text: words found by a regular expression and counted.

use crate::random::Random;
use regex::Regex;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

fn text(random: &mut Random, words: usize) -> String {
    let mut text = String::new();
    for _ in 0..words {
        let word = random.below(40_000).min(random.below(40_000));
        for digit in 0..3 + word % 7 {
            text.push(char::from(b'a' + ((word >> digit) % 26) as u8));
        }
        text.push_str(&(word % 97).to_string());
        text.push(if random.below(12) == 0 { '\n' } else { ' ' });
    }
    text
}

/// Counts words, their beginnings, and the pairs of neighbours; sorts what it found.
pub fn words() -> u64 {
    // The same hashes in every run.
    type Counts<K> = HashMap<K, u64, BuildHasherDefault<DefaultHasher>>;
    let mut random = Random::new(3);
    let word = Regex::new(r"[a-z]+(\d+)").expect("a pattern");
    let mut sum = 0u64;
    for _ in 0..4 {
        let text = text(&mut random, 120_000);
        let mut counts: Counts<String> = Counts::default();
        let mut pairs: Counts<(String, String)> = Counts::default();
        let mut starts: Counts<String> = Counts::default();
        for line in text.lines() {
            let mut before: Option<String> = None;
            for found in word.captures_iter(line) {
                let this = found[0].to_uppercase();
                sum += found[1].parse::<u64>().expect("digits");
                *counts.entry(this.clone()).or_default() += 1;
                *starts.entry(this.chars().take(2).collect()).or_default() += 1;
                if let Some(before) = before.replace(this.clone()) {
                    *pairs.entry((before, this)).or_default() += 1;
                }
            }
        }
        let total: u64 = counts.values().sum();
        assert_eq!(total, starts.values().sum::<u64>());
        let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
        sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let top: Vec<String> = sorted.iter().take(100).map(|(w, n)| format!("{w}={n}")).collect();
        sum = sum
            .wrapping_mul(31)
            .wrapping_add(top.join(",").len() as u64 + total + pairs.len() as u64);
    }
    sum
}
