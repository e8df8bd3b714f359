//! Compiles the throwing half of `operator new` and sets the library's linking.

use std::env;

fn main() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    // vfork and dlopen are bare jumps: see src/process.rs.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    assert!(
        !flags.contains("force-frame-pointers") || flags.contains("force-frame-pointers=n"),
        "-Cforce-frame-pointers puts a frame into vfork and dlopen, which must have none: build \
         without it"
    );
    println!("cargo:rerun-if-changed=cxx/new.cc");
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
    println!("cargo:rerun-if-changed=rare.ld");
    // These linkers read no such script.
    if !["gold", "mold", "wild"].iter().any(|linker| flags.contains(linker)) {
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-cdylib-link-arg=-Wl,-T,{here}/rare.ld");
    }
    // The kernel keeps addresses of sections: the code must never go away.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
