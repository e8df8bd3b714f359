/*
 * Does this kernel abort a section whose thread is preempted?
 *
 *   preempted [own] [blind] [ROUNDS]
 *
 * Threads on one CPU add to one counter, each in a section that takes as long as a good part of a time slice, so that
 * many are preempted inside. The counter is exact if the kernel aborts each of those, and short by what the others
 * have counted meanwhile if it does not. Needs nothing but a C library; default emulation will do (it interrupts at
 * jumps, and the section is a loop), and about 5 seconds.
 *
 *   own    registers an area of the full size in place of the C library's
 *   blind  announces the sections where nobody looks: what a kernel with the fault does, on any kernel
 *   ROUNDS of each thread
 *
 * Exit status: 0 exact, and sections were aborted; 1 counts were lost: the kernel has the fault; 2 nothing was
 * interrupted, which proves nothing; 77 no rseq. Expected: 1 on aarch64 kernels 6.19 and 7.0 as published, else 0.
 */
#include "rseq.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 3, SECTION_US = 400 };

static int own, blind;
static uint64_t rounds = 1500, loops;
static volatile uint64_t counter;
static const volatile uint32_t never, same;
static atomic_ulong aborts;
static atomic_int none;
static atomic_uint length;
static struct area own_areas[THREADS], nobodys[THREADS];

/* Whichever registration is asked for and can be had. */
static struct area *registered_area(int number) {
    struct area *area = libc_area();
    if (is_registered(area)) {
        length = libc_length();
        if (!own) return area;
        if (register_area(area, libc_length(), UNREGISTER)) return NULL;
    }
    length = full_length();
    return register_area(&own_areas[number], full_length(), 0) ? NULL : &own_areas[number];
}

static void *run(void *argument) {
    int number = (int)(intptr_t)argument;
    struct area *area = registered_area(number);
    if (!area) {
        none = 1;
        return NULL;
    }
    if (blind) area = &nobodys[number];
    for (uint64_t i = 0; i < rounds; i++)
        while (count_in_section(area, &same, 0, &counter, loops, &never) != DONE) atomic_fetch_add(&aborts, 1);
    return NULL;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* As many loops as take the time that a section is to take: the fastest of some tries, as others may run meanwhile. */
static uint64_t calibrated(void) {
    enum { LOOPS = 20000 };
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 20; i++) {
        uint64_t start = now_ns(), ignored = 0;
        count_in_section(&nobodys[0], &same, 0, &ignored, LOOPS, &never);
        uint64_t took = now_ns() - start;
        if (took < best) best = took;
    }
    return SECTION_US * 1000ull * LOOPS / (best ? best : 1) + 1;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "own")) own = 1;
        else if (!strcmp(argv[i], "blind")) blind = 1;
        else rounds = strtoull(argv[i], NULL, 10);
    }
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(sched_getcpu(), &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus)) {
        perror("preempted: sched_setaffinity");
        return 2;
    }
    loops = calibrated();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run, (void *)(intptr_t)i)) return 2;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    if (none) {
        puts("no registration can be had");
        return 77;
    }
    uint64_t due = THREADS * rounds, lost = due - counter;
    printf("%llu of %llu counted, %llu lost, %lu sections aborted, registered %u bytes%s\n", (unsigned long long)counter,
           (unsigned long long)due, (unsigned long long)lost, (unsigned long)aborts, (unsigned)length, blind ? ", blind" : "");
    return lost ? 1 : aborts ? 0 : 2;
}
