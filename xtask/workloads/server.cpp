// What servers do: request arenas, caches, and blocks that one thread allocates
// and another frees. Single calls of malloc and free are timed.
#include "common.h"
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

namespace {

// Runs `work(index, timed)` on `count` threads and prints the latencies of all.
uint64_t together(unsigned count, const std::function<uint64_t(unsigned, Timed &)> &work) {
    std::vector<std::unique_ptr<Timed>> timed;
    std::vector<uint64_t> sums(count);
    std::vector<std::thread> running;
    for (unsigned i = 0; i < count; i++) timed.push_back(std::make_unique<Timed>());
    for (unsigned i = 0; i < count; i++)
        running.emplace_back([&, i] { sums[i] = work(i, *timed[i]); });
    for (auto &t : running) t.join();
    for (unsigned i = 1; i < count; i++) timed[0]->merge(*timed[i]);
    timed[0]->print();
    return std::accumulate(sums.begin(), sums.end(), uint64_t(0));
}

// A request allocates a few hundred blocks of all sizes, and all go at its end.
uint64_t requests() {
    return together(2, [](unsigned me, Timed &timed) {
        Random random(me + 20);
        std::vector<unsigned char *> held;
        uint64_t sum = 0;
        for (int request = 0; request < 100000; request++) {
            for (uint32_t n = 50 + random.below(200); n-- > 0;)
                held.push_back(timed.make(random.size(4, 11), (unsigned char)n));
            for (auto *p : held) {
                sum += p[0];
                timed.release(p);
            }
            held.clear();
        }
        return sum;
    });
}

struct Entry {
    unsigned char *key, *value;
    size_t size;
};
// A cache with values of 32 bytes to 8 KB; some entries live for the whole run.
uint64_t cache() {
    return together(2, [](unsigned me, Timed &timed) {
        Random random(me + 30);
        std::vector<Entry> entries(24000, Entry{nullptr, nullptr, 0});
        uint64_t sum = 0;
        for (int i = 0; i < 3000000; i++) {
            // Half of the traffic falls on a tenth of the slots.
            uint32_t slot = random.below(random.below(2) ? 24000 : 2400);
            Entry &e = entries[slot];
            if (e.key && slot % 7 == 0) continue;
            if (e.key) {
                check(e.value[0] == e.value[e.size - 1], "cache");
                sum += e.value[0];
                timed.release(e.key);
                timed.release(e.value);
            }
            e.size = random.size(5, 12);
            e.key = timed.make(16 + random.below(40), 1);
            e.value = timed.make(e.size, (unsigned char)i);
        }
        for (Entry &e : entries)
            if (e.key) {
                timed.release(e.key);
                timed.release(e.value);
            }
        return sum;
    });
}

// A bounded queue of batches.
class Queue {
    std::mutex lock;
    std::condition_variable changed;
    std::vector<std::vector<unsigned char *>> batches;
    size_t limit;

  public:
    explicit Queue(size_t limit) : limit(limit) { batches.reserve(limit); }
    void put(std::vector<unsigned char *> &&batch) {
        std::unique_lock<std::mutex> held(lock);
        changed.wait(held, [&] { return batches.size() < limit; });
        batches.push_back(std::move(batch));
        changed.notify_all();
    }
    std::vector<unsigned char *> take() {
        std::unique_lock<std::mutex> held(lock);
        changed.wait(held, [&] { return !batches.empty(); });
        auto batch = std::move(batches.back());
        batches.pop_back();
        changed.notify_all();
        return batch;
    }
};

// Two threads, each freeing what the other allocates.
uint64_t both_ways() {
    Queue queues[2] = {Queue(8), Queue(8)};
    return together(2, [&](unsigned me, Timed &timed) {
        Random random(me + 40);
        uint64_t sum = 0;
        for (int round = 0; round < 30000; round++) {
            std::vector<unsigned char *> batch;
            for (int i = 0; i < 128; i++)
                batch.push_back(timed.make(random.size(4, 10), (unsigned char)i));
            queues[me].put(std::move(batch));
            for (auto *p : queues[1 - me].take()) {
                sum += p[0];
                timed.release(p);
            }
        }
        return sum;
    });
}

// Eight threads allocate, one frees everything.
uint64_t one_freer() {
    constexpr unsigned producers = 8;
    constexpr int rounds = 6400;
    Queue queue(32);
    return together(producers + 1, [&](unsigned me, Timed &timed) {
        Random random(me + 50);
        uint64_t sum = 0;
        if (me < producers) {
            for (int round = 0; round < rounds; round++) {
                std::vector<unsigned char *> batch;
                for (int i = 0; i < 128; i++)
                    batch.push_back(timed.make(random.size(4, 10), (unsigned char)i));
                queue.put(std::move(batch));
            }
        } else {
            for (unsigned i = 0; i < producers * rounds; i++)
                for (auto *p : queue.take()) {
                    sum += p[0];
                    timed.release(p);
                }
            check(sum == uint64_t(producers) * rounds * (127 * 128 / 2), "one freer");
        }
        return sum;
    });
}

} // namespace

const std::vector<Workload> servers = {
    {"requests", requests}, {"cache", cache}, {"both-ways", both_ways}, {"one-freer", one_freer}};
