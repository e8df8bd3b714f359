//! What a walk over all layers counts, and what it finds wrong.

use crate::size_class;
use crate::units::ClassId;
use core::fmt;

/// One size class: counts, but for `size_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassCensus {
    /// Bytes of an object.
    pub size_bytes: u32,
    pub spans: u32,
    /// Objects that the application holds, or that a thread moves between layers.
    pub live: u64,
    /// Free in the spans.
    pub central_free: u64,
    /// In the transfer cache.
    pub transfer: u64,
    /// In slabs (and in them or the transfer cache, blocks from aside, which have
    /// no span).
    pub cached: u64,
}

/// Every block, counted at one moment. Exact where no other thread runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// By class; entry 0 stays zero.
    pub classes: [ClassCensus; size_class::COUNT],
    /// Live blocks above the classes, and the pages they have, in bytes.
    pub large_blocks: u64,
    pub large_bytes: u64,
    /// Live blocks beside the heap, see `back::aside`.
    pub aside_blocks: u64,
}

impl Census {
    pub const EMPTY: Census = Census {
        classes: [ClassCensus {
            size_bytes: 0,
            spans: 0,
            live: 0,
            central_free: 0,
            transfer: 0,
            cached: 0,
        }; size_class::COUNT],
        large_blocks: 0,
        large_bytes: 0,
        aside_blocks: 0,
    };

    /// All live blocks.
    pub fn live(&self) -> u64 {
        let small = self.classes.iter().map(|c| c.live).sum::<u64>();
        small + self.large_blocks + self.aside_blocks
    }
}

/// What two parts of the heap disagree about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The kernel refused the fence: the slabs could not be read.
    NoFence,
    /// The walk was asked for in a signal handler that interrupted the allocator.
    Inside,

    // Slabs. `at` is the slab's number.
    HeaderLimits,
    ClassZeroHeader,
    SlotsOutside,
    SlotsOverlap,
    TopOutside,
    ClosedSlab,
    SlabUsed,
    SlabBudget,
    BudgetSum,
    OpenSlabs,
    RseqAreas,

    // Objects in slabs and transfer caches. `at` is the object.
    ObjectForeign,
    ObjectNoSpan,
    ObjectClass,
    ObjectInterior,
    ObjectFree,
    ObjectTwice,

    TransferCounts,

    // Central lists. `at` is a unit, or 0.
    CentralRecord,
    CentralLink,
    CentralPlace,
    CentralListed,
    CentralFree,
    CentralSpans,

    // Spans and the page map. `at` is a page's address.
    MapUnit,
    MapClass,
    MapLength,
    SpanShape,
    SpanFree,
    SpanBits,
    SpanPlace,
    BlockShape,

    // Hugepages. `at` is a hugepage's address, or 0.
    UsedPages,
    DirtyPages,
    StrayBlock,
    FillerLink,
    FillerPlace,
    FillerLists,
    FillerTotals,
    RangeLink,
    RangeShape,
    RangeTotals,

    // The page heap's sums. `at` is 0 or a unit.
    InUse,
    SpanCount,
    LargeCount,
    KeptBlocks,
    UnitList,
    UnitSum,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Kind::NoFence => "the kernel refuses membarrier: slabs not checked",
            Kind::Inside => "this thread is inside the allocator: nothing checked",
            Kind::HeaderLimits => "slab header neither unused, stopped nor within its limits",
            Kind::ClassZeroHeader => "header of class 0 is in use in slab",
            Kind::SlotsOutside => "slots outside the slab",
            Kind::SlotsOverlap => "slots overlap another class's in slab",
            Kind::TopOutside => "top outside the class's slots in slab",
            Kind::ClosedSlab => "slots or budget in a slab not in use",
            Kind::SlabUsed => "used bytes are not the sum of the slots in slab",
            Kind::SlabBudget => "more bytes used than the budget of slab",
            Kind::BudgetSum => "slabs' budgets do not add up",
            Kind::OpenSlabs => "count of slabs in use is wrong",
            Kind::RseqAreas => "list of rseq areas is broken",
            Kind::ObjectForeign => "cached object outside the heap",
            Kind::ObjectNoSpan => "cached object in no span",
            Kind::ObjectClass => "cached object of another class",
            Kind::ObjectInterior => "cached object is not the start of an object",
            Kind::ObjectFree => "cached object is free in its span",
            Kind::ObjectTwice => "object is cached twice",
            Kind::TransferCounts => "transfer cache's counts contradict each other",
            Kind::CentralRecord => "central list names no live span of its class",
            Kind::CentralLink => "central list's links are broken",
            Kind::CentralPlace => "span in another list than its occupancy's",
            Kind::CentralListed => "spans with free objects that are in no list",
            Kind::CentralFree => "central count of free objects is wrong",
            Kind::CentralSpans => "central count of spans is wrong",
            Kind::MapUnit => "page map names no span that starts here",
            Kind::MapClass => "page map names another class",
            Kind::MapLength => "page table's length is not the hugepages'",
            Kind::SpanShape => "span's record has the wrong length or place",
            Kind::SpanFree => "span's free count is not its bitmap's",
            Kind::SpanBits => "span's bitmap has bits beyond its objects",
            Kind::SpanPlace => "span is free or full and kept all the same",
            Kind::BlockShape => "large block's record does not match its hugepages",
            Kind::UsedPages => "hugepage's used pages are not its spans'",
            Kind::DirtyPages => "hugepage's dirty pages contradict its state",
            Kind::StrayBlock => "hugepage belongs to no large block",
            Kind::FillerLink => "filler list's links are broken",
            Kind::FillerPlace => "hugepage in another filler list than its room's",
            Kind::FillerLists => "hugepages with room that are in no filler list",
            Kind::FillerTotals => "filler's totals are wrong",
            Kind::RangeLink => "range list's links are broken",
            Kind::RangeShape => "range of free hugepages has the wrong length or state",
            Kind::RangeTotals => "totals of free hugepages are wrong",
            Kind::InUse => "pages in use do not add up",
            Kind::SpanCount => "count of spans is wrong",
            Kind::LargeCount => "count of large blocks is wrong",
            Kind::KeptBlocks => "large blocks kept for reuse do not add up",
            Kind::UnitList => "list of free records is broken",
            Kind::UnitSum => "records do not add up",
        }
    }
}

