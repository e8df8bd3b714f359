// The same work on 2 to 1,000 threads, and threads that come and go.
#include "common.h"
#include <atomic>
#include <thread>

namespace {

// Blocks that lie where any thread may take them away.
struct Exchange {
    std::vector<std::atomic<unsigned char *>> slots;
    explicit Exchange(size_t n) : slots(n) {}
    ~Exchange() {
        for (auto &s : slots) free(s.load());
    }
};

// Each thread keeps a window of blocks and now and then swaps one with the others.
uint64_t work(unsigned me, int operations, Exchange &exchange) {
    constexpr uint32_t window = 256;
    Random random(me + 60);
    unsigned char *held[window] = {};
    size_t sizes[window] = {};
    uint64_t made = 0;
    for (int i = 0; i < operations; i++) {
        uint32_t at = random.below(window);
        if (held[at]) {
            check(held[at][0] == held[at][sizes[at] - 1], "threads");
            unsigned char *gone = held[at];
            if (i % 16 == 0)
                gone = exchange.slots[random.below(uint32_t(exchange.slots.size()))].exchange(gone);
            free(gone);
        }
        sizes[at] = random.size(4, 11);
        held[at] = make(sizes[at], (unsigned char)i);
        made++;
    }
    for (auto *p : held) free(p);
    return made;
}

template <unsigned COUNT> uint64_t many() {
    constexpr int operations = 24000000 / COUNT;
    Exchange exchange(1024);
    std::vector<std::thread> running;
    std::atomic<uint64_t> sum{0};
    for (unsigned i = 0; i < COUNT; i++)
        running.emplace_back([&, i] { sum += work(i, operations, exchange); });
    for (auto &t : running) t.join();
    check(sum == uint64_t(COUNT) * operations, "threads' sum");
    return sum;
}

// 8,000 short threads, eight at a time.
uint64_t come_and_go() {
    Exchange exchange(1024);
    std::atomic<uint64_t> sum{0};
    for (unsigned round = 0; round < 1000; round++) {
        std::thread running[8];
        for (unsigned i = 0; i < 8; i++)
            running[i] = std::thread([&, i] { sum += work(round * 8 + i, 1000, exchange); });
        for (auto &t : running) t.join();
    }
    check(sum == 8000000, "come and go");
    return sum;
}

} // namespace

const std::vector<Workload> threads = {{"threads-2", many<2>},
                                       {"threads-16", many<16>},
                                       {"threads-200", many<200>},
                                       {"threads-1000", many<1000>},
                                       {"come-and-go", come_and_go}};
