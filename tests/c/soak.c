/*
 * Everything at once, for a given time: threads that exchange blocks, signal handlers that allocate, forks and vforks
 * whose children allocate, threads that come and go, and an allocator to which the kernel refuses calls. Between two
 * phases all is still: every layer is walked, and the blocks that the allocator counts as live are those that the
 * program holds.
 *
 *   soak SECONDS SEED
 *
 * CIDALLOC_FAIL and a walk are reached by name, so that the program runs on any malloc.
 */
#define _GNU_SOURCE
#include <cidalloc.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#pragma weak cidalloc_walk
extern long cidalloc_fail(const char *how);
#pragma weak cidalloc_fail

enum { WORKERS = 16, SLOTS = 300, BOXES = 8, BOX_BLOCKS = 200, HANDLER_SLOTS = 32 };

struct block {
    unsigned char *at;
    size_t size;
    unsigned char fill;
};

/* Handlers run in the thread itself, so `handled` is the thread's own. */
struct worker {
    pthread_t thread;
    uint64_t random;
    struct block held[SLOTS];
    struct block handled[HANDLER_SLOTS];
    atomic_long handlers;
};

static struct worker workers[WORKERS];
static struct {
    pthread_mutex_t lock;
    int count;
    struct block blocks[BOX_BLOCKS];
} boxes[BOXES];

static __thread struct worker *self;
static pthread_barrier_t begin, end;
static atomic_int stop, over;
static int memory_may_fail, in_child;
static atomic_long operations, failed_allocations, forks, signals;

static void fail(const char *what) {
    char line[200];
    int length = snprintf(line, sizeof line, "soak: %s\n", what);
    if (write(2, line, (size_t)length) < 0) _exit(2);
    abort();
}

static uint64_t next(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random * 0x2545f4914f6cdd1dull;
}

/* Mostly up to 1 KiB, now and then up to 64 KiB, seldom up to 4 MiB. */
static size_t some_size(uint64_t *random) {
    unsigned kind = next(random) % 1000;
    unsigned bits = kind == 0 ? 22 : kind < 10 ? 16 : kind < 100 ? 13 : 10;
    return 1 + next(random) % ((size_t)1 << (3 + next(random) % (bits - 2)));
}

static void paint(struct block *b) {
    size_t step = b->size > 65536 ? 4093 : b->size > 64 ? 61 : 1;
    for (size_t i = 0; i < b->size; i += step) b->at[i] = b->fill;
    b->at[b->size - 1] = b->fill;
}

static void check(const struct block *b, size_t size) {
    size_t step = b->size > 65536 ? 4093 : b->size > 64 ? 61 : 1;
    for (size_t i = 0; i < size; i += step)
        if (b->at[i] != b->fill) fail("a block does not hold what was written to it");
}

static void release(struct block *b) {
    if (!b->at) return;
    check(b, b->size);
    free(b->at);
    b->at = NULL;
}

static void obtain(struct block *b, uint64_t *random) {
    size_t size = some_size(random);
    unsigned way = next(random) % 8;
    unsigned char *at;
    if (way == 0) {
        at = calloc(1, size);
        for (size_t i = 0; at && i < size; i += size > 4096 ? 511 : 1)
            if (at[i]) fail("calloc returned memory that is not zero");
    } else if (way == 1) {
        size_t align = (size_t)16 << next(random) % 10;
        at = memalign(align, size);
        if ((uintptr_t)at & (align - 1)) fail("memalign returned a block that is not aligned");
    } else {
        at = malloc(size);
    }
    if (!at) {
        if (!memory_may_fail) fail("no memory");
        if (errno != ENOMEM) fail("a failed allocation did not set ENOMEM");
        atomic_fetch_add(&failed_allocations, 1);
        return;
    }
    *b = (struct block){at, size, (unsigned char)next(random)};
    paint(b);
}

static void resize(struct block *b, uint64_t *random) {
    size_t size = next(random) % 4 ? some_size(random) : b->size + b->size / 2;
    check(b, b->size);
    unsigned char *at = realloc(b->at, size);
    if (!at) {
        if (!memory_may_fail) fail("no memory to resize");
        check(b, b->size);
        return;
    }
    b->at = at;
    check(b, size < b->size ? size : b->size);
    b->size = size;
    paint(b);
}

static void exchange(struct block *b, uint64_t *random) {
    int i = (int)(next(random) % BOXES);
    pthread_mutex_lock(&boxes[i].lock);
    if (b->at && boxes[i].count < BOX_BLOCKS) {
        boxes[i].blocks[boxes[i].count++] = *b;
        b->at = NULL;
    } else if (!b->at && boxes[i].count > 0) {
        *b = boxes[i].blocks[--boxes[i].count];
    }
    pthread_mutex_unlock(&boxes[i].lock);
}

