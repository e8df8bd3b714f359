// Rules of operator new and delete, in every form of C++23.
#include "rule.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::size_t mib = std::size_t(1) << 20;
constexpr std::size_t impossible = std::size_t(PTRDIFF_MAX) - 4096;

bool aligned(const void *pointer, std::size_t alignment) {
    return (reinterpret_cast<std::uintptr_t>(pointer) & (alignment - 1)) == 0;
}

std::size_t promised(std::size_t size) { return size <= 8 ? 8 : 16; }

// Each form of new with each form of delete that may follow it ([new.delete.single], [new.delete.array]).
struct pair {
    const char *name;
    bool over_aligned;
    void *(*allocate)(std::size_t size, std::size_t alignment);
    void (*release)(void *block, std::size_t size, std::size_t alignment);
};

std::align_val_t as_alignment(std::size_t alignment) { return std::align_val_t(alignment); }

void *n1(std::size_t s, std::size_t) { return ::operator new(s); }
void *n2(std::size_t s, std::size_t) { return ::operator new(s, std::nothrow); }
void *n3(std::size_t s, std::size_t a) { return ::operator new(s, as_alignment(a)); }
void *n4(std::size_t s, std::size_t a) { return ::operator new(s, as_alignment(a), std::nothrow); }
void *n5(std::size_t s, std::size_t) { return ::operator new[](s); }
void *n6(std::size_t s, std::size_t) { return ::operator new[](s, std::nothrow); }
void *n7(std::size_t s, std::size_t a) { return ::operator new[](s, as_alignment(a)); }
void *n8(std::size_t s, std::size_t a) { return ::operator new[](s, as_alignment(a), std::nothrow); }

void d1(void *p, std::size_t, std::size_t) { ::operator delete(p); }
void d2(void *p, std::size_t s, std::size_t) { ::operator delete(p, s); }
void d3(void *p, std::size_t, std::size_t) { ::operator delete(p, std::nothrow); }
void d4(void *p, std::size_t, std::size_t a) { ::operator delete(p, as_alignment(a)); }
void d5(void *p, std::size_t s, std::size_t a) { ::operator delete(p, s, as_alignment(a)); }
void d6(void *p, std::size_t, std::size_t a) { ::operator delete(p, as_alignment(a), std::nothrow); }
void d7(void *p, std::size_t, std::size_t) { ::operator delete[](p); }
void d8(void *p, std::size_t s, std::size_t) { ::operator delete[](p, s); }
void d9(void *p, std::size_t, std::size_t) { ::operator delete[](p, std::nothrow); }
void d10(void *p, std::size_t, std::size_t a) { ::operator delete[](p, as_alignment(a)); }
void d11(void *p, std::size_t s, std::size_t a) { ::operator delete[](p, s, as_alignment(a)); }
void d12(void *p, std::size_t, std::size_t a) { ::operator delete[](p, as_alignment(a), std::nothrow); }

const pair pairs[] = {
    {"new, delete", false, n1, d1},
    {"new, sized delete", false, n1, d2},
    {"new, nothrow delete", false, n1, d3},
    {"nothrow new, delete", false, n2, d1},
    {"nothrow new, sized delete", false, n2, d2},
    {"nothrow new, nothrow delete", false, n2, d3},
    {"aligned new, aligned delete", true, n3, d4},
    {"aligned new, sized aligned delete", true, n3, d5},
    {"aligned new, nothrow aligned delete", true, n3, d6},
    {"nothrow aligned new, aligned delete", true, n4, d4},
    {"nothrow aligned new, sized aligned delete", true, n4, d5},
    {"nothrow aligned new, nothrow aligned delete", true, n4, d6},
    {"new[], delete[]", false, n5, d7},
    {"new[], sized delete[]", false, n5, d8},
    {"new[], nothrow delete[]", false, n5, d9},
    {"nothrow new[], delete[]", false, n6, d7},
    {"nothrow new[], sized delete[]", false, n6, d8},
    {"nothrow new[], nothrow delete[]", false, n6, d9},
    {"aligned new[], aligned delete[]", true, n7, d10},
    {"aligned new[], sized aligned delete[]", true, n7, d11},
    {"aligned new[], nothrow aligned delete[]", true, n7, d12},
    {"nothrow aligned new[], aligned delete[]", true, n8, d10},
    {"nothrow aligned new[], sized aligned delete[]", true, n8, d11},
    {"nothrow aligned new[], nothrow aligned delete[]", true, n8, d12},
};

