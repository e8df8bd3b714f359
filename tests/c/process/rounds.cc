// A thread's end: thread_locals' destructors, then every round of the destructors of thread-specific data. All of
// them allocate and free; nothing of the thread is left.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
extern "C" {
#include <limits.h>
#include "life.h"
}
#include <map>
#include <string>

enum { KEYS = 6 };
static pthread_key_t keys[KEYS], after_locals;
static int rounds_of[KEYS], ends_of_locals, calls_after_locals;

struct value {
    int key, round;
    struct block *kept;
    unsigned long seed;
};

static void of_key(void *pointer) {
    value *v = static_cast<value *>(pointer);
    rounds_of[v->key]++;
    block_free(v->kept, v->seed);
    churn(v->seed, 200, 50);
    if (++v->round < PTHREAD_DESTRUCTOR_ITERATIONS) {
        v->seed += 17;
        v->kept = block_new(v->round % 2 ? 300000 : 500, v->seed);
        pthread_setspecific(keys[v->key], v);
    } else {
        free(v);
    }
}

static void of_after_locals(void *pointer) {
    calls_after_locals++;
    std::map<int, std::string> made;
    for (int i = 0; i < 100; i++) made[i] = std::string(static_cast<size_t>(i + 30), 'a');
    free(pointer);
}

struct local {
    std::map<int, std::string> held;
    local() {
        for (int i = 0; i < 100; i++) held[i] = std::string(static_cast<size_t>(i + 30), 'l');
    }
    ~local() {
        ends_of_locals++;
        for (int i = 0; i < 100; i++) REQUIRE(held[i].size() == static_cast<size_t>(i + 30));
        held.clear();
        // Its destructor comes after those of all thread_locals.
        if (!pthread_getspecific(after_locals)) pthread_setspecific(after_locals, malloc(70));
        churn(5, 100, 30);
    }
};
static thread_local local one, two;

static void *body(void *argument) {
    long number = reinterpret_cast<long>(argument);
    REQUIRE(one.held.size() == 100 && two.held.size() == 100);
    for (int k = 0; k < KEYS; k++) {
        value *v = static_cast<value *>(malloc(sizeof *v));
        v->key = k, v->round = 0, v->seed = static_cast<unsigned long>(number * 100 + k);
        v->kept = block_new(200, v->seed);
        pthread_setspecific(keys[k], v);
    }
    return nullptr;
}

static void wave(long threads) {
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        REQUIRE(!pthread_create(&thread, nullptr, body, reinterpret_cast<void *>(i)));
        pthread_join(thread, nullptr);
    }
}

int main() {
    begin(150);
    for (int k = 0; k < KEYS; k++) REQUIRE(!pthread_key_create(&keys[k], of_key));
    REQUIRE(!pthread_key_create(&after_locals, of_after_locals));
    wave(3);
    size_t before = live_bytes();
    wave(40);
    size_t after = live_bytes();
    if (after != before) fprintf(stderr, "%zu bytes live before, %zu after\n", before, after);
    REQUIRE(after == before);
    for (int k = 0; k < KEYS; k++) REQUIRE(rounds_of[k] == 43 * PTHREAD_DESTRUCTOR_ITERATIONS);
    REQUIRE(ends_of_locals == 86 && calls_after_locals == 43);
    puts("ok");
    return 0;
}