/// One contradiction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    pub kind: Kind,
    /// The class it is about, or NONE.
    pub class: ClassId,
    /// Where: see [`Kind`].
    pub at: usize,
    /// What stands there, and what the rest of the heap says, where those are
    /// numbers.
    pub found: usize,
    pub expected: usize,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#x}", self.kind.text(), self.at)?;
        if self.class != ClassId::NONE {
            write!(f, ", class {}", self.class.0)?;
        }
        if self.found != self.expected {
            write!(f, ", {} instead of {}", self.found, self.expected)?;
        }
        Ok(())
    }
}

/// What a walk found wrong: all counted, the first ones kept.
#[derive(Clone, Debug)]
pub struct Broken {
    count: usize,
    kept: [Option<Finding>; Broken::KEPT],
}

impl Broken {
    /// How many findings are kept.
    pub const KEPT: usize = 32;
    pub(crate) const NOTHING: Broken = Broken { count: 0, kept: [None; Broken::KEPT] };

    /// How many contradictions were found.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first ones.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.kept.iter().flatten()
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.findings().any(|f| f.kind == kind)
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        if let Some(slot) = self.kept.get_mut(self.count) {
            *slot = Some(finding);
        }
        self.count += 1;
    }

    /// Adds a finding about `at` unless `holds`.
    pub(crate) fn check(&mut self, holds: bool, kind: Kind, class: ClassId, at: usize) {
        if !holds {
            self.add(Finding { kind, class, at, found: 0, expected: 0 });
        }
    }

    /// Adds a finding unless the two numbers are the same.
    pub(crate) fn same(
        &mut self,
        kind: Kind,
        class: ClassId,
        at: usize,
        found: usize,
        expected: usize,
    ) {
        if found != expected {
            self.add(Finding { kind, class, at, found, expected });
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings().try_for_each(|finding| writeln!(f, "cidalloc: walk: {finding}"))?;
        match self.count.saturating_sub(Broken::KEPT) {
            0 => Ok(()),
            more => writeln!(f, "cidalloc: walk: and {more} more"),
        }
    }
}