const pair throwing[] = {{"new", false, n1, d1}, {"aligned new", true, n3, d4}, {"new[]", false, n5, d7},
                         {"aligned new[]", true, n7, d10}};
const pair not_throwing[] = {{"nothrow new", false, n2, d1}, {"nothrow aligned new", true, n4, d4},
                             {"nothrow new[]", false, n6, d7}, {"nothrow aligned new[]", true, n8, d10}};

// Puts the handler back however the rule ends.
struct handler_guard {
    std::new_handler before = std::get_new_handler();
    explicit handler_guard(std::new_handler handler) { std::set_new_handler(handler); }
    ~handler_guard() { std::set_new_handler(before); }
};

void every_pair_of_forms() {
    for (const pair &form : pairs)
        for (std::size_t alignment = form.over_aligned ? 1 : 16; alignment <= (form.over_aligned ? 4 * mib : 16);
             alignment *= 2)
            for (std::size_t size = 0; size < 3 * mib; size = size * 2 + 1) {
                note("%s, size %zu, alignment %zu", form.name, size, alignment);
                void *blocks[3];
                for (void *&block : blocks) {
                    block = hide(form.allocate(size, alignment));
                    if (!CHECK(block != nullptr)) return;
                    CHECK(aligned(block, form.over_aligned ? alignment : promised(size)));
                    std::memset(block, 0x11, size);
                }
                CHECK(blocks[0] != blocks[1] && blocks[1] != blocks[2] && blocks[0] != blocks[2]);
                for (void *block : blocks) form.release(block, size, alignment);
            }
}

// What one form frees comes back, whole, from any other.
void forms_share_the_heap() {
    enum { held_count = 300 };
    static unsigned char *held[held_count];
    std::size_t count = 0;
    for (const pair &form : pairs)
        for (std::size_t size : {24, 40, 100, 1000, 5000, 300000}) {
            note("%s, size %zu", form.name, size);
            std::size_t blocks = size > 100000 ? 5 : held_count;
            for (std::size_t i = 0; i < blocks; i++) {
                held[i] = static_cast<unsigned char *>(hide(form.allocate(size, 32)));
                std::memset(held[i], static_cast<int>(i), size);
            }
            for (std::size_t i = 0; i < blocks; i++) {
                CHECK(held[i][0] == static_cast<unsigned char>(i) && std::memcmp(held[i], held[i] + 1, size - 1) == 0);
                form.release(held[i], size, 32);
                count++;
            }
        }
    CHECK(count > 0);
}

void delete_of_null() {
    for (const pair &form : pairs) {
        form.release(hide(nullptr), 0, 64);
        form.release(hide(nullptr), 100, 64);
    }
}

void without_a_handler_bad_alloc() {
    handler_guard guard(nullptr);
    for (const pair &form : throwing)
        for (std::size_t size : {impossible, impossible + 4096, SIZE_MAX / 2 + 1, SIZE_MAX - 4095, SIZE_MAX}) {
            // libstdc++ 12 rounds the size up to the alignment without a look at the overflow.
            if (!ours() && form.over_aligned && size == SIZE_MAX) continue;
            note("%s, size %zu", form.name, size);
            int caught = 0;
            try {
                hide(form.allocate(size, 64));
            } catch (const std::bad_alloc &error) {
                caught++;
                CHECK(typeid(error) == typeid(std::bad_alloc));
                CHECK(std::string(error.what()).find("bad_alloc") != std::string::npos);
            }
            CHECK(caught == 1);
        }
}

void bad_alloc_is_an_exception() {
    handler_guard guard(nullptr);
    int caught = 0;
    try {
        hide(n1(impossible, 0));
    } catch (const std::exception &) {
        caught++;
    }
    try {
        hide(n7(impossible, 64));
    } catch (...) {
        caught++;
        try {
            throw;
        } catch (std::bad_alloc &) {
            caught++;
        }
    }
    CHECK(caught == 3);
    CHECK(std::uncaught_exceptions() == 0);
}

