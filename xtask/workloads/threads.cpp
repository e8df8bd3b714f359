// The same work on 2 to 1,000 threads, and threads that come and go.
#include "common.h"
#include <atomic>
#include <condition_variable>
#include <mutex>
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

// Each thread fills a window of blocks, now and then swaps one with the others, and
// empties the window at the end but for a few, as after a request.
uint64_t work(unsigned me, unsigned turn, int operations, Exchange &exchange) {
    constexpr uint32_t window = 256, kept = 4;
    Random random(me * 64 + turn + 60);
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
    for (uint32_t i = 0; i < window; i++) {
        if (i < kept) held[i] = exchange.slots[(me * kept + i) % exchange.slots.size()].exchange(held[i]);
        free(held[i]);
    }
    return made;
}

// Until all have come.
class Barrier {
    std::mutex lock;
    std::condition_variable changed;
    unsigned count, waiting = 0, turn = 0;

  public:
    explicit Barrier(unsigned count) : count(count) {}
    void wait() {
        std::unique_lock<std::mutex> held(lock);
        unsigned mine = turn;
        if (++waiting == count) {
            waiting = 0;
            turn++;
            changed.notify_all();
        } else {
            changed.wait(held, [&] { return turn != mine; });
        }
    }
};

// All threads live from the first to the last of six turns, in each of which every
// one of them works: what each thread keeps for itself is kept so many times.
template <unsigned COUNT> uint64_t many() {
    constexpr unsigned turns = 6;
    constexpr int operations = 9000000 / COUNT / turns;
    Exchange exchange(4096);
    Barrier barrier(COUNT);
    std::vector<std::thread> running;
    std::atomic<uint64_t> sum{0};
    for (unsigned i = 0; i < COUNT; i++)
        running.emplace_back([&, i] {
            for (unsigned turn = 0; turn < turns; turn++) {
                barrier.wait();
                sum += work(i, turn, operations, exchange);
            }
        });
    for (auto &t : running) t.join();
    check(sum == uint64_t(COUNT) * turns * operations, "threads' sum");
    return sum;
}

// 8,000 short threads, eight at a time.
uint64_t come_and_go() {
    Exchange exchange(1024);
    std::atomic<uint64_t> sum{0};
    for (unsigned round = 0; round < 1000; round++) {
        std::thread running[8];
        for (unsigned i = 0; i < 8; i++)
            running[i] = std::thread([&, i] { sum += work(round * 8 + i, 0, 1000, exchange); });
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
