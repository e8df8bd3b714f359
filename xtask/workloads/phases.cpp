// Phases whose sizes differ, and the memory that is left after each, at the end
// and after idling. The time of the work is printed without the idling.
#include "common.h"
#include <time.h>

namespace {

double idle_s() {
    const char *s = getenv("BENCH_IDLE_S");
    return s ? atof(s) : 10;
}

void sleep_ms(long ms) {
    timespec t = {0, ms * 1000000};
    nanosleep(&t, nullptr);
}

// A few small calls every 20 to 100 ms, as of a program that waits for work.
void idle() {
    Random random(82);
    for (long left_ms = long(idle_s() * 1000); left_ms > 0;) {
        long ms = 20 + long(random.below(81));
        sleep_ms(ms);
        left_ms -= ms;
        for (size_t size = 16; size < 256; size += 16) free(make(size, 1));
    }
}

// No call at all.
void silence() {
    for (long left_ms = long(idle_s() * 1000); left_ms > 0; left_ms -= 100) sleep_ms(100);
}

// What the kernel may still take, of what counts as resident.
long lazy_kb() {
    char text[4096], line[256];
    long kb = 0;
    if (FILE *f = fopen("/proc/self/smaps_rollup", "r")) {
        setvbuf(f, text, _IOFBF, sizeof text);
        while (fgets(line, sizeof line, f)) sscanf(line, "LazyFree: %ld", &kb);
        fclose(f);
    }
    return kb;
}

void report(uint64_t from) {
    printf("end_rss_kb %ld\n", rss_kb());
    printf("work_s %.6f\n", double(now_ns() - from) * 1e-9);
}

void idle_and_report() {
    if (idle_s() <= 0) return;
    idle();
    printf("idle_rss_kb %ld\n", rss_kb());
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
    idle_and_report();
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
    idle_and_report();
    return sum;
}

// `bytes` in blocks, a quarter in ones of 16 bytes to 1 KB, the rest of up to 256 KB.
size_t fill(std::vector<unsigned char *> &held, size_t bytes, Random &random) {
    size_t made = 0;
    for (size_t part = 0; part < 4; part++)
        for (size_t left = bytes / 4; left >= 16;) {
            size_t size = part ? random.size(10, 17) : random.size(4, 9);
            if (size > left) size = left;
            held.push_back(make(size, 1));
            for (size_t i = 0; i < size; i += 4096) held.back()[i] = 1;
            left -= size;
            made += size;
        }
    return made;
}

// 4 GB beside 64 MB that stay; what is left of the 4 GB after they were freed.
uint64_t free_all(void (*wait)()) {
    uint64_t from = now_ns();
    Random random(83);
    std::vector<unsigned char *> stays;
    size_t live = fill(stays, size_t(64) << 20, random), sum = 0;
    live += stays.capacity() * sizeof stays[0];
    {
        std::vector<unsigned char *> held;
        fill(held, size_t(4) << 30, random);
        for (auto *p : held) {
            sum += p[0];
            free(p);
        }
        check(sum == held.size(), "free 4 GB");
    }
    report(from);
    if (idle_s() > 0) {
        wait();
        printf("idle_rss_kb %ld\nidle_lazy_kb %ld\nlive_kb %zu\n", rss_kb(), lazy_kb(), live / 1024);
    }
    for (auto *p : stays) free(p);
    return sum;
}
uint64_t with_heartbeat() { return free_all(idle); }
uint64_t in_silence() { return free_all(silence); }

} // namespace

const std::vector<Workload> phases = {{"phases", changing},
                                      {"burst", burst},
                                      {"free-4gb", with_heartbeat},
                                      {"free-4gb-silent", in_silence}};
