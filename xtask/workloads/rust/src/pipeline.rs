//! Threads in a row, joined by channels: each frees what the one before made.

use crate::random::Random;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

const RECORDS: usize = 480_000;
/// Records are handed on together, as a program would do that cares for its locks.
const TOGETHER: usize = 64;

fn lines(out: &SyncSender<Vec<String>>) {
    let mut random = Random::new(6);
    for _ in 0..RECORDS / TOGETHER {
        let line = |_| {
            let (user, bytes) = (random.below(3000), random.size(5, 14));
            format!("user={user};bytes={bytes};path=/a/{}/b/{}", random.below(50), user % 7)
        };
        out.send((0..TOGETHER).map(line).collect()).expect("the next stage is there");
    }
}

struct Record {
    user: Box<str>,
    fields: Vec<(String, String)>,
    bytes: u64,
}

fn parse(input: Receiver<Vec<String>>, out: &SyncSender<Vec<Record>>) {
    for batch in input {
        let records = batch.into_iter().map(|line| {
            let fields: Vec<(String, String)> = line
                .split(';')
                .filter_map(|part| part.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            let bytes = fields[1].1.parse().expect("a number");
            Record { user: fields[0].1.as_str().into(), fields, bytes }
        });
        out.send(records.collect()).expect("the next stage is there");
    }
}

fn count(input: Receiver<Vec<Record>>) -> (u64, u64, usize) {
    let mut users: HashMap<Box<str>, (u64, Vec<String>)> = HashMap::new();
    let mut seen = 0;
    for batch in input {
        for record in batch {
            seen += 1;
            let user = users.entry(record.user).or_default();
            user.0 += record.bytes;
            if user.1.len() == 16 {
                user.1.clear();
            }
            user.1.extend(record.fields.into_iter().nth(2).map(|(_, path)| path));
        }
    }
    (seen, users.values().map(|u| u.0).sum(), users.len())
}

/// Text to records to totals, two such rows of three threads side by side.
pub fn pipeline() -> u64 {
    let row = || {
        let (to_parse, parsing) = sync_channel(16);
        let (to_count, counting) = sync_channel(16);
        let first = thread::spawn(move || lines(&to_parse));
        let second = thread::spawn(move || parse(parsing, &to_count));
        let (seen, bytes, users) = count(counting);
        first.join().and_then(|()| second.join()).expect("no stage ends early");
        assert_eq!(seen as usize, RECORDS / TOGETHER * TOGETHER);
        bytes * 31 + users as u64
    };
    let other = thread::spawn(row);
    let mine = row();
    let other = other.join().expect("the other row ends well");
    assert_eq!(mine, other);
    mine
}
