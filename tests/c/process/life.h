/*
 * What the programs of tests/process.rs share: blocks that know their content, a random number, an end with a
 * reason, and a look at whose malloc is in force.
 */
#ifndef LIFE_H
#define LIFE_H

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Only this library has it: weak, so that programs can be linked without. */
extern size_t nallocx(size_t, int) __attribute__((weak));

/* Ends the process at once and says why, without stdio. */
__attribute__((unused)) static void fail_at(const char *file, int line, const char *what) {
    char text[300], number[12];
    int at = sizeof number;
    do number[--at] = (char)('0' + line % 10);
    while (line /= 10);
    size_t used = 0;
    const char *parts[] = {file, ":", NULL, ": ", what, "\n"};
    for (int i = 0; i < 6; i++) {
        const char *part = i == 2 ? number + at : parts[i];
        size_t length = i == 2 ? sizeof number - (size_t)at : strlen(part);
        if (used + length > sizeof text) break;
        memcpy(text + used, part, length);
        used += length;
    }
    if (write(2, text, used) < 0) _exit(98);
    _exit(99);
}
#define REQUIRE(condition) ((condition) ? (void)0 : fail_at(__FILE__, __LINE__, #condition))

/* Every program starts with this: a limit of time, and the allocator it is about. */
__attribute__((unused)) static void begin(unsigned seconds) {
    alarm(seconds);
    REQUIRE(getenv("CIDALLOC_TEST_WITHOUT") || nallocx);
}

__attribute__((unused)) static unsigned long next_random(unsigned long *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A block with its size in front and a pattern of its address and seed throughout. */
struct block {
    size_t size;
    unsigned long seed;
    unsigned long words[];
};

__attribute__((unused)) static void block_fill(struct block *block, size_t size, unsigned long seed) {
    block->size = size;
    block->seed = seed;
    size_t count = (size - sizeof *block) / 8, step = size > 65536 ? 512 : 1;
    for (size_t i = 0; i < count; i += step) block->words[i] = seed * 31 + i;
}

__attribute__((unused)) static void block_check(const struct block *block, unsigned long seed) {
    REQUIRE(block->seed == seed);
    size_t count = (block->size - sizeof *block) / 8, step = block->size > 65536 ? 512 : 1;
    for (size_t i = 0; i < count; i += step) REQUIRE(block->words[i] == seed * 31 + i);
}

/* Of at least 16 bytes; by one of the ways to get memory, chosen by the seed. */
__attribute__((unused)) static struct block *block_new(size_t size, unsigned long seed) {
    void *got = NULL;
    if (size < sizeof(struct block)) size = sizeof(struct block);
    switch (seed % 8) {
    case 0: got = calloc(1, size); break;
    case 1: got = memalign(64, size); break;
    case 2: got = realloc(malloc(size / 2 + 1), size); break;
    default: got = malloc(size);
    }
    REQUIRE(got);
    struct block *block = (struct block *)got;
    block_fill(block, size, seed);
    return block;
}

__attribute__((unused)) static void block_free(struct block *block, unsigned long seed) {
    block_check(block, seed);
    memset(block, 0xdd, sizeof *block);
    free(block);
}

/* Mostly small; now and then a large block. */
__attribute__((unused)) static size_t random_size(unsigned long *state) {
    unsigned long r = next_random(state);
    if (r % 256 == 0) return 100000 + (r >> 20) % 400000;
    if (r % 16 == 0) return 1000 + (r >> 20) % 20000;
    return 16 + (r >> 20) % 700;
}

/* Allocates and frees, checking, `steps` times, with at most `most` (256) blocks at once. */
__attribute__((unused)) static void churn(unsigned long seed, int steps, int most) {
    struct block *held[256] = {0};
    unsigned long seeds[256], state = seed * 2654435761u + 1;
    REQUIRE(most <= 256);
    for (int n = 0; n < steps; n++) {
        int i = (int)(next_random(&state) % (unsigned long)most);
        if (held[i]) block_free(held[i], seeds[i]), held[i] = NULL;
        else seeds[i] = next_random(&state), held[i] = block_new(random_size(&state), seeds[i]);
    }
    for (int i = 0; i < most; i++)
        if (held[i]) block_free(held[i], seeds[i]);
}

static volatile int stop;
/* Above 0: the threads are busy, but others come first. */
static int niceness;
__attribute__((unused)) static void *churn_until_stop(void *seed) {
    REQUIRE(nice(niceness) != -1);
    for (unsigned long n = (unsigned long)seed; !stop; n += 1000) churn(n, 2000, 200);
    return NULL;
}

/* Starts `count` threads that churn until `stop`. */
__attribute__((unused)) static void start_churning(pthread_t *threads, int count) {
    for (long i = 0; i < count; i++) REQUIRE(!pthread_create(&threads[i], NULL, churn_until_stop, (void *)(i + 1)));
}
__attribute__((unused)) static void join_churning(pthread_t *threads, int count) {
    stop = 1;
    for (int i = 0; i < count; i++) REQUIRE(!pthread_join(threads[i], NULL));
}

/* The child's exit code; a child that was killed fails the test. */
__attribute__((unused)) static int exit_code(pid_t child) {
    int status;
    REQUIRE(child > 0);
    while (waitpid(child, &status, 0) < 0) REQUIRE(errno == EINTR);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

__attribute__((unused)) static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Bytes of live blocks, small and large, as the allocator counts them. musl's headers know no mallinfo2. */
#ifdef __GLIBC__
__attribute__((unused)) static size_t live_bytes(void) {
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}
#endif

#endif
