/*
 * What V2 is worth by itself: threads that do little but switch, registered by the C library and by
 * CIDALLOC_RSEQ=take, in turns. Where the C library registers 32 bytes and the kernel has V2 that is legacy against V2.
 *
 *   switches [ROUNDS [MILLISECONDS [THREADS]]]     11 rounds of 500 ms each, 4 threads
 *
 * All threads are on one CPU; each allocates and frees a few blocks and yields. Prints nanoseconds a switch, of each
 * round and as medians.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int stop;
static atomic_ulong switches;

static void *run(void *unused) {
    unsigned long count = 0;
    for (; !atomic_load_explicit(&stop, memory_order_relaxed); count++) {
        void *volatile blocks[4];
        for (int i = 0; i < 4; i++) blocks[i] = malloc(24u + 40u * (unsigned)i);
        for (int i = 0; i < 4; i++) free(blocks[i]);
        sched_yield();
    }
    switches += count;
    return unused;
}

static double now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static double measured(int ms, int threads) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(sched_getcpu(), &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus)) exit(1);
    pthread_t thread[64];
    for (int i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, run, NULL)) exit(1);
    double start = now_ns();
    struct timespec time = {ms / 1000, ms % 1000 * 1000000l};
    nanosleep(&time, NULL);
    stop = 1;
    double took = now_ns() - start;
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    return took / (double)switches;
}

/* The same in a process that is told which registration to use. */
static double of(const char *registration, char **argv, const char *ms, const char *threads) {
    int pipes[2];
    if (pipe(pipes)) exit(1);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 1);
        setenv("CIDALLOC_RSEQ", registration, 1);
        execl(argv[0], argv[0], "once", ms, threads, (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    FILE *said = fdopen(pipes[0], "r");
    double result;
    int status, found = fscanf(said, "%lf", &result);
    fclose(said);
    if (waitpid(child, &status, 0) != child || status || found != 1) {
        fprintf(stderr, "switches: no result with %s\n", registration);
        exit(1);
    }
    return result;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc == 4 && argv[1][0] == 'o') {
        printf("%.3f\n", measured(atoi(argv[2]), atoi(argv[3])));
        return 0;
    }
    int rounds = argc > 1 ? atoi(argv[1]) : 11;
    const char *ms = argc > 2 ? argv[2] : "500", *threads = argc > 3 ? argv[3] : "4";
    static double libc[1000], take[1000];
    if (rounds < 1 || rounds > 1000 || atoi(threads) < 1 || atoi(threads) > 64) return 2;
    for (int i = 0; i < rounds; i++) {
        /* Neither is always first. */
        if (i % 2) take[i] = of("take", argv, ms, threads);
        libc[i] = of("libc", argv, ms, threads);
        if (i % 2 == 0) take[i] = of("take", argv, ms, threads);
        printf("libc %.1f take %.1f\n", libc[i], take[i]);
        fflush(stdout);
    }
    qsort(libc, (size_t)rounds, sizeof *libc, ascending);
    qsort(take, (size_t)rounds, sizeof *take, ascending);
    double a = libc[rounds / 2], b = take[rounds / 2];
    printf("median: libc %.1f ns a switch (%.1f to %.1f), take %.1f (%.1f to %.1f): %.3f\n", a, libc[0], libc[rounds - 1], b,
           take[0], take[rounds - 1], b / a);
    return 0;
}