void nothrow_returns_null() {
    handler_guard guard(nullptr);
    for (const pair &form : not_throwing)
        for (std::size_t size : {impossible, SIZE_MAX / 2 + 1, SIZE_MAX}) {
            if (!ours() && form.over_aligned && size == SIZE_MAX) continue;
            note("%s, size %zu", form.name, size);
            try {
                CHECK(hide(form.allocate(size, 64)) == nullptr);
            } catch (...) {
                CHECK(!"nothing is thrown");
            }
        }
}

int handler_calls;
int unwound;

struct counts_unwinding {
    ~counts_unwinding() { unwound++; }
};

// Frames with destructors between the throw and the catch.
__attribute__((noinline)) void *deep(const pair &form, std::size_t size, int depth) {
    counts_unwinding here;
    void *block = depth ? deep(form, size, depth - 1) : hide(form.allocate(size, 64));
    __asm__ volatile("");
    return block;
}

void unwinding_runs_destructors() {
    handler_guard guard(nullptr);
    for (const pair &form : throwing) {
        note("%s", form.name);
        unwound = 0;
        bool caught = false;
        try {
            deep(form, impossible, 20);
        } catch (const std::bad_alloc &) {
            caught = true;
            CHECK(unwound == 21);
        }
        CHECK(caught);
    }
}

void repeated_throwing() {
    handler_guard guard(nullptr);
    int caught = 0;
    for (int i = 0; i < 5000; i++) {
        try {
            hide(throwing[i % 4].allocate(impossible, 64));
        } catch (const std::bad_alloc &) {
            caught++;
            delete[] static_cast<char *>(hide(new char[100 + i]));
        }
    }
    CHECK(caught == 5000);
}

void counts_and_removes_itself() {
    if (++handler_calls == 4) std::set_new_handler(nullptr);
}

void handler_is_called_again_and_again() {
    for (const pair &form : throwing) {
        handler_guard guard(counts_and_removes_itself);
        note("%s", form.name);
        handler_calls = 0;
        bool caught = false;
        try {
            hide(form.allocate(impossible, 64));
        } catch (const std::bad_alloc &) {
            caught = true;
        }
        CHECK(caught);
        CHECK(handler_calls == 4);
    }
    for (const pair &form : not_throwing) {
        handler_guard guard(counts_and_removes_itself);
        note("%s", form.name);
        handler_calls = 0;
        CHECK(hide(form.allocate(impossible, 64)) == nullptr);
        CHECK(handler_calls == 4);
    }
}

struct out_of_memory : std::bad_alloc {
    std::string text = "thrown by the handler, long enough to be allocated itself";
};

void throws_after_three() {
    counts_unwinding here;
    if (++handler_calls == 3) throw out_of_memory();
}

void handler_may_throw() {
    for (const pair &form : throwing) {
        handler_guard guard(throws_after_three);
        note("%s", form.name);
        handler_calls = unwound = 0;
        bool caught = false;
        try {
            deep(form, impossible, 5);
        } catch (const out_of_memory &error) {
            caught = true;
            CHECK(error.text.size() > 50);
        }
        CHECK(caught);
        CHECK(handler_calls == 3);
        CHECK(unwound == 3 + 6);
    }
}

void nothrow_swallows_the_handlers_throw() {
    for (const pair &form : not_throwing) {
        handler_guard guard(throws_after_three);
        note("%s", form.name);
        handler_calls = unwound = 0;
        CHECK(hide(form.allocate(impossible, 64)) == nullptr);
        CHECK(handler_calls == 3);
        CHECK(unwound == 3);
        CHECK(std::uncaught_exceptions() == 0);
    }
}

void throws_another() { throw std::runtime_error("not a bad_alloc"); }

