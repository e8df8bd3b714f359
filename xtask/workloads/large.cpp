// Large blocks: growth by realloc, growing vectors, buffers in random order.
#include "common.h"
#include <algorithm>
#include <time.h>

namespace {

constexpr size_t MB = 1 << 20;

// A write to every 4 KiB of [from, to), as filling would do.
void touch(unsigned char *p, size_t from, size_t to) {
    for (size_t i = from; i < to; i += 4096) p[i] = (unsigned char)(i >> 12);
}
void verify(const unsigned char *p, size_t to) {
    for (size_t i = 0; i < to; i += 4096) check(p[i] == (unsigned char)(i >> 12), "large");
}

// Nanoseconds that this thread has run.
uint64_t cpu_ns() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}

// Grows one buffer to `limit`. `copied_kb` is what realloc took as long for as copying
// takes at least, and moving of page tables never: less than 10 GB/s.
uint64_t grow(size_t limit, double factor) {
    size_t size = 4096, copied = 0;
    auto *p = static_cast<unsigned char *>(malloc(size));
    touch(p, 0, size);
    while (size < limit) {
        size_t bigger = std::min(limit, size_t(double(size) * factor) & ~size_t(4095));
        if (bigger <= size) bigger = size + 4096;
        uint64_t from = cpu_ns();
        p = static_cast<unsigned char *>(realloc(p, bigger));
        check(p != nullptr, "out of memory");
        if (size >= MB && cpu_ns() - from > size / 10) copied += size;
        touch(p, size, bigger);
        size = bigger;
    }
    verify(p, size);
    free(p);
    printf("copied_kb %zu\n", copied / 1024);
    return size;
}
uint64_t realloc_doubling() { return grow(1024 * MB, 2); }
uint64_t realloc_by_half() { return grow(1024 * MB, 1.5); }
// Many buffers that all start small and grow to 64 KB.
uint64_t realloc_small() {
    uint64_t sum = 0;
    for (int round = 0; round < 60; round++) {
        std::vector<unsigned char *> all(300, nullptr);
        for (size_t size = 16; size <= 65536; size *= 2)
            for (auto &p : all) {
                p = static_cast<unsigned char *>(realloc(p, size));
                p[size / 2] = p[size - 1] = (unsigned char)round;
            }
        for (auto *p : all) {
            check(p[8] == round && p[65535] == round, "realloc small");
            sum += p[8192];
            free(p);
        }
    }
    return sum;
}

// Vectors of 1 to 512 MB, pushed to.
uint64_t vectors() {
    uint64_t sum = 0;
    for (size_t size = MB; size <= 512 * MB; size *= 2) {
        std::vector<uint64_t> v;
        for (size_t i = 0; i < size / sizeof(uint64_t); i++) v.push_back(i);
        sum += v[v.size() / 3] + v.back();
    }
    return sum;
}

// 48 buffers of 64 KB to 4 MB, replaced in random order and filled.
uint64_t buffers() {
    Random random(70);
    std::vector<unsigned char *> held(48, nullptr);
    std::vector<size_t> sizes(48, 0);
    uint64_t sum = 0;
    for (int i = 0; i < 64000; i++) {
        uint32_t at = random.below(48);
        if (held[at]) verify(held[at], sizes[at]);
        free(held[at]);
        sizes[at] = random.size(16, 21);
        held[at] = static_cast<unsigned char *>(malloc(sizes[at]));
        check(held[at] != nullptr, "out of memory");
        touch(held[at], 0, sizes[at]);
        sum += sizes[at];
    }
    for (auto *p : held) free(p);
    return sum;
}

// Zeroed tables of 4 KB to 1 MB, of which a part is used.
uint64_t zeroed() {
    Random random(71);
    std::vector<unsigned char *> held(200, nullptr);
    uint64_t sum = 0;
    for (int i = 0; i < 20000; i++) {
        uint32_t at = random.below(200);
        size_t size = random.size(12, 19);
        free(held[at]);
        held[at] = static_cast<unsigned char *>(calloc(1, size));
        check(held[at] != nullptr, "out of memory");
        for (size_t j = 0; j < size; j += 16384) {
            check(held[at][j] == 0, "not zero");
            held[at][j] = 1;
        }
        sum += size;
    }
    for (auto *p : held) free(p);
    return sum;
}

} // namespace

const std::vector<Workload> large = {{"realloc-doubling", realloc_doubling},
                                     {"realloc-by-half", realloc_by_half},
                                     {"realloc-small", realloc_small},
                                     {"vectors", vectors},
                                     {"buffers", buffers},
                                     {"zeroed", zeroed}};
