// What the workloads share: random numbers, memory read from the kernel, and the
// latencies of malloc and free.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// A workload returns a checksum, the same in every run and under every allocator.
struct Workload {
    const char *name;
    uint64_t (*run)();
};
extern const std::vector<Workload> compute, servers, threads, large, phases;

struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15u + 1) {}
    uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state * 0x2545F4914F6CDD1Du;
    }
    uint32_t below(uint32_t n) { return uint32_t((next() >> 32) * n >> 32); }
    // Many small, few big: uniform in the logarithm.
    size_t size(unsigned low_bits, unsigned high_bits) {
        unsigned bits = low_bits + below(high_bits - low_bits);
        return (size_t(1) << bits) + below(1u << bits);
    }
};

[[noreturn]] inline void wrong(const char *what) {
    fprintf(stderr, "wrong result: %s\n", what);
    exit(1);
}
inline void check(bool holds, const char *what) {
    if (!holds) wrong(what);
}

long rss_kb();

// A block that knows its size and is written at both ends.
inline unsigned char *make(size_t size, unsigned char mark) {
    auto *p = static_cast<unsigned char *>(malloc(size));
    if (!p) wrong("out of memory");
    p[0] = mark;
    p[size - 1] = mark;
    return p;
}

// Nanoseconds of single calls. Buckets of about 3 %, so that it never allocates.
class Latency {
    static constexpr int kSteps = 32;
    uint64_t counts[64 * kSteps] = {};
    uint64_t total = 0, longest = 0;

  public:
    void add(uint64_t ns);
    void merge(const Latency &other);
    void print(const char *name) const;
};
uint64_t now_ns();

// Every SAMPLE-th call is timed: reading the clock costs more than a call.
struct Timed {
    Latency malloc_ns, free_ns;
    uint32_t turn = 0;
    static constexpr uint32_t kEvery = 16;
    unsigned char *make(size_t size, unsigned char mark) {
        if (++turn % kEvery) return ::make(size, mark);
        uint64_t from = now_ns();
        void *p = malloc(size);
        malloc_ns.add(now_ns() - from);
        if (!p) wrong("out of memory");
        auto *b = static_cast<unsigned char *>(p);
        b[0] = b[size - 1] = mark;
        return b;
    }
    void release(void *p) {
        if (++turn % kEvery) return free(p);
        uint64_t from = now_ns();
        free(p);
        free_ns.add(now_ns() - from);
    }
    void print() const {
        malloc_ns.print("malloc");
        free_ns.print("free");
    }
    void merge(const Timed &o) {
        malloc_ns.merge(o.malloc_ns);
        free_ns.merge(o.free_ns);
    }
};
