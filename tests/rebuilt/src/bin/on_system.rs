//! jaq as it is: the reference output.

fn main() {
    rebuilt::main();
}