static void one_operation(struct worker *w) {
    struct block *b = &w->held[next(&w->random) % SLOTS];
    unsigned what = next(&w->random) % 16;
    if (what == 0 && !in_child)
        exchange(b, &w->random);
    else if (!b->at)
        obtain(b, &w->random);
    else if (what < 3)
        resize(b, &w->random);
    else
        release(b);
    if (what == 15 && next(&w->random) % 2000 == 0) malloc_trim(0);
    atomic_fetch_add_explicit(&operations, 1, memory_order_relaxed);
}

static void on_signal(int signal) {
    (void)signal;
    int error = errno;
    struct worker *w = self;
    if (w) {
        uint64_t random = w->random ^ ((uint64_t)atomic_fetch_add(&w->handlers, 1) << 20 | 1);
        for (int i = 0; i < 3; i++) {
            struct block *b = &w->handled[next(&random) % HANDLER_SLOTS];
            if (b->at)
                release(b);
            else
                obtain(b, &random);
        }
        atomic_fetch_add(&signals, 1);
    }
    errno = error;
}

static void *work(void *argument) {
    self = argument;
    for (;;) {
        pthread_barrier_wait(&begin);
        if (over) return NULL;
        while (!stop) one_operation(self);
        pthread_barrier_wait(&end);
    }
}

static void pause_us(long us) {
    struct timespec time = {0, us * 1000};
    nanosleep(&time, NULL);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static size_t faults(struct cidalloc_census *census) { return cidalloc_walk ? cidalloc_walk(census) : 0; }

static void wait_for(pid_t child, const char *whose) {
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) fail("waitpid");
    if (status != 0) {
        fprintf(stderr, "soak: status %#x\n", status);
        fail(whose);
    }
}

/* Works on its own: a box may have been locked by a thread that the child does not have. */
static void child_work(int depth, uint64_t seed) {
    static struct worker mine;
    in_child = 1;
    mine.random = seed | 1;
    for (int i = 0; i < 2000; i++) one_operation(&mine);
    if (depth > 0) {
        pid_t grandchild = fork();
        if (grandchild == 0) child_work(depth - 1, seed * 3);
        if (grandchild > 0) wait_for(grandchild, "a grandchild failed");
    }
    for (int i = 0; i < SLOTS; i++) release(&mine.held[i]);
    if (faults(NULL)) fail("a child's heap is not consistent");
    _exit(0);
}

/* Shares the parent's memory: what it allocates it must free. */
static void borrowed_work(void) {
    void *blocks[200];
    for (int i = 0; i < 200; i++) blocks[i] = malloc((size_t)(i * i % 3000));
    for (int i = 0; i < 200; i++) free(blocks[i]);
    _exit(0);
}

static void *short_life(void *argument) {
    struct block blocks[20] = {{0}};
    uint64_t random = (uint64_t)(uintptr_t)argument | 1;
    for (int i = 0; i < 100; i++) {
        struct block *b = &blocks[next(&random) % 20];
        b->at ? release(b) : obtain(b, &random);
    }
    for (int i = 0; i < 20; i++) release(&blocks[i]);
    return NULL;
}

/* What the main thread does beside the workers, until the phase is over. */
static void nothing(uint64_t *random) {
    (void)random;
    pause_us(1000);
}

static void send_signals(uint64_t *random) {
    for (int i = 0; i < 8; i++) pthread_kill(workers[next(random) % WORKERS].thread, SIGUSR1);
    pause_us(100);
}

static void make_children(uint64_t *random) {
    pid_t child = fork();
    if (child == 0) child_work(1, next(random));
    if (child < 0) fail("fork");
    pid_t borrowing = vfork();
    if (borrowing == 0) borrowed_work();
    if (borrowing < 0) fail("vfork");
    atomic_fetch_add(&forks, 1);
    wait_for(borrowing, "a child of vfork failed");
    wait_for(child, "a child of fork failed");
    send_signals(random);
}

static void come_and_go(uint64_t *random) {
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        if (pthread_create(&threads[i], NULL, short_life, (void *)(uintptr_t)next(random))) fail("pthread_create");
    send_signals(random);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
}