// The standard wants a bad_alloc from a handler; what programs throw beside it must pass unharmed all the same.
void handler_may_throw_anything() {
    handler_guard guard(throws_another);
    for (const pair &form : throwing) {
        bool caught = false;
        note("%s", form.name);
        try {
            hide(form.allocate(impossible, 64));
        } catch (const std::runtime_error &error) {
            caught = std::string(error.what()) == "not a bad_alloc";
        }
        CHECK(caught);
    }
}

void second_handler();
void first_handler() {
    handler_calls++;
    std::set_new_handler(second_handler);
}
void second_handler() {
    handler_calls += 10;
    std::set_new_handler(nullptr);
}

void handler_may_install_another() {
    handler_guard guard(first_handler);
    handler_calls = 0;
    bool caught = false;
    try {
        hide(n1(impossible, 0));
    } catch (const std::bad_alloc &) {
        caught = true;
    }
    CHECK(caught);
    CHECK(handler_calls == 11);
}

// Under a real limit: the handler gives memory up bit by bit, and new succeeds as soon as there is enough.
std::vector<void *> *reserve;

void gives_memory_up() {
    handler_calls++;
    // The first calls change nothing, and new has to come back.
    if (handler_calls <= 2) return;
    if (reserve->empty()) throw std::bad_alloc();
    std::free(reserve->back());
    reserve->pop_back();
}

void handler_finds_memory() {
    const std::size_t size = 64 * mib;
    for (const pair &form : {throwing[0], throwing[3], not_throwing[0], not_throwing[3]}) {
        note("%s", form.name);
        reserve = new std::vector<void *>();
        reserve->reserve(10000);
        while (void *block = hide(std::malloc(size))) {
            reserve->push_back(block);
            if (!CHECK(reserve->size() * size < ADDRESS_LIMIT)) return;
        }
        // What is left may be in pieces: take those too, so that only the handler can help.
        while (void *block = hide(std::malloc(4 * mib))) reserve->insert(reserve->begin(), block);
        handler_guard guard(gives_memory_up);
        handler_calls = 0;
        void *block = nullptr;
        try {
            block = hide(form.allocate(size, 4096));
        } catch (const std::bad_alloc &) {
            CHECK(!"the handler freed enough");
        }
        CHECK(block != nullptr);
        note("%s, %d calls", form.name, handler_calls);
        CHECK(handler_calls >= 3);
        form.release(block, size, 4096);
        for (void *held : *reserve) std::free(held);
        delete reserve;
    }
}

// After exhaustion small requests fail by the rules as well, and work again once there is memory.
void exhaustion_and_recovery() {
    handler_guard guard(nullptr);
    struct link {
        link *next;
        char rest[1000];
    };
    link *chain = nullptr;
    std::size_t links = 0;
    bool caught = false;
    try {
        for (;;) {
            link *fresh = static_cast<link *>(hide(new link));
            fresh->next = chain;
            std::memset(fresh->rest, 1, sizeof fresh->rest);
            chain = fresh;
            links++;
            if (links > 2 * ADDRESS_LIMIT / sizeof(link)) break;
        }
    } catch (const std::bad_alloc &) {
        caught = true;
    }
    note("%zu links of %zu bytes", links, sizeof(link));
    CHECK(caught);
    CHECK(links > 100000);
    errno = 0;
    void *more[100] = {};
    // Scraps may be left; they end.
    for (void *&block : more) block = hide(std::malloc(sizeof(link)));
    CHECK(more[99] == nullptr && errno == ENOMEM);
    for (void *block : more) std::free(block);
    while (chain) {
        link *next = chain->next;
        delete chain;
        chain = next;
    }
    void *block = hide(std::malloc(100 * mib));
    CHECK(block != nullptr);
    std::free(block);
}

// Alignments that are no powers of two are outside the standard; libstdc++ fails, and so do we.
void bad_alignments_fail() {
    handler_guard guard(nullptr);
    for (std::size_t alignment : {std::size_t(0), std::size_t(3), std::size_t(24), std::size_t(4097), SIZE_MAX}) {
        note("alignment %zu", alignment);
        for (const pair &form : not_throwing)
            if (form.over_aligned) CHECK(hide(form.allocate(100, alignment)) == nullptr);
        for (const pair &form : throwing) {
            if (!form.over_aligned) continue;
            bool caught = false;
            try {
                hide(form.allocate(100, alignment));
            } catch (const std::bad_alloc &) {
                caught = true;
            }
            CHECK(caught);
        }
    }
}

