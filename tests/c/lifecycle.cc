// Objects that live before main, after it and in threads: their constructors and destructors allocate.
#include <cstdio>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace {

int faults;

struct holder {
    const char *name;
    std::map<int, std::string> held;
    explicit holder(const char *name) : name(name) {
        for (int i = 0; i < 500; i++) held[i] = std::string(static_cast<std::size_t>(i % 90 + 20), 'h');
    }
    ~holder() {
        for (int i = 0; i < 500; i++) faults += held[i].size() != static_cast<std::size_t>(i % 90 + 20);
        auto last = std::make_unique<std::vector<std::string>>(200, "allocated by a destructor, in a block of its own");
        held.clear();
        faults += last->size() != 200;
        std::printf("%s%s", name, faults ? " FAULT " : "");
    }
};

struct alignas(512) overaligned {
    char bytes[700];
};

__attribute__((init_priority(200))) holder early("e");
holder usual("u");
thread_local holder per_thread("t");
std::unique_ptr<overaligned> kept(new overaligned());

holder &on_first_use() {
    static holder local("s");
    return local;
}

}  // namespace

int main() {
    on_first_use();
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; i++) threads.emplace_back([] { faults += per_thread.held.size() != 500; });
    for (std::thread &thread : threads) thread.join();
    faults += per_thread.held.size() != 500;
    try {
        throw holder("x");
    } catch (const holder &caught) {
        faults += caught.held.size() != 500;
    }
    return faults;
}
