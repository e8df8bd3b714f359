//! The heap's interface against the model of `tests/history/`. A failure shows
//! the history as text, which `tests/history.rs` runs again.

use super::Target;
use super::input::Input;
use faulty::{Fault, Planted};
use heap::{Cidalloc, Heap};
use op::{History, Op, Step};
use run::Pace;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../../tests/history/faulty.rs"]
#[allow(dead_code)] // none at all
mod faulty;
#[path = "../../tests/history/heap.rs"]
mod heap;
#[path = "../../tests/history/mode.rs"]
mod mode;
#[path = "../../tests/history/model.rs"]
mod model;
#[path = "../../tests/history/op.rs"]
#[allow(dead_code)] // how histories are drawn, and read
mod op;
#[path = "../../tests/history/run.rs"]
#[allow(dead_code)] // the search for failing ones
mod run;

pub static TARGET: Target = Target {
    name: "history",
    run,
    faults: &[
        "overlap",
        "handed out twice",
        "lost tail",
        "scribble",
        "half aligned",
        "not zeroed",
        "usable size changes",
        "usable size too small",
        "leak",
    ],
};

/// A history obtains so much in large blocks; further ones are small.
const LARGE_BYTES: usize = 64 << 20;
const LARGE: usize = 256 << 10;

/// Keeps the process's heap to one target at a time: blocks are counted.
pub fn alone() -> MutexGuard<'static, ()> {
    static HEAP: Mutex<()> = Mutex::new(());
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(bytes: &[u8], planted: &str) -> Result<(), String> {
    let _alone = alone();
    let fault = match planted {
        "overlap" => Fault::Overlap,
        "handed out twice" => Fault::HandedOutTwice,
        "lost tail" => Fault::LostTail,
        "scribble" => Fault::Scribble,
        "half aligned" => Fault::HalfAligned,
        "not zeroed" => Fault::NotZeroed,
        "usable size changes" => Fault::UsableChanges,
        "usable size too small" => Fault::UsableShort,
        "leak" => Fault::Leak,
        _ => {
            hold(&Cidalloc, bytes)?;
            return cidalloc::heap::walk().map(|_| ()).map_err(|broken| broken.to_string());
        }
    };
    hold(&Planted::new(fault), bytes)
}

fn hold(heap: &dyn Heap, bytes: &[u8]) -> Result<(), String> {
    let history = history(bytes);
    run::run(heap, Pace::Alone, &history)
        .map_err(|fault| format!("{fault}; the history:\n{}", op::to_text(&history)))
}

fn history(bytes: &[u8]) -> History {
    let mut input = Input::new(bytes);
    let mut large = 0;
    std::iter::from_fn(|| Some(Step { thread: 0, op: next(&mut input, &mut large)? })).collect()
}

fn next(input: &mut Input, large: &mut usize) -> Option<Op> {
    let choice = input.next()?;
    let pick = |input: &mut Input| u16::from(input.byte());
    Some(match choice % 16 {
        0..=3 => Op::Allocate { size: size(input, large) },
        4 => Op::Zeroed { size: size(input, large) },
        5 => Op::Aligned { size: size(input, large), align: align(input) },
        6 => Op::Layout {
            size: size(input, large).max(1),
            align: align(input),
            zeroed: choice >= 128,
        },
        7..=9 => Op::Free { pick: pick(input) },
        10 | 11 => Op::FreeSized { pick: pick(input) },
        12 => Op::Resize { pick: pick(input), size: size(input, large).max(1) },
        // Down to nothing, or up to twice the size.
        13 => Op::Scale { pick: pick(input), permille: u16::from(input.byte()) * 8 },
        14 if choice >= 192 => Op::Trim,
        _ => Op::UsableSize { pick: pick(input) },
    })
}

/// Sizes by their number of bits, one in eight up to 64 MiB, the others up to
/// 64 KiB; or close to an eighth of a power of two.
fn size(input: &mut Input, large: &mut usize) -> usize {
    let (bits, part) = (input.byte(), usize::from(input.byte()));
    let size = match bits {
        0..192 => (1 << (bits % 16)) + ((part << (bits % 16)) >> 8),
        192..224 => ((1 << (part % 20 + 3)) * usize::from(bits % 8 + 8) / 8 + part / 85) - 1,
        _ => (1 << (bits % 16 + 11)) + ((part << (bits % 16 + 11)) >> 8),
    };
    // 0 bits and no part: the empty block.
    let size = if (bits, part) == (0, 0) { 0 } else { size.min(op::MAX_SIZE) };
    if size < LARGE {
        return size;
    }
    *large += size;
    if *large <= LARGE_BYTES { size } else { size % LARGE }
}

/// Mostly up to a page, at most 4 MiB.
fn align(input: &mut Input) -> usize {
    let byte = u32::from(input.byte());
    1 << if byte < 192 { byte % 14 } else { byte % (op::MAX_ALIGN_SHIFT + 1) }
}
