// Frees that do not belong to their allocation: checked CASE. `checked CASE sound` frees as it should. What is freed
// stands on stdout before.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

static bool faulty = true;

template <class T> static T *hide(T *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

static void *announce(void *pointer) {
    char text[32];
    int length = std::snprintf(text, sizeof text, "%#lx\n", (unsigned long)(std::uintptr_t)pointer);
    if (write(1, text, (std::size_t)length) != length) _exit(9);
    return hide(pointer);
}

static const auto align = std::align_val_t(64);

static void *one(std::size_t size = 40) { return announce(::operator new(size)); }
static void *array(std::size_t size = 40) { return announce(::operator new[](size)); }
static void *aligned(std::size_t size = 40) { return announce(::operator new(size, align)); }
static void *c(std::size_t size = 40) { return announce(hide(std::malloc(size))); }

static const struct {
    const char *name;
    void (*commit)();
} cases[] = {
    {"new_free", [] { void *p = one(); faulty ? std::free(p) : ::operator delete(p); }},
    {"array_free", [] { void *p = array(); faulty ? std::free(p) : ::operator delete[](p); }},
    {"malloc_delete", [] { void *p = c(); faulty ? ::operator delete(p) : std::free(p); }},
    {"malloc_delete_array", [] { void *p = c(); faulty ? ::operator delete[](p) : std::free(p); }},
    {"malloc_delete_sized", [] { void *p = c(); faulty ? ::operator delete(p, (std::size_t)40) : std::free(p); }},
    {"new_delete_array", [] { void *p = one(); faulty ? ::operator delete[](p) : ::operator delete(p); }},
    {"array_delete", [] { void *p = array(); faulty ? ::operator delete(p) : ::operator delete[](p); }},
    {"new_realloc", [] { void *p = one(); faulty ? (void)hide(std::realloc(p, 100)) : ::operator delete(p); }},
    {"large_new_free", [] { void *p = one(1 << 20); faulty ? std::free(p) : ::operator delete(p); }},
    {"sized_delete", [] { ::operator delete(one(), (std::size_t)(faulty ? 48 : 40)); }},
    {"sized_delete_same_class", [] { ::operator delete(one(), (std::size_t)(faulty ? 41 : 40)); }},
    {"sized_delete_array", [] { ::operator delete[](array(), (std::size_t)(faulty ? 8 : 40)); }},
    {"sized_delete_large", [] { ::operator delete(one(1 << 20), (std::size_t)(1 << 20) - (faulty ? 1 : 0)); }},
    {"aligned_new_delete", [] { void *p = aligned(); faulty ? ::operator delete(p) : ::operator delete(p, align); }},
    {"new_aligned_delete", [] { void *p = one(); faulty ? ::operator delete(p, align) : ::operator delete(p); }},
    {"wrong_alignment",
     [] { ::operator delete(aligned(), faulty ? std::align_val_t(128) : align); }},
    {"aligned_sized_delete", [] { ::operator delete(aligned(), (std::size_t)(faulty ? 41 : 40), align); }},
    {"aligned_new_free", [] { void *p = aligned(); faulty ? std::free(p) : ::operator delete(p, align); }},
    {"nothrow_new_free",
     [] { void *p = announce(::operator new(40, std::nothrow)); faulty ? std::free(p) : ::operator delete(p); }},
    {"double_delete", [] { void *p = one(); ::operator delete(p); if (faulty) ::operator delete(p); }},
};

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    alarm(60);
    faulty = argc == 2;
    for (const auto &each : cases)
        if (std::strcmp(each.name, argv[1]) == 0) {
            each.commit();
            return 0;
        }
    return 2;
}
