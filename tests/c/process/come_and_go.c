/*
 * come_and_go THREADS: so many threads, a few at a time, each of which allocates, frees, and leaves a block for
 * another thread to free. Prints the live bytes that are more than after the first hundred, and VmHWM in KiB.
 */
#define _GNU_SOURCE
#include "life.h"

enum { AT_ONCE = 4 };
static struct block *passed[64];
static unsigned long seeds[64];

static void *body(void *argument) {
    unsigned long n = (unsigned long)argument;
    struct block *own = block_new(40 + n % 500, n), *large = n % 16 ? NULL : block_new(70000, n);
    int slot = (int)(n % 64);
    /* Threads that run side by side have different slots. */
    if (passed[slot]) block_free(passed[slot], seeds[slot]);
    seeds[slot] = n;
    passed[slot] = block_new(100, n);
    block_free(own, n);
    if (large) block_free(large, n);
    return NULL;
}

static void wave(unsigned long from, unsigned long to) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_t threads[AT_ONCE];
    for (unsigned long n = from; n < to; n += AT_ONCE) {
        for (unsigned long i = 0; i < AT_ONCE; i++)
            REQUIRE(!pthread_create(&threads[i], &attributes, body, (void *)(n + i)));
        for (int i = 0; i < AT_ONCE; i++) pthread_join(threads[i], NULL);
    }
    pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv) {
    begin(150);
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    wave(0, 128);
    size_t before = live_bytes();
    wave(128, 128 + count / AT_ONCE * AT_ONCE);
    printf("%zd ", (ssize_t)(live_bytes() - before));
    char text[4096];
    FILE *file = fopen("/proc/self/status", "r");
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    printf("%ld\n", strtol(strstr(text, "VmHWM:") + 6, NULL, 10));
    return 0;
}
