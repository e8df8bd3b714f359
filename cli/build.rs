//! Tells the command where the allocator is native, by the rule of the allocator's own build.rs.
//! Elsewhere the command builds as well and says that there is nothing to run.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(cidalloc_native)");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let is_64_bit = target("POINTER_WIDTH") == "64";
    let is_supported = matches!(target("ARCH").as_str(), "x86_64" | "aarch64");
    if target("OS") == "linux" && is_supported && is_64_bit {
        println!("cargo:rustc-cfg=cidalloc_native");
    }
}
