// The slow half of operator new: the new-handler loop, and bad_alloc.
//
// Compiled as C++ because only C++ may throw and catch. Nothing of the C++
// library is needed to load the allocator: every symbol of it is weak, and all
// are there in any process that runs C++.

#include <stddef.h>

// Names the compiler itself emits for a function that catches.
__asm__(".weak __gxx_personality_v0\n"
        ".weak __cxa_begin_catch\n"
        ".weak __cxa_end_catch\n"
        ".weak _Unwind_Resume\n"
        ".weak _ZSt9terminatev\n");

typedef void (*new_handler)();

extern "C" {
// The C++ library's, exported by libstdc++ and libc++ under these names.
__attribute__((weak)) new_handler _ZSt15get_new_handlerv();
__attribute__((weak)) void _ZSt17__throw_bad_allocv();
__attribute__((weak)) void *dlopen(const char *, int);
__attribute__((weak)) void *dlsym(void *, const char *);

// Rust: null when there is no memory. Do not throw. `told` is passed through.
void *cidalloc_allocate_for_new(size_t size, size_t align, unsigned told);
[[noreturn]] void cidalloc_cannot_throw(size_t size);

void *cidalloc_new_slow(size_t size, size_t align, unsigned told);
void *cidalloc_new_nothrow_slow(size_t size, size_t align, unsigned told);
}

// A function of a C++ library that was loaded after us, and out of our sight.
static void *of_loaded_library(const char *name) {
  if (!dlopen || !dlsym)
    return nullptr;
  static const char *const libraries[] = {"libstdc++.so.6", "libc++.so.1"};
  for (const char *library : libraries) {
    const int lazy_noload = 0x1 | 0x4;
    void *handle = dlopen(library, lazy_noload);
    if (!handle)
      continue;
    if (void *function = dlsym(handle, name))
      return function;
  }
  return nullptr;
}

static new_handler current_handler() {
  typedef new_handler getter();
  getter *get = _ZSt15get_new_handlerv;
  if (!get)
    get = reinterpret_cast<getter *>(of_loaded_library("_ZSt15get_new_handlerv"));
  return get ? get() : nullptr;
}

[[noreturn]] static void throw_bad_alloc(size_t size) {
  typedef void thrower();
  thrower *raise = _ZSt17__throw_bad_allocv;
  if (!raise)
    raise = reinterpret_cast<thrower *>(of_loaded_library("_ZSt17__throw_bad_allocv"));
  if (raise)
    raise();
  cidalloc_cannot_throw(size);
}

void *cidalloc_new_slow(size_t size, size_t align, unsigned told) {
  for (;;) {
    if (void *block = cidalloc_allocate_for_new(size, align, told))
      return block;
    new_handler handler = current_handler();
    // No handler can make an alignment valid.
    if (!handler || align == 0 || (align & (align - 1)) != 0)
      throw_bad_alloc(size);
    handler();
  }
}

void *cidalloc_new_nothrow_slow(size_t size, size_t align, unsigned told) {
  for (;;) {
    if (void *block = cidalloc_allocate_for_new(size, align, told))
      return block;
    new_handler handler = current_handler();
    if (!handler || align == 0 || (align & (align - 1)) != 0)
      return nullptr;
    try {
      handler();
    } catch (...) {
      return nullptr;
    }
  }
}
