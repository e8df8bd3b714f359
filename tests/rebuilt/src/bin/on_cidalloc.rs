//! jaq with the two lines that move a Rust program to cidalloc.

#[global_allocator]
static ALLOCATOR: cidalloc::CidAlloc = cidalloc::CidAlloc;

fn main() {
    rebuilt::main();
}
