/*
 * forks THREADS ROUNDS: forks while that many threads churn; children and grandchildren free what they inherited,
 * and allocate. `forks latency THREADS` prints the median and the longest time of a fork, in microseconds, with that
 * many threads that allocate now and then.
 */
#define _GNU_SOURCE
#include "life.h"

enum { INHERITED = 300, MOST = 1024, TIMED = 25 };
static struct block *inherited[INHERITED];
static pthread_t threads[MOST];

static void *in_thread(void *seed) {
    churn((unsigned long)seed, 400, 100);
    return NULL;
}

static void descend(int depth, unsigned long seed) {
    for (unsigned long i = 0; i < INHERITED; i++) {
        block_check(inherited[i], i);
        if (i % 3 == (unsigned long)depth) block_free(inherited[i], i), inherited[i] = block_new(i * 5 + 20, i);
    }
    churn(seed, 700, 200);
    if (depth < 2) {
        pid_t child = fork();
        if (child == 0) {
            descend(depth + 1, seed + 1);
            _exit(3);
        }
        churn(seed + 2, 300, 100);
        REQUIRE(exit_code(child) == 3);
    } else {
        /* The heap of a process with one thread, which may have more threads again. */
        pthread_t again[2];
        for (long i = 0; i < 2; i++) REQUIRE(!pthread_create(&again[i], NULL, in_thread, (void *)i));
        for (int i = 0; i < 2; i++) pthread_join(again[i], NULL);
    }
    malloc_trim(0);
    churn(seed + 3, 300, 100);
}

static void *now_and_then(void *seed) {
    while (!stop) {
        churn((unsigned long)seed, 50, 20);
        usleep(20000);
    }
    return NULL;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int latency(int count) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    for (long i = 0; i < count; i++) REQUIRE(!pthread_create(&threads[i], &attributes, now_and_then, (void *)(i + 1)));
    usleep(50000);
    double times[TIMED];
    for (int n = 0; n < TIMED; n++) {
        double from = now_s();
        pid_t child = fork();
        if (child == 0) _exit(3);
        times[n] = now_s() - from;
        REQUIRE(exit_code(child) == 3);
        free(malloc(100));
    }
    join_churning(threads, count);
    qsort(times, TIMED, sizeof *times, by_value);
    printf("%.0f %.0f\n", times[TIMED / 2] * 1e6, times[TIMED - 1] * 1e6);
    return 0;
}

int main(int argc, char **argv) {
    begin(150);
    if (argc > 2 && !strcmp(argv[1], "latency")) return latency(atoi(argv[2]));
    int count = argc > 1 ? atoi(argv[1]) : 64, rounds = argc > 2 ? atoi(argv[2]) : 20;
    REQUIRE(count <= MOST);
    for (unsigned long i = 0; i < INHERITED; i++) inherited[i] = block_new(i * 7 + 16, i);
    niceness = 15;
    start_churning(threads, count);
    for (int n = 0; n < rounds; n++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(150);
            descend(0, (unsigned long)n);
            _exit(3);
        }
        churn((unsigned long)n, 200, 100);
        REQUIRE(exit_code(child) == 3);
    }
    join_churning(threads, count);
    for (unsigned long i = 0; i < INHERITED; i++) block_free(inherited[i], i);
    puts("ok");
    return 0;
}
