// Threads that exchange strings, vectors and maps through queues: what one allocates, others change and free.
// Prints a checksum that does not depend on the order in which the threads ran.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct Parcel {
    unsigned number = 0;
    unsigned hops = 0;
    std::string text;
    std::vector<std::string> words;
    std::map<std::string, std::vector<std::uint64_t>> table;
    std::unique_ptr<char[]> buffer;
    std::size_t buffer_len = 0;
    std::shared_ptr<const std::string> shared;
};

struct alignas(128) Aligned {
    std::uint64_t value[16];
};

class Queue {
public:
    void push(std::unique_ptr<Parcel> parcel) {
        {
            std::lock_guard lock(mutex_);
            parcels_.push_back(std::move(parcel));
        }
        filled_.notify_one();
    }
    std::unique_ptr<Parcel> pop() {
        std::unique_lock lock(mutex_);
        filled_.wait(lock, [this] { return !parcels_.empty(); });
        auto parcel = std::move(parcels_.front());
        parcels_.pop_front();
        return parcel;
    }

private:
    std::mutex mutex_;
    std::condition_variable filled_;
    std::deque<std::unique_ptr<Parcel>> parcels_;
};

constexpr unsigned kThreads = 10, kParcels = 3000, kHops = 12;

static std::uint32_t step(std::uint32_t &state) {
    return state = static_cast<std::uint32_t>(state * std::uint64_t{48271} % 2147483647);
}

static std::uint64_t hash(const std::string &text, std::uint64_t h = 0xcbf29ce484222325) {
    for (unsigned char c : text) h = (h ^ c) * 0x100000001b3;
    return h;
}

static void fail(const char *what, unsigned number) {
    std::fprintf(stderr, "parcel %u: %s\n", number, what);
    std::abort();
}

static std::unique_ptr<Parcel> make(unsigned number) {
    auto parcel = std::make_unique<Parcel>();
    parcel->number = number;
    std::uint32_t state = number + 1;
    for (unsigned i = 0; i < 40; i++) {
        std::string word(step(state) % 60, static_cast<char>('a' + step(state) % 26));
        parcel->table[word].push_back(step(state));
        parcel->words.push_back(std::move(word));
    }
    parcel->shared = std::make_shared<const std::string>(step(state) % 5000, 'x');
    parcel->buffer_len = step(state) % (number % 50 == 0 ? 2'000'000 : 8'000) + 1;
    parcel->buffer.reset(new char[parcel->buffer_len]);
    for (std::size_t i = 0; i < parcel->buffer_len; i += 61) parcel->buffer[i] = static_cast<char>(number + i);
    return parcel;
}

// What happens to a parcel depends on its number and its hops only, not on the thread that has it.
static void work(Parcel &parcel) {
    std::uint32_t state = parcel.number * 31 + parcel.hops + 1;
    for (std::size_t i = 0; i < parcel.buffer_len; i += 61)
        if (parcel.buffer[i] != static_cast<char>(parcel.number + i)) fail("its buffer has changed", parcel.number);
    if (parcel.hops % 4 == 3) {
        auto len = step(state) % 8'000 + 1;
        parcel.buffer.reset(new char[len]);
        parcel.buffer_len = len;
        for (std::size_t i = 0; i < len; i += 61) parcel.buffer[i] = static_cast<char>(parcel.number + i);
    }
    for (auto &word : parcel.words) {
        parcel.text += word;
        if (step(state) % 4 == 0) word.insert(word.size() / 2, parcel.text.substr(0, step(state) % 30));
        if (word.size() > 200) word = word.substr(100);
    }
    if (parcel.text.size() > 4000) parcel.text.erase(0, 3000).shrink_to_fit();
    std::unordered_map<std::string, std::size_t> seen;
    for (const auto &word : parcel.words) seen[word] += word.size();
    for (const auto &[word, size] : seen) {
        auto &values = parcel.table[word];
        values.push_back(size);
        if (values.size() > 6) parcel.table.erase(word);
    }
    while (parcel.table.size() > 60) parcel.table.erase(parcel.table.begin());
    auto aligned = std::make_unique<Aligned>();
    if (reinterpret_cast<std::uintptr_t>(aligned.get()) % alignof(Aligned) != 0) fail("not aligned", parcel.number);
    parcel.hops++;
}

static std::uint64_t checksum(const Parcel &parcel) {
    std::uint64_t h = hash(parcel.text);
    for (const auto &word : parcel.words) h = hash(word, h);
    for (const auto &[word, values] : parcel.table)
        h = std::accumulate(values.begin(), values.end(), hash(word, h),
                            [](std::uint64_t a, std::uint64_t b) { return (a ^ b) * 0x100000001b3; });
    return hash(*parcel.shared, h ^ parcel.buffer_len);
}

int main() {
    std::vector<Queue> queues(kThreads);
    std::atomic<unsigned> arrived{0};
    std::atomic<std::uint64_t> sum{0};
    std::vector<std::thread> threads;
    for (unsigned id = 0; id < kThreads; id++) {
        threads.emplace_back([&, id] {
            for (unsigned number = id; number < kParcels; number += kThreads)
                queues[(number * 7 + 1) % kThreads].push(make(number));
            // A null pointer ends the thread.
            while (auto parcel = queues[id].pop()) {
                if (parcel->hops < kHops) {
                    work(*parcel);
                    const unsigned next = (id + parcel->number + parcel->hops) % kThreads;
                    queues[next].push(std::move(parcel));
                    continue;
                }
                sum += checksum(*parcel);
                if (++arrived == kParcels)
                    for (auto &queue : queues) queue.push(nullptr);
            }
        });
    }
    for (auto &thread : threads) thread.join();
    std::printf("%u parcels, %u hops, %016llx\n", kParcels, kHops, static_cast<unsigned long long>(sum.load()));
}
