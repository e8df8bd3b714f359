//! The program of both binaries: `PROGRAM FILTER FILE [THREADS]` applies a jq filter to each JSON value
//! of FILE and prints the results in the order of the input.
//!
//! One thread parses, THREADS threads filter, the main thread prints: every value is freed by another
//! thread than the one that allocated it.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data, unwrap_valr};
use jaq_json::{Val, read};

/// Values on their way to a filtering thread, at most.
const QUEUE_LEN: usize = 64;

pub fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (filter, path) = match args.as_slice() {
        [filter, path, ..] => (filter.clone(), path.clone()),
        _ => {
            eprintln!("usage: PROGRAM FILTER FILE [THREADS]");
            std::process::exit(2);
        }
    };
    let threads: usize = args.get(2).map_or(4, |n| n.parse().expect("THREADS is a number"));

    let (to_filter, values) = mpsc::sync_channel::<(usize, Val)>(QUEUE_LEN);
    let values = Arc::new(Mutex::new(values));
    let (to_print, results) = mpsc::channel::<(usize, Vec<Val>)>();

    let parser = std::thread::spawn(move || {
        let text = std::fs::read(&path).expect("the input is readable");
        for (number, value) in read::parse_many(&text).enumerate() {
            let value = value.unwrap_or_else(|e| panic!("{path}: value {number}: {e}"));
            to_filter.send((number, value)).expect("a filtering thread listens");
        }
    });
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (filter, values, to_print) =
                (filter.clone(), Arc::clone(&values), to_print.clone());
            std::thread::spawn(move || apply(&filter, &values, &to_print))
        })
        .collect();
    drop(to_print);

    let mut waiting = BTreeMap::new();
    let mut next = 0;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (number, results) in results {
        waiting.insert(number, results);
        while let Some(results) = waiting.remove(&next) {
            for value in results {
                writeln!(out, "{value}").expect("the output is writable");
            }
            next += 1;
        }
    }
    out.flush().expect("the output is writable");

    parser.join().expect("the parser ends well");
    for worker in workers {
        worker.join().expect("the worker ends well");
    }
}

/// Compiles the filter and applies it to the values that arrive, until none comes any more.
fn apply(
    filter: &str,
    values: &Mutex<mpsc::Receiver<(usize, Val)>>,
    to_print: &mpsc::Sender<(usize, Vec<Val>)>,
) {
    let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules = Loader::new(defs)
        .load(&arena, File { code: filter, path: () })
        .unwrap_or_else(|_| panic!("the filter does not parse: {filter}"));
    let compiled = Compiler::default()
        .with_funs(funs)
        .compile(modules)
        .unwrap_or_else(|_| panic!("the filter does not compile: {filter}"));

    loop {
        let received = values.lock().expect("no thread panicked").recv();
        let Ok((number, value)) = received else { return };
        let ctx = Ctx::<data::JustLut<Val>>::new(&compiled.lut, Vars::new([]));
        let results = compiled
            .id
            .run((ctx, value))
            .map(|result| unwrap_valr(result).unwrap_or_else(|e| Val::from(e.to_string())))
            .collect();
        to_print.send((number, results)).expect("the main thread listens");
    }
}
