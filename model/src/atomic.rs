//! loom's atomics, made by `const fn` as core's are.
//!
//! Of the loads between two stores loom remembers the last one only, and does
//! not try the other stores before the others. So each access is preceded by a
//! read and write of a second atomic, relaxed: that orders nothing, and loom
//! tries all orders of those.

use crate::fresh::Fresh;
use std::sync::atomic::Ordering;

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        pub struct $name {
            init: $int,
            real: Fresh<(loom::sync::atomic::$name, loom::sync::atomic::AtomicBool)>,
        }

        impl $name {
            pub const fn new(init: $int) -> $name {
                $name { init, real: Fresh::new() }
            }

            fn real(&self) -> &loom::sync::atomic::$name {
                let make = || {
                    let value = loom::sync::atomic::$name::new(self.init);
                    (value, loom::sync::atomic::AtomicBool::new(false))
                };
                // SAFETY: values of an execution live as long as it does.
                let (value, order) = unsafe { &*self.real.get(make) };
                order.fetch_or(false, Ordering::Relaxed);
                value
            }

            pub fn load(&self, order: Ordering) -> $int {
                self.real().load(order)
            }

            pub fn store(&self, value: $int, order: Ordering) {
                self.real().store(value, order)
            }

            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                self.real().swap(value, order)
            }

            pub fn compare_exchange(
                &self,
                from: $int,
                to: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                self.real().compare_exchange(from, to, success, failure)
            }

            /// Never fails for nothing, as loom's does not either.
            pub fn compare_exchange_weak(
                &self,
                from: $int,
                to: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                self.real().compare_exchange_weak(from, to, success, failure)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);
