//! Another user of rseq in the same threads: `counters.c` keeps counters and lists of blocks per CPU, in sections of
//! its own, on the C library's registration.

use crate::{CPU_ID, DEFAULT, LOCKED, OWN, ended, on_library, passed, program};

/// glibc registers every thread, unless the kernel or a tunable says no.
fn libc_registers() -> bool {
    // SAFETY: a look-up by name; the symbol is an `unsigned int` where it exists.
    unsafe {
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        !size.is_null() && *size > 0
    }
}

/// The number before `what` in what the program says at its end.
fn number(said: &str, what: &str) -> u64 {
    let words: Vec<&str> = said.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|word| *word == what).expect("the word");
    words[at - 1].parse().expect("a number")
}

#[test]
fn another_user_of_rseq_loses_nothing_beside_the_library() {
    let mut aborted = 0;
    for mode in [DEFAULT, CPU_ID, LOCKED] {
        let said = passed(on_library(program("counters"), mode).args(["1", "16"])).stdout;
        assert!(said.starts_with("ok"), "{mode:?}: {said}");
        if libc_registers() {
            assert_eq!(number(&said, "unregistered"), 0, "{mode:?}: {said}");
            aborted += number(&said, "aborted");
        }
    }
    assert!(aborted > 0 || !libc_registers(), "nothing was ever aborted");
}

/// The library's own registration, which it makes where the C library has none, is none of the other's.
#[test]
fn another_user_of_rseq_sees_that_it_is_not_registered() {
    let said = passed(on_library(program("counters"), OWN).args(["0.5", "16"])).stdout;
    assert!(said.starts_with("ok") && number(&said, "unregistered") > 1000, "{said}");
}

/// The counts above can be wrong: sections that are announced to nobody lose increments.
#[test]
fn another_users_sections_that_are_not_announced_lose_increments() {
    if !libc_registers() {
        println!("SKIP: no registration of the C library's");
        return;
    }
    let mut counters = on_library(program("counters"), DEFAULT);
    let ended = ended(counters.args(["3", "32", "planted"]));
    assert_eq!(ended.status.code(), Some(3), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.starts_with("lost"), "{}", ended.stdout);
}

#[test]
fn no_block_is_handed_out_while_somebody_holds_it() {
    for mode in crate::MODES {
        let said = passed(on_library(program("twice"), mode).args(["0.5", "16"])).stdout;
        assert!(said.starts_with("twice 0 of"), "{mode:?}: {said}");
    }
}
