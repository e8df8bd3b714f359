//! Objects at home. Beneath it nothing is modelled.

use crate::OBJECTS;
use crate::os::lock::{Lock, Rank};
use crate::units::ClassId;
use std::sync::atomic::AtomicBool;

pub mod batch {
    cidalloc_model::source!("middle_batch");
}

pub static SHARED: AtomicBool = AtomicBool::new(false);

pub static HOME: Lock<[bool; OBJECTS]> = Lock::new(Rank::Transfer, [true; OBJECTS]);

pub fn take(_class: ClassId, out: &mut [usize]) -> usize {
    let mut home = HOME.lock();
    let mut taken = 0;
    for (i, here) in home.iter_mut().enumerate() {
        if *here && taken < out.len() {
            out[taken] = i + 1;
            taken += 1;
            *here = false;
        }
    }
    taken
}

pub fn give(_class: ClassId, objects: &[usize]) {
    if objects.is_empty() {
        return;
    }
    let mut home = HOME.lock();
    for object in objects {
        assert!((1..=OBJECTS).contains(object), "not an object: {object:#x}");
        let here = &mut home[*object - 1];
        assert!(!std::mem::replace(here, true), "twice: came home while at home");
    }
}
