//! loom's atomics, made by `const fn` as core's are.

use crate::fresh::Fresh;
use std::sync::atomic::Ordering;

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        pub struct $name {
            init: $int,
            real: Fresh<loom::sync::atomic::$name>,
        }

        impl $name {
            pub const fn new(init: $int) -> $name {
                $name { init, real: Fresh::new() }
            }

            fn real(&self) -> &loom::sync::atomic::$name {
                // SAFETY: values of an execution live as long as it does.
                unsafe { &*self.real.get(|| loom::sync::atomic::$name::new(self.init)) }
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
