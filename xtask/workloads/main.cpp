// The synthetic workloads of `cargo xtask bench`, one name per run.
//
//     workloads NAME   runs it, checks its result, prints the measured lines
//
// Measured lines are "NAME NUMBER", as src/bench/measuring.rs reads them.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "common.h"
#include <time.h>
#include <unistd.h>

uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}

void Latency::add(uint64_t ns) {
    unsigned exponent = ns < kSteps ? 0 : 63 - unsigned(__builtin_clzll(ns)) - 4;
    uint64_t step = ns >> exponent; // kSteps / 2 .. kSteps
    counts[exponent * kSteps + step % kSteps]++;
    total++;
    if (ns > longest) longest = ns;
}

void Latency::merge(const Latency &other) {
    for (int i = 0; i < 64 * kSteps; i++) counts[i] += other.counts[i];
    total += other.total;
    if (other.longest > longest) longest = other.longest;
}

void Latency::print(const char *name) const {
    const struct { const char *label; double share; } points[] = {
        {"p50", .5}, {"p99", .99}, {"p999", .999}};
    for (auto point : points) {
        uint64_t seen = 0, limit = uint64_t(double(total) * point.share);
        for (int i = 0; i < 64 * kSteps; i++) {
            seen += counts[i];
            if (seen > limit) {
                printf("%s_%s_ns %llu\n", name, point.label,
                       (unsigned long long)(uint64_t(i % kSteps) << (i / kSteps)));
                break;
            }
        }
    }
    printf("%s_max_ns %llu\n", name, (unsigned long long)longest);
}

long rss_kb() {
    // No stdio: reading must not allocate.
    long pages[2] = {0, 0};
    char text[128];
    if (FILE *f = fopen("/proc/self/statm", "r")) {
        setvbuf(f, text, _IOFBF, sizeof text);
        if (fscanf(f, "%ld %ld", &pages[0], &pages[1]) != 2) pages[1] = 0;
        fclose(f);
    }
    return pages[1] * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    for (auto *family : {&compute, &servers, &threads, &large, &phases})
        for (const Workload &w : *family)
            if (!strcmp(w.name, argv[1])) {
                uint64_t from = now_ns();
                uint64_t result = w.run();
                if (family != &phases) {
                    printf("end_rss_kb %ld\n", rss_kb());
                    printf("work_s %.6f\n", double(now_ns() - from) * 1e-9);
                }
                printf("result %016llx\n", (unsigned long long)result);
                return 0;
            }
    fprintf(stderr, "no workload %s\n", argv[1]);
    return 2;
}
