//! What a history is made of: steps, their text form, and how they are drawn.

use proptest::prelude::*;
use std::fmt;
use std::str::FromStr;

pub const MAX_SIZE: usize = 64 << 20;
pub const MAX_ALIGN_SHIFT: u32 = 22;
/// Threads of a history, at the most.
pub const THREADS: u8 = 4;

/// One operation. `pick` chooses among the blocks that the thread holds,
/// modulo their number, so that a shortened history stays valid.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Allocate {
        size: usize,
    },
    Zeroed {
        size: usize,
    },
    Aligned {
        size: usize,
        align: usize,
    },
    /// Through `GlobalAlloc`: freed and resized with the same layout.
    Layout {
        size: usize,
        align: usize,
        zeroed: bool,
    },
    Free {
        pick: u16,
    },
    FreeSized {
        pick: u16,
    },
    Resize {
        pick: u16,
        size: usize,
    },
    /// To so many thousandths of the present size.
    Scale {
        pick: u16,
        permille: u16,
    },
    UsableSize {
        pick: u16,
    },
    Hand {
        pick: u16,
        to: u8,
    },
    /// The thread ends; another goes on with what it holds.
    Respawn,
    Trim,
}

impl Op {
    pub fn pick(&mut self) -> Option<&mut u16> {
        match self {
            Op::Free { pick }
            | Op::FreeSized { pick }
            | Op::Resize { pick, .. }
            | Op::Scale { pick, .. }
            | Op::UsableSize { pick }
            | Op::Hand { pick, .. } => Some(pick),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub thread: u8,
    pub op: Op,
}

pub type History = Vec<Step>;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ", self.thread)?;
        match &self.op {
            Op::Allocate { size } => write!(f, "allocate {size}"),
            Op::Zeroed { size } => write!(f, "zeroed {size}"),
            Op::Aligned { size, align } => write!(f, "aligned {size} {align}"),
            Op::Layout { size, align, zeroed } => {
                write!(f, "layout {size} {align} {}", *zeroed as u8)
            }
            Op::Free { pick } => write!(f, "free {pick}"),
            Op::FreeSized { pick } => write!(f, "free_sized {pick}"),
            Op::Resize { pick, size } => write!(f, "resize {pick} {size}"),
            Op::Scale { pick, permille } => write!(f, "scale {pick} {permille}"),
            Op::UsableSize { pick } => write!(f, "usable_size {pick}"),
            Op::Hand { pick, to } => write!(f, "hand {pick} {to}"),
            Op::Respawn => write!(f, "respawn"),
            Op::Trim => write!(f, "trim"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Step, String> {
        let mut words = line.split_whitespace();
        let bad = || format!("not a step: {line:?}");
        let mut word = || words.next().ok_or_else(bad);
        let thread = word()?.parse().map_err(|_| bad())?;
        let name = word()?;
        let mut number = || word()?.parse::<usize>().map_err(|_| bad());
        let op = match name {
            "allocate" => Op::Allocate { size: number()? },
            "zeroed" => Op::Zeroed { size: number()? },
            "aligned" => Op::Aligned { size: number()?, align: number()? },
            "layout" => Op::Layout { size: number()?, align: number()?, zeroed: number()? != 0 },
            "free" => Op::Free { pick: number()? as u16 },
            "free_sized" => Op::FreeSized { pick: number()? as u16 },
            "resize" => Op::Resize { pick: number()? as u16, size: number()? },
            "scale" => Op::Scale { pick: number()? as u16, permille: number()? as u16 },
            "usable_size" => Op::UsableSize { pick: number()? as u16 },
            "hand" => Op::Hand { pick: number()? as u16, to: number()? as u8 },
            "respawn" => Op::Respawn,
            "trim" => Op::Trim,
            _ => return Err(bad()),
        };
        Ok(Step { thread, op })
    }
}

pub fn to_text(history: &[Step]) -> String {
    history.iter().map(|step| format!("{step}\n")).collect()
}

pub fn from_text(text: &str) -> Result<History, String> {
    text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).map(str::parse).collect()
}

/// Sizes with `low..=high` significant bits, each number of bits as likely as
/// the others: a skew towards the small.
fn size_of_bits(low: u32, high: u32) -> impl Strategy<Value = usize> {
    (low..=high, any::<u16>()).prop_map(|(bits, fraction)| {
        let base = 1usize << bits;
        (base + ((base * fraction as usize) >> 16)).min(MAX_SIZE)
    })
}

/// Sizes at the edges of classes, pages and hugepages: an eighth of a power of
/// two, less one, exact, plus one.
fn edge_size() -> impl Strategy<Value = usize> {
    (3u32..=22, 8usize..16, 0usize..3).prop_map(|(bits, eighths, delta)| {
        ((1usize << bits) * eighths / 8 + delta).saturating_sub(1)
    })
}

/// 0 to 64 MiB, mostly small; one in about 150 is above 1 MiB.
pub fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        50 => size_of_bits(0, 9),
        35 => size_of_bits(8, 14),
        20 => edge_size(),
        10 => size_of_bits(13, 18),
        3 => size_of_bits(17, 21),
        1 => size_of_bits(20, 26),
        2 => Just(0usize),
    ]
}

/// 1 to 4 MiB, mostly up to a page.
pub fn align() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0u32..=6,
        3 => 4u32..=13,
        1 => 12u32..=MAX_ALIGN_SHIFT,
    ]
    .prop_map(|shift| 1usize << shift)
}

fn op() -> impl Strategy<Value = Op> {
    let pick = any::<u16>;
    prop_oneof![
        20 => size().prop_map(|size| Op::Allocate { size }),
        6 => size().prop_map(|size| Op::Zeroed { size }),
        6 => (size(), align()).prop_map(|(size, align)| Op::Aligned { size, align }),
        8 => (size(), align(), any::<bool>())
            .prop_map(|(size, align, zeroed)| Op::Layout { size: size.max(1), align, zeroed }),
        14 => pick().prop_map(|pick| Op::Free { pick }),
        10 => pick().prop_map(|pick| Op::FreeSized { pick }),
        5 => (pick(), size()).prop_map(|(pick, size)| Op::Resize { pick, size: size.max(1) }),
        5 => (pick(), 1u16..4000).prop_map(|(pick, permille)| Op::Scale { pick, permille }),
        3 => pick().prop_map(|pick| Op::UsableSize { pick }),
        6 => (pick(), 0..THREADS).prop_map(|(pick, to)| Op::Hand { pick, to }),
        1 => Just(Op::Respawn),
        1 => Just(Op::Trim),
    ]
}

/// A history of up to `steps` steps on up to `threads` threads.
pub fn history(threads: u8, steps: usize) -> impl Strategy<Value = History> {
    prop::collection::vec(
        (0..threads, op()).prop_map(|(thread, op)| Step { thread, op }),
        1..=steps,
    )
}
