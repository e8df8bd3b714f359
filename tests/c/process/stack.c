/*
 * How much stack the allocator uses: each entry runs on a painted stack of its own, and what it wrote is counted.
 * Prints a line for each: the name and the bytes, those of the call and the frame that makes it included.
 *   stack first: the first allocation of the process, with whatever options the environment has
 *   stack all: every other entry, in its slow ways
 *   stack threads: the same in threads with 16 KiB of stack, or the least that the C library allows
 */
#define _GNU_SOURCE
#include <sched.h>
#include <ucontext.h>
#include "life.h"

enum { STACK_BYTES = 256 << 10, PAINT = 0xa5 };
static unsigned char *stack;
static ucontext_t here, there;
static void (*volatile work)(void);

static void run(void) { work(); }

/* The bytes of stack that `f` uses at the most, once. */
static size_t once(void (*f)(void)) {
    memset(stack, PAINT, STACK_BYTES);
    work = f;
    REQUIRE(!getcontext(&there));
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = STACK_BYTES;
    there.uc_link = &here;
    makecontext(&there, run, 0);
    REQUIRE(!swapcontext(&here, &there));
    size_t untouched = 0;
    while (untouched < STACK_BYTES && stack[untouched] == PAINT) untouched++;
    return STACK_BYTES - untouched;
}

static size_t empty_bytes;
static void nothing(void) {}

static void show(const char *name, void (*f)(void), int times) {
    size_t most = 0;
    for (int i = 0; i < times; i++) {
        size_t bytes = once(f);
        if (bytes > most) most = bytes;
    }
    char text[100];
    int length = snprintf(text, sizeof text, "%s %zu\n", name, most - empty_bytes);
    REQUIRE(write(1, text, (size_t)length) == length);
}

/* ---- entries: each does enough to go through its slow ways */

static void *volatile kept;
static void *many[4000];
static size_t turn;

/* Fills or empties a class in one go: refills, growth of slabs, new spans; then overflows, spans given back. */
static void do_malloc(void) {
    size_t size = 16 + turn++ * 331 % 32000;
    size_t count = 4000 * 64 / (64 + size / 16);
    for (size_t i = 0; i < count; i++) many[i] = malloc(size);
}
static void do_free(void) {
    for (size_t i = 0; i < 4000; i++) free(many[i]), many[i] = NULL;
}
static void do_both(void) {
    do_malloc();
    do_free();
}
static void do_calloc(void) {
    for (size_t i = 0; i < 300; i++) many[i] = calloc(1, 500 + i * 40);
    do_free();
}
static void do_realloc(void) {
    void *block = NULL;
    for (size_t size = 10; size < 30000; size += size / 2 + 1) block = realloc(block, size);
    kept = block;
    free(kept);
}
static void do_large(void) {
    for (size_t size = 300000; size < 30000000; size *= 2) {
        kept = malloc(size);
        *(volatile char *)kept = 1;
        free(kept);
    }
}
static void do_large_realloc(void) {
    char *block = malloc(300000), *wall[12] = {0};
    for (size_t size = 600000, i = 0; size < 80000000; size *= 2, i++) {
        block[0] = 1;
        /* Nothing may grow in place. */
        wall[i] = malloc(2 << 20);
        block = realloc(block, size);
    }
    block = realloc(block, 100);
    kept = block;
    free(kept);
    for (int i = 0; i < 12; i++) free(wall[i]);
}
static void do_memalign(void) {
    for (size_t align = 16; align <= 8 << 20; align *= 2) {
        kept = memalign(align, 3000);
        free(kept);
    }
}
static void do_usable(void) {
    kept = malloc(100000000);
    REQUIRE(malloc_usable_size(kept) >= 100000000);
    free(kept);
}
static void do_trim(void) {
    do_malloc();
    do_free();
    malloc_trim(0);
}
/* With CIDALLOC_DECAY_MS small, beats come in misses and drain idle slabs. */
static void do_beats(void) {
    for (int i = 0; i < 200; i++) {
        do_malloc();
        do_free();
        usleep(100);
    }
}
static void do_stats(void) { malloc_stats(); }
static void do_mallinfo(void) { mallinfo2(); }
static void do_fork(void) {
    pid_t child = fork();
    if (child == 0) _exit(3);
    REQUIRE(exit_code(child) == 3);
}
static void do_vfork(void) {
    pid_t child = vfork();
    if (child == 0) _exit(3);
    REQUIRE(exit_code(child) == 3);
}

/* Threads with the least stack there is. */
static void *in_small_thread(void *argument) {
    (void)argument;
    do_both();
    do_calloc();
    do_realloc();
    do_large();
    do_large_realloc();
    do_memalign();
    do_trim();
    do_mallinfo();
    return NULL;
}

static int small_threads(void) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    size_t least = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    REQUIRE(!pthread_attr_setstacksize(&attributes, least > 16384 ? least : 16384));
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        REQUIRE(!pthread_create(&thread, &attributes, in_small_thread, NULL));
        pthread_join(thread, NULL);
    }
    puts("ok");
    return 0;
}

int main(int argc, char **argv) {
    /* Without an allocation: the first one is measured. */
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(stack != MAP_FAILED);
    alarm(150);
    empty_bytes = once(nothing);
    if (argc > 1 && !strcmp(argv[1], "first")) {
        turn = 1;
        show("first", do_malloc, 1);
        return 0;
    }
    begin(150);
    if (argc > 1 && !strcmp(argv[1], "threads")) return small_threads();
    do_both();
    show("malloc-and-free", do_both, 200);
    show("calloc", do_calloc, 3);
    show("realloc", do_realloc, 10);
    show("large", do_large, 10);
    show("large-realloc", do_large_realloc, 3);
    show("memalign", do_memalign, 10);
    show("malloc_usable_size", do_usable, 3);
    show("beats", do_beats, 1);
    show("malloc_trim", do_trim, 20);
    show("malloc_stats", do_stats, 3);
    show("mallinfo2", do_mallinfo, 3);
    show("fork", do_fork, 3);
    show("vfork", do_vfork, 3);
    return 0;
}
