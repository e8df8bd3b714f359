// Rules seen from C++ code: expressions, containers, threads.
#include "rule.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

bool aligned(const void *pointer, std::size_t alignment) {
    return (reinterpret_cast<std::uintptr_t>(pointer) & (alignment - 1)) == 0;
}

int alive;

template <std::size_t Alignment, std::size_t Size> struct alignas(Alignment) object {
    unsigned char bytes[Size];
    object() {
        alive++;
        std::memset(bytes, 7, Size);
    }
    ~object() { alive--; }
};

template <typename T> void expressions_of() {
    alive = 0;
    note("alignment %zu, size %zu", alignof(T), sizeof(T));
    for (int i = 0; i < 50; i++) {
        T *one = static_cast<T *>(hide(new T)), *many = new T[static_cast<std::size_t>(i) + 1];
        T *quiet = new (std::nothrow) T, *quiet_many = new (std::nothrow) T[3];
        CHECK(quiet != nullptr && quiet_many != nullptr);
        CHECK(aligned(one, alignof(T)) && aligned(many, alignof(T)) && aligned(quiet, alignof(T)));
        CHECK(aligned(quiet_many, alignof(T)));
        CHECK(alive == 1 + i + 1 + 1 + 3);
        delete one;
        delete[] many;
        delete quiet;
        delete[] quiet_many;
    }
    CHECK(alive == 0);
}

void expressions() {
    expressions_of<object<1, 1>>();
    expressions_of<object<8, 8>>();
    expressions_of<object<16, 100>>();
    expressions_of<object<32, 1>>();
    expressions_of<object<64, 200>>();
    expressions_of<object<256, 3000>>();
    expressions_of<object<4096, 1>>();
    expressions_of<object<4096, 300000>>();
    expressions_of<object<65536, 10>>();
}

// A constructor that throws has its memory freed by the matching delete; lost memory would show at the limit.
struct throws_in_constructor {
    char rest[100000];
    throws_in_constructor() { throw std::runtime_error("from the constructor"); }
};

void constructor_that_throws() {
    int caught = 0;
    for (int i = 0; i < 50000; i++) {
        try {
            if (i % 2) hide(new throws_in_constructor);
            else hide(new throws_in_constructor[3]);
        } catch (const std::runtime_error &) {
            caught++;
        }
    }
    CHECK(caught == 50000);
}

void array_too_long() {
    volatile std::size_t length = SIZE_MAX / 4;
    bool caught = false;
    try {
        hide(new long[length]);
    } catch (const std::bad_array_new_length &) {
        caught = true;
    }
    CHECK(caught);
}

void containers() {
    std::map<std::string, std::vector<int>> table;
    std::unordered_map<int, std::shared_ptr<std::string>> shared;
    std::list<std::string> names;
    for (int i = 0; i < 20000; i++) {
        std::string name = "a name that does not fit the small string " + std::to_string(i % 5000);
        table[name].push_back(i);
        shared[i % 700] = std::make_shared<std::string>(name);
        names.push_back(name);
        if (i % 3 == 0) names.pop_front();
    }
    CHECK(table.size() == 5000);
    for (const auto &[name, numbers] : table) {
        CHECK(numbers.size() == 4);
        CHECK(name == "a name that does not fit the small string " + std::to_string(numbers[0]));
    }
    CHECK(shared.size() == 700);
    for (const auto &[number, text] : shared)
        CHECK(text.use_count() == 1 && text->compare(0, 6, "a name") == 0 && number < 700);
    CHECK(names.size() == 20000 - 6667);
}

// thread_local objects are destroyed after the thread's function has returned, and free what they hold.
std::atomic<int> destroyed;

struct per_thread {
    std::vector<std::string> held;
    ~per_thread() {
        held.emplace_back("allocated while the thread ends, and long enough to need a block");
        destroyed += static_cast<int>(held.size());
    }
};

thread_local per_thread local;

void thread_locals() {
    destroyed = 0;
    for (int round = 0; round < 10; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 16; i++)
            threads.emplace_back([i] {
                for (int j = 0; j < 100; j++) local.held.emplace_back(std::string(static_cast<std::size_t>(i * j + 1), 'x'));
            });
        for (std::thread &thread : threads) thread.join();
    }
    note("%d", destroyed.load());
    CHECK(destroyed == 10 * 16 * 101);
}

void objects_cross_threads() {
    std::mutex mutex;
    std::vector<std::unique_ptr<std::string>> box;
    std::atomic<int> bad{0}, taken{0};
    const int each = 20000;
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++)
        threads.emplace_back([&, t] {
            for (int i = 0; i < each; i++) {
                auto text = std::make_unique<std::string>(static_cast<std::size_t>(i % 200 + 1), static_cast<char>('a' + t));
                std::lock_guard<std::mutex> lock(mutex);
                box.push_back(std::move(text));
            }
        });
    for (int t = 0; t < 2; t++)
        threads.emplace_back([&] {
            while (taken < 3 * each) {
                std::vector<std::unique_ptr<std::string>> mine;
                {
                    std::lock_guard<std::mutex> lock(mutex);
                    mine.swap(box);
                }
                if (mine.empty()) std::this_thread::yield();
                for (const auto &text : mine) bad += text->find_first_not_of((*text)[0]) != std::string::npos;
                taken += static_cast<int>(mine.size());
            }
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(bad == 0);
}

// Exceptions allocate themselves, in threads as well.
void exceptions_in_threads() {
    std::atomic<int> caught{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; t++)
        threads.emplace_back([&] {
            for (int i = 0; i < 500; i++) {
                try {
                    if (i % 2) throw std::runtime_error(std::string(200, 'x'));
                    hide(::operator new(SIZE_MAX / 2));
                } catch (const std::bad_alloc &) {
                    caught++;
                } catch (const std::runtime_error &error) {
                    caught += std::strlen(error.what()) == 200;
                }
            }
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(caught == 8 * 500);
}

}  // namespace

extern "C" const rule language_rules[] = {
    {"expressions", "C++23 [expr.new], [expr.delete]",
     "new and delete expressions of over-aligned types and arrays", expressions, 0},
    {"constructor-throws", "C++23 [expr.new]",
     "the memory of an object whose constructor throws is freed", constructor_that_throws, LIMITED},
    {"array-too-long", "C++23 [expr.new]",
     "an array that cannot exist throws bad_array_new_length", array_too_long, 0},
    {"containers", "C++23 [default.allocator]", "containers keep what they are given", containers, 0},
    {"thread-locals", "C++23 [basic.stc.thread]",
     "thread_local objects allocate and free while their thread ends", thread_locals, 0},
    {"objects-cross", "C++23 [new.delete.dataraces]",
     "objects may be deleted by another thread", objects_cross_threads, 0},
    {"exceptions-in-threads", "C++23 [except.throw]",
     "exceptions are thrown and caught in many threads", exceptions_in_threads, 0},
    {nullptr, nullptr, nullptr, nullptr, 0},
};
