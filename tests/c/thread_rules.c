/* Rules of threads and of fork. */
#define _GNU_SOURCE
#include "rule.h"

#include <malloc.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A block that knows its own size and owner. */
struct block {
    size_t size;
    uint32_t owner;
    unsigned char rest[];
};

static struct block *make(size_t size, uint32_t owner) {
    struct block *block = hide(malloc(sizeof *block + size));
    if (!block) return NULL;
    block->size = size;
    block->owner = owner;
    memset(block->rest, (int)owner, size);
    return block;
}

static int intact(const struct block *block) {
    for (size_t i = 0; i < block->size; i++)
        if (block->rest[i] != (unsigned char)block->owner) return 0;
    return 1;
}

static void *passing(void *argument) { return argument; }

static int start(pthread_t *thread, void *(*body)(void *), void *argument) {
    return pthread_create(thread, NULL, body, argument) == 0;
}

/* Blocks travel through a ring: allocated in one thread, freed in another. */
enum { SLOTS = 512, PRODUCERS = 4, CONSUMERS = 4, PER_PRODUCER = 30000 };
static _Atomic(struct block *) ring[SLOTS];
static atomic_int produced, consumed, damaged;

static void *producer(void *argument) {
    uint32_t owner = (uint32_t)(uintptr_t)argument;
    for (int i = 0; i < PER_PRODUCER; i++) {
        struct block *block = make((size_t)(i * 7 + (int)owner) % 900, owner);
        if (!block) {
            atomic_fetch_add(&damaged, 1);
            continue;
        }
        for (;;) {
            int slot = atomic_fetch_add(&produced, 1) % SLOTS;
            struct block *empty = NULL;
            if (atomic_compare_exchange_strong(&ring[slot], &empty, block)) break;
            if (slot == 0) sched_yield();
        }
    }
    return NULL;
}

static void *consumer(void *argument) {
    (void)argument;
    for (int slot = 0; atomic_load(&consumed) < PRODUCERS * PER_PRODUCER; slot = (slot + 1) % SLOTS) {
        struct block *block = atomic_exchange(&ring[slot], NULL);
        if (slot == 0) sched_yield();
        if (!block) continue;
        if (!intact(block)) atomic_fetch_add(&damaged, 1);
        free(block);
        atomic_fetch_add(&consumed, 1);
    }
    return NULL;
}

static void blocks_cross_threads(void) {
    pthread_t threads[PRODUCERS + CONSUMERS];
    atomic_store(&produced, 0);
    atomic_store(&consumed, 0);
    atomic_store(&damaged, 0);
    for (int i = 0; i < PRODUCERS; i++) CHECK(start(&threads[i], producer, (void *)(uintptr_t)(i + 1)));
    for (int i = PRODUCERS; i < PRODUCERS + CONSUMERS; i++) CHECK(start(&threads[i], consumer, NULL));
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++) pthread_join(threads[i], NULL);
    CHECK(atomic_load(&damaged) == 0);
}

/* A thread's blocks outlive it. */
static void *leaves_blocks(void *argument) {
    struct block **blocks = argument;
    for (int i = 0; i < 100; i++) blocks[i] = make((size_t)i * i, (uint32_t)i);
    return NULL;
}

static void blocks_outlive_threads(void) {
    static struct block *blocks[100];
    for (int round = 0; round < 200; round++) {
        pthread_t thread;
        if (!CHECK(start(&thread, leaves_blocks, blocks))) return;
        pthread_join(thread, NULL);
        for (int i = 0; i < 100; i++) {
            if (!CHECK(blocks[i] != NULL)) return;
            CHECK(intact(blocks[i]));
            free(blocks[i]);
        }
    }
}

static void many_short_threads(void) {
    for (int round = 0; round < 40; round++) {
        pthread_t threads[50];
        static struct block *blocks[50][100];
        int started = 0;
        while (started < 50 && start(&threads[started], leaves_blocks, blocks[started])) started++;
        CHECK(started == 50);
        for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
        for (int i = 0; i < started; i++)
            for (int j = 0; j < 100; j++) {
                CHECK(blocks[i][j] && intact(blocks[i][j]));
                free(blocks[i][j]);
            }
    }
}

/* Key destructors run after the thread's last own code, and may allocate. They set the value again, so that they run
 * PTHREAD_DESTRUCTOR_ITERATIONS times. */
static pthread_key_t key;
static atomic_int destructor_runs;

static void destructor(void *value) {
    struct block *block = value;
    if (!intact(block)) atomic_fetch_add(&damaged, 1);
    free(block);
    atomic_fetch_add(&destructor_runs, 1);
    pthread_setspecific(key, make(300, 9));
}

static void *sets_key(void *argument) {
    (void)argument;
    pthread_setspecific(key, make(200, 8));
    return NULL;
}