void one_owner() {
    static const char *const names[] = {
        "_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t", "_ZnwmSt11align_val_t", "_ZnamSt11align_val_t",
        "_ZnwmSt11align_val_tRKSt9nothrow_t", "_ZnamSt11align_val_tRKSt9nothrow_t", "_ZdlPv", "_ZdaPv", "_ZdlPvm",
        "_ZdaPvm", "_ZdlPvRKSt9nothrow_t", "_ZdaPvRKSt9nothrow_t", "_ZdlPvSt11align_val_t", "_ZdaPvSt11align_val_t",
        "_ZdlPvmSt11align_val_t", "_ZdaPvmSt11align_val_t", "_ZdlPvSt11align_val_tRKSt9nothrow_t",
        "_ZdaPvSt11align_val_tRKSt9nothrow_t"};
    Dl_info owner, other, self;
    // In a static program all is one object, which dladdr may not even know.
    if (!dladdr(reinterpret_cast<void *>(&one_owner), &self)) return skip("a static program");
    if (!CHECK(dladdr(reinterpret_cast<void *>(&std::malloc), &owner) != 0)) return;
    for (const char *name : names) {
        note("%s", name);
        void *address = dlsym(RTLD_DEFAULT, name);
        if (!CHECK(address != nullptr) || !CHECK(dladdr(address, &other) != 0)) continue;
        note("%s comes from %s, malloc from %s", name, other.dli_fname, owner.dli_fname);
        CHECK(other.dli_fbase == owner.dli_fbase);
    }
}

}  // namespace

extern "C" const rule new_rules[] = {
    {"new-one-owner", "C++23 [replacement.functions]", "every form comes from malloc's library", one_owner, OURS},
    {"new-forms", "C++23 [new.delete]",
     "every form of new, with every form of delete allowed after it, aligns and frees", every_pair_of_forms, 0},
    {"new-forms-share", "C++23 [new.delete]",
     "blocks freed by any form are handed out again, once", forms_share_the_heap, 0},
    {"delete-null", "C++23 [new.delete.single]", "every form of delete takes a null pointer", delete_of_null, 0},
    {"new-bad-alloc", "C++23 [new.delete.single]",
     "without a handler new throws std::bad_alloc", without_a_handler_bad_alloc, 0},
    {"new-exception", "C++23 [bad.alloc]",
     "it can be caught as std::exception and rethrown", bad_alloc_is_an_exception, 0},
    {"new-nothrow", "C++23 [new.delete.single]", "the nothrow forms return null", nothrow_returns_null, 0},
    {"new-unwinds", "C++23 [except.ctor]",
     "destructors run between the throw and the catch", unwinding_runs_destructors, 0},
    {"new-throws-again", "C++23 [except.throw]", "throwing five thousand times works", repeated_throwing, 0},
    {"new-handler-loop", "C++23 [new.delete.single]",
     "the handler is called until there is none", handler_is_called_again_and_again, 0},
    {"new-handler-throws", "C++23 [new.handler]",
     "a handler may throw what derives from bad_alloc", handler_may_throw, 0},
    {"new-handler-nothrow", "C++23 [new.delete.single]",
     "the nothrow forms turn that into null", nothrow_swallows_the_handlers_throw, 0},
    {"new-handler-any", "libstdc++", "any exception of the handler passes", handler_may_throw_anything, 0},
    {"new-handler-replaced", "C++23 [new.handler]", "a handler may install another", handler_may_install_another, 0},
    {"new-handler-finds", "C++23 [new.delete.single]",
     "the handler is called until memory is available", handler_finds_memory, LIMITED},
    {"new-exhaustion", "C++23 [new.delete.single]",
     "out of memory ends in bad_alloc, and freeing ends that", exhaustion_and_recovery, LIMITED},
    {"new-bad-alignment", "libstdc++", "an alignment that is no power of two fails", bad_alignments_fail, 0},
    {nullptr, nullptr, nullptr, nullptr, 0},
};
