//! Compiles the throwing half of `operator new` and sets the library's linking.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    println!("cargo:rerun-if-changed=cxx/new.cc");
    println!("cargo:rerun-if-changed=cidalloc.pc.in");
    cc::Build::new()
        .cpp(true)
        // C programs must not need the C++ library: its symbols are weak.
        .cpp_link_stdlib(None)
        .file("cxx/new.cc")
        .flag("-std=c++17")
        .flag("-fexceptions")
        .flag("-fno-rtti")
        .pic(true)
        .warnings(true)
        .compile("cidalloc_cxx");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcidalloc.so");
    // The kernel keeps addresses of sections: the code must never go away.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    pkg_config();
}

/// Fills in the pkg-config file; it lands beside the libraries' build output.
fn pkg_config() {
    let Ok(template) = fs::read_to_string("cidalloc.pc.in") else { return };
    let prefix = env::var("CIDALLOC_LIB_PREFIX").unwrap_or_else(|_| "/usr/local".into());
    println!("cargo:rerun-if-env-changed=CIDALLOC_LIB_PREFIX");
    let text = template
        .replace("@PREFIX@", &prefix)
        .replace("@VERSION@", &env::var("CARGO_PKG_VERSION").unwrap());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    fs::write(out.join("cidalloc.pc"), text).unwrap();
}
