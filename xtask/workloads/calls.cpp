// Single calls through the C and C++ interfaces, timed by request: the twin of
// rust/src/calls.rs.
//
// A request is a line "ROW OPERATIONS", the answer the nanoseconds they took; the
// line "rows" is answered by all names. What asks decides the order and takes the
// medians, so that allocators can be compared in turns, each preloaded into a
// process of its own. While rows run, nothing else allocates.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <sched.h>
#include <thread>
#include <time.h>
#include <unistd.h>

namespace {

uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}

// What is kept here may be read and changed by anything, for all the compiler knows.
template <class T> T *hidden(T *p) {
    asm volatile("" : "+r"(p) : : "memory");
    return p;
}

struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15u + 1) {}
    uint32_t below(uint32_t n) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return uint32_t((state * 0x2545F4914F6CDD1Du >> 32) * n >> 32);
    }
};

// Allocates and frees one block.
template <size_t SIZE> uint64_t pair(uint64_t operations) {
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < operations; i++) free(hidden(malloc(SIZE)));
    return now_ns() - from;
}

// The same by operator new, and delete that is told the size.
template <size_t SIZE> uint64_t sized(uint64_t operations) {
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < operations; i++)
        operator delete(hidden(operator new(SIZE)), SIZE);
    return now_ns() - from;
}

template <size_t SIZE> uint64_t zeroed(uint64_t operations) {
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < operations; i++) free(hidden(calloc(1, SIZE)));
    return now_ns() - from;
}

template <size_t SIZE, size_t ALIGN> uint64_t aligned(uint64_t operations) {
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < operations; i++) free(hidden(aligned_alloc(ALIGN, SIZE)));
    return now_ns() - from;
}

// 1,000 blocks, freed in the same or the opposite order.
template <size_t SIZE, bool FIFO> uint64_t batch(uint64_t operations) {
    constexpr int count = 1000;
    static void *held[count];
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < operations; i += count) {
        for (auto &p : held) {
            p = hidden(malloc(SIZE));
            *static_cast<size_t *>(p) = 1;
        }
        for (int j = 0; j < count; j++) free(held[FIFO ? j : count - 1 - j]);
    }
    return now_ns() - from;
}

// Replaces blocks, picked at random, among 10,000 of random sizes up to MOST.
template <uint32_t MOST> uint64_t mixed(uint64_t operations) {
    constexpr uint32_t count = 10000;
    static void *held[count];
    Random random(MOST), pick(operations);
    auto make = [&] {
        auto *p = static_cast<char *>(hidden(malloc(1 + random.below(MOST))));
        *p = 1;
        return p;
    };
    for (auto &p : held) p = make();
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < operations; i++) {
        void *&p = held[pick.below(count)];
        free(p);
        p = make();
    }
    uint64_t spent = now_ns() - from;
    for (auto *p : held) free(p);
    return spent;
}

// One operation is a growth from 16 bytes to 64 KiB, doubling.
uint64_t growth(uint64_t operations) {
    uint64_t from = now_ns();
    for (uint64_t i = 0; i < operations; i++) {
        size_t size = 16;
        auto *p = static_cast<char *>(hidden(malloc(size)));
        while (size < 65536) {
            p[size - 1] = 1;
            size *= 2;
            p = static_cast<char *>(hidden(realloc(p, size)));
        }
        free(p);
    }
    return now_ns() - from;
}

constexpr size_t kSlots = 1024;
std::atomic<void *> ring[kSlots];
std::mutex lock;
std::condition_variable changed;
uint64_t wanted;
std::atomic<uint64_t> freed;

// Spins a little, then gives the processor away.
template <class READY> void wait(READY ready) {
    for (unsigned turns = 1; !ready(); turns++) {
        if (turns % 64 == 0) sched_yield();
    }
}

void consume() {
    uint64_t done = 0;
    for (;;) {
        uint64_t until;
        {
            std::unique_lock<std::mutex> held(lock);
            changed.wait(held, [&] { return wanted != done; });
            until = wanted;
        }
        for (; done < until; done++) {
            auto &slot = ring[done % kSlots];
            wait([&] { return slot.load(std::memory_order_acquire) != nullptr; });
            void *p = slot.load(std::memory_order_acquire);
            slot.store(nullptr, std::memory_order_release);
            free(p);
        }
        freed.store(done, std::memory_order_release);
    }
}

// This thread allocates, another one frees.
uint64_t exchange(uint64_t operations) {
    uint64_t begun = freed.load(), from = now_ns();
    {
        std::lock_guard<std::mutex> held(lock);
        wanted += operations;
    }
    changed.notify_one();
    for (uint64_t i = begun; i < begun + operations; i++) {
        auto *p = static_cast<char *>(hidden(malloc(64)));
        *p = 1;
        auto &slot = ring[i % kSlots];
        wait([&] { return slot.load(std::memory_order_acquire) == nullptr; });
        slot.store(p, std::memory_order_release);
    }
    wait([&] { return freed.load(std::memory_order_acquire) == begun + operations; });
    return now_ns() - from;
}

const struct {
    const char *name;
    uint64_t (*run)(uint64_t operations);
} rows[] = {
    {"pair-16", pair<16>},
    {"pair-64", pair<64>},
    {"pair-256", pair<256>},
    {"pair-1024", pair<1024>},
    {"pair-4096", pair<4096>},
    {"pair-32768", pair<32768>},
    {"pair-262144", pair<262144>},
    {"sized-16", sized<16>},
    {"sized-64", sized<64>},
    {"sized-256", sized<256>},
    {"sized-1024", sized<1024>},
    {"fifo-64", batch<64, true>},
    {"fifo-512", batch<512, true>},
    {"lifo-64", batch<64, false>},
    {"lifo-512", batch<512, false>},
    {"mixed-4096", mixed<4096>},
    {"mixed-65536", mixed<65536>},
    {"zeroed-64", zeroed<64>},
    {"zeroed-1024", zeroed<1024>},
    {"zeroed-32768", zeroed<32768>},
    {"aligned-192-at-64", aligned<192, 64>},
    {"aligned-4096-at-4096", aligned<4096, 4096>},
    {"growth-65536", growth},
    {"producer-consumer", exchange},
};

void say(const char *text) {
    if (write(1, text, strlen(text)) < 0) _exit(1);
}

void answer(const char *request) {
    if (!strcmp(request, "rows")) {
        for (auto &row : rows) {
            say(row.name);
            say(" ");
        }
        return say("\n");
    }
    for (auto &row : rows) {
        size_t length = strlen(row.name);
        if (strncmp(request, row.name, length) || request[length] != ' ') continue;
        char text[32];
        snprintf(text, sizeof text, "%llu\n",
                 (unsigned long long)row.run(strtoull(request + length, nullptr, 10)));
        return say(text);
    }
    say("what?\n");
}

} // namespace

int main() {
    std::thread(consume).detach();
    static char line[100];
    size_t length = 0;
    for (char c; read(0, &c, 1) == 1;) {
        if (c == '\n') {
            line[length] = 0;
            answer(line);
            length = 0;
        } else if (length + 1 < sizeof line) {
            line[length++] = c;
        }
    }
    _exit(0); // the consumer still waits
}
