// Phases whose sizes differ, and the memory that is left after each, at the end
// and after idling. The time of the work is printed without the idling.
#include "common.h"
#include <time.h>

namespace {

double idle_s() {
    const char *s = getenv("CIDALLOC_BENCH_IDLE_S");
    return s ? atof(s) : 10;
}

// A few small calls every 20 ms, as of a program that waits for work.
void idle() {
    for (double left = idle_s(); left > 0; left -= 0.02) {
        timespec t = {0, 20000000};
        nanosleep(&t, nullptr);
        for (size_t size = 16; size < 256; size += 16) free(make(size, 1));
    }
}

void report(uint64_t from) {
    printf("end_rss_kb %ld\n", rss_kb());
    printf("work_s %.6f\n", double(now_ns() - from) * 1e-9);
}

// 60 MB each of five distributions; after each, all but one block in 200 goes.
uint64_t changing() {
    uint64_t from = now_ns(), sum = 0;
    Random random(80);
    std::vector<unsigned char *> kept;
    const unsigned bits[5][2] = {{4, 6}, {6, 9}, {9, 12}, {12, 16}, {5, 14}};
    for (int phase = 0; phase < 5; phase++) {
        std::vector<unsigned char *> held;
        for (int turn = 0; turn < 2; turn++) {
            for (size_t bytes = 0; bytes < 60000000;) {
                size_t size = random.size(bits[phase][0], bits[phase][1]);
                held.push_back(make(size, (unsigned char)phase));
                for (size_t i = 0; i < size; i += 4096) held.back()[i] = (unsigned char)phase;
                bytes += size;
            }
            // A random third is replaced in the second turn.
            for (size_t i = 0; turn == 0 && i < held.size(); i++)
                if (random.below(3) == 0) {
                    free(held[i]);
                    held[i] = held.back();
                    held.pop_back();
                }
        }
        for (size_t i = 0; i < held.size(); i++) {
            check(held[i][0] == phase, "phases");
            sum += held[i][0];
            if (i % 200 == 0) kept.push_back(held[i]);
            else free(held[i]);
        }
        printf("phase%d_rss_kb %ld\n", phase + 1, rss_kb());
    }
    report(from);
    idle();
    printf("idle_rss_kb %ld\n", rss_kb());
    for (auto *p : kept) free(p);
    return sum;
}

// 1 GB in blocks of 100 bytes to 100 KB, all of it freed, then a heartbeat only.
uint64_t burst() {
    uint64_t from = now_ns(), sum = 0;
    Random random(81);
    std::vector<unsigned char *> held;
    for (size_t bytes = 0; bytes < size_t(1) << 30;) {
        size_t size = random.size(7, 16);
        held.push_back(make(size, 1));
        for (size_t i = 0; i < size; i += 4096) held.back()[i] = 1;
        bytes += size;
    }
    for (auto *p : held) {
        sum += p[0];
        free(p);
    }
    check(sum == held.size(), "burst");
    report(from);
    idle();
    printf("idle_rss_kb %ld\n", rss_kb());
    return sum;
}

} // namespace

const std::vector<Workload> phases = {{"phases", changing}, {"burst", burst}};