/* Refuses calls for a while, one way after another, and asks for more memory than the heap has lying about. */
static void refuse(uint64_t *random) {
    static const char *const ways[] = {"from:1", "rate:2", "rate:10,mmap", "rate:3,madvise", "rate:5,mremap,mprotect",
                                       "from:1,membarrier"};
    static unsigned turn;
    if (!cidalloc_fail) return nothing(random);
    void *large[64];
    memory_may_fail = 1;
    cidalloc_fail(ways[turn++ % (sizeof ways / sizeof *ways)]);
    for (int i = 0; i < 64; i++) {
        large[i] = malloc((size_t)48 << 20);
        if (!large[i]) atomic_fetch_add(&failed_allocations, 1);
    }
    pause_us(5000);
    for (int i = 0; i < 64; i++) free(large[i]);
    cidalloc_fail("off");
    pause_us(2000);
}

static const struct phase {
    const char *name;
    void (*beside)(uint64_t *random);
    /* Threads that end leave blocks of the C library's behind: it keeps their stacks. */
    int leaves_blocks;
} phases[] = {
    {"threads", nothing, 0},          {"signals", send_signals, 0}, {"children", make_children, 0},
    {"short threads", come_and_go, 1}, {"refusals", refuse, 0},
};
enum { PHASES = sizeof phases / sizeof *phases };

static long held_blocks(void) {
    long held = 0;
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < SLOTS; i++) held += workers[w].held[i].at != NULL;
        for (int i = 0; i < HANDLER_SLOTS; i++) held += workers[w].handled[i].at != NULL;
    }
    for (int i = 0; i < BOXES; i++) held += boxes[i].count;
    return held;
}

static long others;

static void walk(const struct phase *phase) {
    struct cidalloc_census census;
    if (faults(&census)) fail("the heap is not consistent");
    if (!cidalloc_walk) return;
    /* A checked heap keeps freed blocks for a while. */
    if (getenv("CIDALLOC_CHECK")) return;
    long live = (long)(census.large_blocks + census.aside_blocks);
    for (size_t i = 0; i < sizeof census.classes / sizeof *census.classes; i++) live += (long)census.classes[i].live;
    long more = live - held_blocks() - others;
    if (phase->leaves_blocks && more > -1000 && more < 1000)
        others += more;
    else if (more != 0) {
        fprintf(stderr, "soak: after %s: %ld live, %ld held, %ld others\n", phase->name, live, held_blocks(), others);
        fail(more > 0 ? "blocks were lost" : "blocks were handed out twice");
    }
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    uint64_t random = (argc > 2 ? strtoull(argv[2], NULL, 10) : 1) * 0x9e3779b97f4a7c15ull | 1;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 4096);
    pthread_barrier_init(&begin, NULL, WORKERS + 1);
    pthread_barrier_init(&end, NULL, WORKERS + 1);
    for (int i = 0; i < BOXES; i++) pthread_mutex_init(&boxes[i].lock, NULL);
    for (int i = 0; i < WORKERS; i++) {
        workers[i].random = next(&random) | 1;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) fail("pthread_create");
    }
    printf("soak: %s\n", cidalloc_walk ? "walks between phases" : "no walk in this malloc");
    /* Blocks of the C library: counted when all threads are there. */
    struct phase first = {"start", nothing, 1};
    walk(&first);
    double finish = now() + seconds;
    for (int round = 0; round == 0 || now() < finish; round++) {
        for (int p = 0; p < PHASES; p++) {
            double until = now() + (seconds < 20 ? seconds / PHASES : 2);
            stop = 0;
            memory_may_fail = phases[p].beside == refuse;
            pthread_barrier_wait(&begin);
            for (int i = 0; i < 3 || now() < until; i++) phases[p].beside(&random);
            stop = 1;
            pthread_barrier_wait(&end);
            /* Signals on their way arrive. */
            pause_us(20000);
            walk(&phases[p]);
        }
    }
    over = 1;
    pthread_barrier_wait(&begin);
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i].thread, NULL);
    for (int w = 0; w < WORKERS; w++) {
        for (int i = 0; i < SLOTS; i++) release(&workers[w].held[i]);
        for (int i = 0; i < HANDLER_SLOTS; i++) release(&workers[w].handled[i]);
    }
    for (int i = 0; i < BOXES; i++)
        while (boxes[i].count) release(&boxes[i].blocks[--boxes[i].count]);
    if (faults(NULL)) fail("the heap is not consistent at the end");
    printf("soak: ok, %ld operations, %ld in vain, %ld forks, %ld handlers\n", operations, failed_allocations, forks,
           signals);
    if (forks < 2 || signals < 20 || operations < 1000) fail("too little happened");
    if (cidalloc_fail && failed_allocations == 0) fail("no allocation failed");
    return 0;
}
