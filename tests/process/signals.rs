//! Signal handlers that allocate, wherever they interrupt.

use crate::{DEFAULT, LOCKED, MODES, check, check_modes, ended, on_library, program};
use std::os::unix::process::ExitStatusExt;

#[test]
fn handlers_allocate_wherever_a_timer_interrupts() {
    check_modes("storm", &["timer"]);
    // Beats and statistics in every slow path.
    for mode in [DEFAULT, LOCKED] {
        let mut often = on_library(program("storm"), mode);
        check(often.arg("timer").env("CIDALLOC_DECAY_MS", "8").env("CIDALLOC_COUNT", "1"));
    }
}

/// Handlers of two signals nest. Once, the slow path of a handler made the one it had interrupted look
/// like the application: the next handler took a lock that its own thread held.
#[test]
fn handlers_nest_and_allocate_in_a_storm_of_signals() {
    check_modes("storm", &["kill"]);
}

#[test]
fn handlers_on_an_alternate_stack_of_16_kib_allocate() {
    check_modes("storm", &["stack"]);
}

#[test]
fn handlers_fork_and_their_children_allocate() {
    check_modes("storm", &["fork"]);
    for mode in MODES {
        check(on_library(program("storm"), mode).args(["fork", "3"]));
    }
}

/// A handler that interrupted a slow path returns into it in the child, too.
#[test]
fn children_of_a_handlers_fork_go_on_where_it_interrupted() {
    check_modes("storm", &["resume"]);
}

#[test]
fn handlers_may_jump_out_of_the_applications_own_code() {
    check_modes("storm", &["jump"]);
}

#[test]
fn a_block_beside_the_heap_is_freed_once() {
    for mode in [DEFAULT, LOCKED, &[("CIDALLOC_CHECK", "1")]] {
        let ended = ended(&mut on_library(program("aside_twice"), mode));
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{mode:?}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("cidalloc: invalid free: no block starts here: 0x"));
    }
}
