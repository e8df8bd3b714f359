//! The back: address space, hugepages, pages, spans.
//!
//! Bottom up: `region` (address space that grows), `address_space` (where the
//! regions lie), `page_map` (page → class and span), `span` (records), `records`
//! (their memory),
//! `huge_page` (what is known of each 2 MiB), `huge_filler` (spans packed into
//! hugepages), `huge_cache` (whole free hugepages), `kept` (blocks just freed),
//! `expected` (memory about to be touched), `page_heap` (the lock and
//! the operations over all of them), `large` (blocks above the classes),
//! `aside` (blocks for whoever cannot use the heap).

pub mod address_space;
pub mod aside;
pub mod expected;
pub mod huge_cache;
pub mod huge_filler;
pub mod huge_page;
pub mod kept;
pub mod large;
pub mod page_heap;
pub mod page_map;
pub mod records;
pub mod region;
pub mod span;
