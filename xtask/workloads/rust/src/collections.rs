//! The standard collections: maps that grow and shrink, vectors that grow.

use crate::random::Random;
use std::collections::{BTreeMap, VecDeque};

/// An ordered map of vectors of strings: inserted into, taken from by ranges.
pub fn maps() -> u64 {
    let mut random = Random::new(4);
    let mut map: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let (mut put, mut taken, mut sum) = (0u64, 0u64, 0u64);
    for i in 0..400_000 {
        let key = random.next() % 100_000;
        map.entry(key).or_default().push(format!("value {i} of {key}"));
        put += 1;
        if i % 1000 == 999 {
            let from = random.next() % 100_000;
            let mut rest = map.split_off(&from);
            let mut after = rest.split_off(&(from + 700));
            for (key, values) in rest {
                taken += values.len() as u64;
                sum = sum.wrapping_mul(31).wrapping_add(key + values.concat().len() as u64);
            }
            map.append(&mut after);
        }
    }
    let left: u64 = map.values().map(|v| v.len() as u64).sum();
    assert_eq!(put, taken + left);
    sum.wrapping_add(left)
}

/// Vectors of all lengths pushed to one by one, and queues, some of which stay.
pub fn vectors() -> u64 {
    let mut random = Random::new(5);
    let mut held: Vec<Vec<u64>> = Vec::new();
    let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
    let mut sum = 0u64;
    for i in 0..8000u64 {
        let length = random.size(4, 17);
        let mut v = Vec::new();
        for n in 0..length as u64 {
            v.push(n ^ i);
        }
        assert_eq!(v[length / 2], (length as u64 / 2) ^ i);
        queue.push_back(v.iter().step_by(5).map(|n| *n as u8).collect());
        if queue.len() > 40 {
            sum += queue.pop_front().map_or(0, |q| q.iter().map(|b| u64::from(*b)).sum());
        }
        v.truncate(length / 4);
        v.shrink_to_fit();
        if held.len() < 100 {
            held.push(v);
        } else {
            held[random.below(100)] = v;
        }
    }
    sum + held.iter().map(|v| v.len() as u64).sum::<u64>()
}