static void key_destructors_allocate(void) {
    atomic_store(&destructor_runs, 0);
    atomic_store(&damaged, 0);
    if (!CHECK(pthread_key_create(&key, destructor) == 0)) return;
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        if (!CHECK(start(&thread, sets_key, NULL))) return;
        pthread_join(thread, NULL);
    }
    pthread_key_delete(key);
    CHECK(atomic_load(&destructor_runs) >= 100);
    CHECK(atomic_load(&damaged) == 0);
}

/* A child of fork has one thread, and a heap that other threads were in the middle of changing. */
static atomic_int stop;

static void *churns(void *argument) {
    uint32_t owner = (uint32_t)(uintptr_t)argument;
    struct block *blocks[64] = {NULL};
    for (unsigned i = 0; !atomic_load(&stop); i = i * 1664525u + 1013904223u) {
        unsigned slot = (i >> 16) % 64;
        if (blocks[slot] && !intact(blocks[slot])) atomic_fetch_add(&damaged, 1);
        free(blocks[slot]);
        blocks[slot] = make((i >> 8) % 50 == 0 ? 300000 : (i >> 8) % 3000, owner);
    }
    for (int i = 0; i < 64; i++) free(blocks[i]);
    return NULL;
}

static void fork_while_threads_allocate(void) {
    pthread_t threads[3];
    atomic_store(&stop, 0);
    atomic_store(&damaged, 0);
    struct block *inherited = make(5000, 77);
    for (int i = 0; i < 3; i++) CHECK(start(&threads[i], churns, (void *)(uintptr_t)(i + 1)));
    for (int round = 0; round < 30; round++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            int bad = !intact(inherited);
            free(inherited);
            for (int i = 0; i < 3000; i++) {
                struct block *block = make((size_t)(i % 40 == 0 ? 300000 : i % 4000), 5);
                bad |= !block || !intact(block);
                free(block);
            }
            pthread_t thread;
            static struct block *blocks[100];
            bad |= !start(&thread, leaves_blocks, blocks);
            pthread_join(thread, NULL);
            for (int i = 0; i < 100; i++) free(blocks[i]);
            malloc_trim(0);
            _exit(bad);
        }
        int status = -1;
        note("fork %d", round);
        if (!CHECK(child > 0)) break;
        waitpid(child, &status, 0);
        note("fork %d: status %#x", round, (unsigned)status);
        if (!CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0)) break;
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK(atomic_load(&damaged) == 0);
    free(inherited);
}

/* The allocator's per-thread words must leave room for those of others: a thread with the smallest stack works. */
static void *on_a_small_stack(void *argument) {
    for (int i = 0; i < 1000; i++) {
        void *block = hide(malloc((size_t)i * 300));
        void *moved = hide(realloc(block, (size_t)i * 400 + 1));
        free(moved);
    }
    free(hide(calloc(1, 3000000)));
    return argument;
}

static void small_stacks_suffice(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *result = NULL;
    int here;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN > 32768 ? PTHREAD_STACK_MIN : 32768) == 0);
    if (!CHECK(pthread_create(&thread, &attributes, on_a_small_stack, &here) == 0)) return;
    pthread_join(thread, &result);
    CHECK(result == &here);
    pthread_attr_destroy(&attributes);
}

static void threads_without_allocation(void) {
    for (int i = 0; i < 500; i++) {
        pthread_t thread;
        if (!CHECK(start(&thread, passing, NULL))) return;
        pthread_join(thread, NULL);
    }
}

static void *trims(void *argument) {
    while (!atomic_load(&stop)) {
        malloc_trim(0);
        usleep(1000);
    }
    return argument;
}

static void trim_while_threads_allocate(void) {
    pthread_t threads[4];
    atomic_store(&stop, 0);
    atomic_store(&damaged, 0);
    for (int i = 0; i < 3; i++) CHECK(start(&threads[i], churns, (void *)(uintptr_t)(i + 1)));
    CHECK(start(&threads[3], trims, NULL));
    usleep(700000);
    atomic_store(&stop, 1);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK(atomic_load(&damaged) == 0);
}

const struct rule thread_rules[] = {
    {"cross-thread", "C17 7.22.3", "a block may be freed by another thread", blocks_cross_threads, 0},
    {"outlive-thread", "C17 7.22.3", "blocks outlive the thread that allocated them", blocks_outlive_threads, 0},
    {"many-threads", "POSIX.1-2024 malloc", "threads come and go in numbers", many_short_threads, 0},
    {"idle-threads", "POSIX.1-2024 malloc", "threads that never allocate come and go", threads_without_allocation, 0},
    {"key-destructors", "POSIX.1-2024 pthread_key_create",
     "destructors of thread-specific data allocate and free", key_destructors_allocate, 0},
    {"small-stack", "POSIX.1-2024 pthread_attr_setstacksize",
     "allocation works on a stack of 32 KiB", small_stacks_suffice, 0},
    {"fork-threads", "glibc fork",
     "a child forked while other threads allocate can allocate and free", fork_while_threads_allocate, 0},
    {"trim-threads", "malloc_trim(3)", "malloc_trim is safe while others allocate", trim_while_threads_allocate, 0},
    {NULL, NULL, NULL, NULL, 0},
};
