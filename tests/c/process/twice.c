/*
 * twice SECONDS THREADS: is a block ever handed out while somebody holds it? Threads hold small blocks for a while,
 * filled with words that nobody else writes, and look at them before they free them. A block that has changed is
 * counted and not freed. Meanwhile the main thread has the allocator empty the caches of all CPUs again and again, as
 * idle caches are emptied anyway: whoever is in the middle of a change must notice.
 *
 * Runs on any malloc; prints "twice N of M blocks", and where tcmalloc's caches are per CPU. The exit code is 3 if N
 * is not 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include "life.h"

enum { MOST = 256, HELD = 48 };
static unsigned long all_twice, all_blocks;

extern int malloc_trim(size_t) __attribute__((weak));
/* tcmalloc's, by CPU. */
static size_t (*release_cpu)(int);

static void empty_caches(void) {
    if (release_cpu) {
        for (int cpu = 0; cpu < (int)sysconf(_SC_NPROCESSORS_CONF); cpu++) release_cpu(cpu);
    } else if (malloc_trim) {
        malloc_trim(0);
    }
}

static void *work(void *number) {
    unsigned long *held[HELD] = {0}, words[HELD] = {0}, marks[HELD] = {0};
    unsigned long me = (unsigned long)number, state = me * 2654435761u + 1, twice = 0, blocks = 0;
    while (!stop) {
        unsigned long random = next_random(&state);
        int i = (int)(random % HELD);
        if (held[i]) {
            int same = 1;
            for (unsigned long w = 0; w < words[i]; w++) same &= held[i][w] == marks[i];
            if (same) free(held[i]);
            twice += !same;
            held[i] = NULL;
        } else {
            words[i] = 2 + (random >> 20) % 15;
            marks[i] = me << 48 | ++blocks;
            held[i] = malloc(words[i] * 8);
            REQUIRE(held[i]);
            for (unsigned long w = 0; w < words[i]; w++) held[i][w] = marks[i];
        }
        if (random >> 54 == 0) sched_yield();
    }
    __atomic_add_fetch(&all_twice, twice, __ATOMIC_RELAXED);
    __atomic_add_fetch(&all_blocks, blocks, __ATOMIC_RELAXED);
    return NULL;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    int threads = argc > 2 ? atoi(argv[2]) : 8;
    REQUIRE(threads > 0 && threads <= MOST);
    free(malloc(100));
#ifdef __GLIBC__
    void *per_cpu = dlsym(RTLD_DEFAULT, "MallocExtension_Internal_GetPerCpuCachesActive");
    if (per_cpu) printf("per_cpu %s\n", ((_Bool(*)(void))per_cpu)() ? "on" : "off");
    release_cpu = (size_t(*)(int))dlsym(RTLD_DEFAULT, "MallocExtension_Internal_ReleaseCpuMemory");
    fflush(stdout);
#endif
    pthread_t all[MOST];
    for (long i = 0; i < threads; i++) REQUIRE(!pthread_create(&all[i], NULL, work, (void *)(i + 1)));
    for (double end = now_s() + seconds; now_s() < end;) {
        empty_caches();
        usleep(1000);
    }
    stop = 1;
    for (int i = 0; i < threads; i++) REQUIRE(!pthread_join(all[i], NULL));
    printf("twice %lu of %lu blocks\n", all_twice, all_blocks);
    REQUIRE(all_blocks > 100);
    return all_twice ? 3 : 0;
}
