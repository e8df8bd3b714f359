/*
 * Uses the allocator in every way while its system calls are refused, as CIDALLOC_FAIL says:
 * refusals [limited] [locked] [HOW]...
 *
 * Every operation either does what it promises or fails with ENOMEM and changes nothing. After the first round nothing
 * is refused any more: the blocks have their contents, the layers agree, and a second round has all its memory.
 * Then the same for each HOW, put in force at run time (half-way, busy: see there). Prints how many calls were refused in the
 * first round, and how many operations failed in it.
 *
 * limited: memory is short in all rounds, and there must be some when all is freed. locked: all memory is locked.
 *
 * Exit status: 0, or 1 after a line on stderr that says what went wrong. SIGALRM: it hung.
 */
#define _GNU_SOURCE
#include <cidalloc.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCKS = 700, THREADS = 3, OF_A_THREAD = 60, KIB = 1 << 10, MIB = 1 << 20 };

extern long cidalloc_fail(const char *how);

struct block {
    unsigned char *at;
    size_t size;
    unsigned char tag;
};
static struct block blocks[BLOCKS];
static struct block of_threads[THREADS][OF_A_THREAD];
static const char *refusing = "in the environment";
/* Nothing is refused: everything must be had, unless memory is limited. */
static int must, limited;
static unsigned failed;

#define REQUIRE(fact, ...)                                                                                             \
    do {                                                                                                               \
        if (!(fact)) {                                                                                                 \
            fprintf(stderr, "refusals (%s, %s): line %d: %s: ", refusing, must ? "off again" : "on", __LINE__, #fact); \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static void *hide(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

/* Of a large block every 1021st byte stands for the rest. */
static size_t step(size_t size) { return size > 64 * KIB ? 1021 : 1; }

static void fill(struct block *block) {
    for (size_t i = 0; i < block->size; i += step(block->size)) block->at[i] = (unsigned char)(block->tag + i);
    if (block->size) block->at[block->size - 1] = block->tag;
}

/* The first `size` bytes as they were filled when the block had its recorded size. */
static int intact(const struct block *block, const unsigned char *at, size_t size) {
    for (size_t i = 0; i < size; i += step(block->size)) {
        int last = i == block->size - 1;
        if (at[i] != (last ? block->tag : (unsigned char)(block->tag + i))) return 0;
    }
    return size < block->size || size == 0 || at[size - 1] == block->tag;
}

/* Notes a result: the block, or a failure that is allowed and said as it should be. */
static void *result(void *pointer, int error, size_t size) {
    if (!pointer) {
        REQUIRE(!must, "%zu bytes", size);
        REQUIRE(error == ENOMEM, "errno %d for %zu bytes", error, size);
        __atomic_fetch_add(&failed, 1, __ATOMIC_RELAXED);
    }
    return pointer;
}

static void keep(struct block *block, void *pointer, size_t size) {
    static unsigned tags;
    *block = (struct block){pointer, pointer ? size : 0, (unsigned char)__atomic_add_fetch(&tags, 1, __ATOMIC_RELAXED)};
    if (!pointer) return;
    REQUIRE(malloc_usable_size(pointer) >= size, "%zu bytes", size);
    fill(block);
}

static void allocate(struct block *block, size_t size) {
    errno = 0;
    void *pointer = hide(malloc(size));
    keep(block, result(pointer, errno, size), size);
}

static void allocate_zeroed(struct block *block, size_t size) {
    errno = 0;
    unsigned char *pointer = hide(calloc(1, size));
    if (result(pointer, errno, size))
        for (size_t i = 0; i < size; i++) REQUIRE(pointer[i] == 0, "byte %zu of %zu", i, size);
    keep(block, pointer, size);
}

static void allocate_aligned(struct block *block, size_t size, size_t align) {
    void *pointer = NULL;
    int error = posix_memalign(&pointer, align, size);
    result(pointer, error, size);
    REQUIRE((uintptr_t)pointer % align == 0, "%p at %zu", pointer, align);
    keep(block, pointer, size);
}

static void check(const struct block *block) {
    REQUIRE(intact(block, block->at, block->size), "%zu bytes at %p", block->size, (void *)block->at);
}

static void release(struct block *block) {
    check(block);
    errno = 77;
    free(block->at);
    REQUIRE(errno == 77, "errno %d", errno);
    block->at = NULL;
    block->size = 0;
}

static void resize(struct block *block, size_t size) {
    if (!block->at) return;
    errno = 0;
    void *pointer = hide(realloc(block->at, size));
    if (!result(pointer, errno, size)) {
        check(block);
        return;
    }
    size_t kept = size < block->size ? size : block->size;
    REQUIRE(intact(block, pointer, kept), "%zu bytes to %zu", block->size, size);
    keep(block, pointer, size);
}

static void check_all(void) {
    for (int i = 0; i < BLOCKS; i++) check(&blocks[i]);
}

static void walk(void) {
    REQUIRE(cidalloc_walk(NULL) == 0, "the layers disagree");
}

static void *work(void *argument) {
    struct block *mine = argument;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < OF_A_THREAD; i++) {
            if (mine[i].at) release(&mine[i]);
            allocate(&mine[i], (size_t)(i * 37 % 3000 + 1));
        }
    }
    return NULL;
}

static void with_threads(void) {
    pthread_t threads[THREADS];
    int started[THREADS];
    for (int i = 0; i < THREADS; i++) started[i] = pthread_create(&threads[i], NULL, work, of_threads[i]) == 0;
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(started[i] || !must, "thread %d", i);
        if (started[i]) pthread_join(threads[i], NULL);
    }
    /* Another thread frees them. */
    for (int i = 0; i < THREADS; i++)
        for (int j = 0; j < OF_A_THREAD; j++) release(&of_threads[i][j]);
}

static void with_a_child(void) {
    pid_t child = fork();
    REQUIRE(child >= 0 || limited, "errno %d", errno);
    if (child < 0) return;
    if (child == 0) {
        alarm(10);
        check_all();
        struct block more[40] = {{0}};
        for (int i = 0; i < 40; i++) allocate(&more[i], (size_t)i * i * 50 + 1);
        for (int i = 0; i < 40; i++) release(&more[i]);
        for (int i = 0; i < BLOCKS; i += 3) release(&blocks[i]);
        cidalloc_fail("off");
        must = !limited;
        for (int i = 0; i < BLOCKS; i += 3) allocate(&blocks[i], (size_t)i + 1);
        check_all();
        walk();
        _exit(0);
    }
    int status;
    while (waitpid(child, &status, 0) != child) REQUIRE(errno == EINTR, "errno %d", errno);
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", status);
}

static void one_round(void) {
    struct block *next = blocks;
    for (int i = 0; i < 400; i++) allocate(next++, (size_t)(i % 20 + 1) * (size_t)(i % 7 + 1) * 13);
    for (int i = 0; i < 400; i += 2) release(&blocks[i]);
    for (int i = 0; i < 400; i += 4) allocate_zeroed(&blocks[i], (size_t)i * 11 + 1);
    for (int i = 0; i < 20; i++) allocate(next++, (size_t)(i + 1) * 30 * KIB);
    for (int i = 400; i < 420; i += 2) release(&blocks[i]);
    for (size_t align = 32; align <= 4 * MIB; align *= 8) allocate_aligned(next++, align == 32 ? 5000 : 700 * KIB, align);
    allocate_zeroed(next++, 400 * KIB);
    struct block *grown = next++, *moved = next++, *small = next++;
    allocate(grown, 100);
    for (size_t size = 170; size < 600 * KIB; size = size * 7 / 4) resize(grown, size);
    resize(grown, 300);
    /* What lies behind a block makes it move. */
    allocate(moved, 3 * MIB);
    for (size_t size = 4 * MIB + 100 * KIB; size < 11 * MIB; size += 2 * MIB) {
        allocate(next++, 2 * MIB + 50 * KIB);
        resize(moved, size);
    }
    resize(moved, 3 * MIB - 9);
    allocate(small, 40);
    for (size_t size = 50; size < 3000; size += 300) resize(small, size);
    with_threads();
    with_a_child();
    check_all();
    malloc_trim(0);
    allocate_zeroed(next++, 5 * MIB);
    for (int i = 1; i < 400; i += 2) release(&blocks[i]);
    malloc_trim(0);
    for (int i = 1; i < 400; i += 2) allocate_zeroed(&blocks[i], (size_t)i * 3);
    release(moved);
    allocate_zeroed(moved, 3 * MIB);
    check_all();
    REQUIRE(next <= blocks + BLOCKS, "too few blocks");
    for (int i = 0; i < BLOCKS; i++)
        if (i % 5 || must) release(&blocks[i]);
}

/* A round with refusals, and one without that also frees what the first has left. */
static long two_rounds(void) {
    must = 0;
    one_round();
    long refused = cidalloc_fail("off");
    REQUIRE(refused >= 0, "%ld", refused);
    must = !limited;
    check_all();
    walk();
    for (int i = 0; i < BLOCKS; i++) release(&blocks[i]);
    one_round();
    walk();
    for (int i = 0; i < BLOCKS; i++) release(&blocks[i]);
    must = 1;
    for (int i = 0; i < BLOCKS; i++) allocate(&blocks[i], (size_t)i * 2 + 1);
    for (int i = 0; i < BLOCKS; i++) release(&blocks[i]);
    malloc_trim(0);
    walk();
    return refused;
}

/*
 * A block of whole hugepages moves to a place that is mapped already, and from the nth call on everything is refused:
 * the move is undone half way, as the kernel may have unmapped the place of the next hugepage.
 */
static void move_half_way(void) {
    must = 1;
    for (int n = 1; n <= 8; n++) {
        struct block moved, behind, room;
        char how[64];
        /* The last round's blocks would be reused where they are. */
        malloc_trim(0);
        allocate(&room, 40 * MIB);
        allocate(&moved, 9 * MIB);
        allocate(&behind, 3 * MIB);
        release(&room);
        snprintf(how, sizeof how, "from:%d,mremap,madvise,mmap", n);
        refusing = how;
        cidalloc_fail(how);
        must = 0;
        resize(&moved, 11 * MIB);
        must = 1;
        long refused = cidalloc_fail("off");
        REQUIRE(n > 3 || refused > 0, "nothing was refused");
        check(&behind);
        walk();
        release(&moved);
        release(&behind);
        walk();
    }
}

static int busy_until_told = 1;

static void *churn(void *argument) {
    struct block *mine = argument;
    uint64_t seed = (uintptr_t)argument;
    while (__atomic_load_n(&busy_until_told, __ATOMIC_RELAXED)) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        struct block *block = &mine[(seed >> 40) % OF_A_THREAD];
        size_t size = (seed >> 33) % 64 ? (seed >> 50) % 3000 : (seed >> 42) % (3 * MIB);
        if (!block->at) {
            if (seed >> 62) allocate(block, size + 1);
            else allocate_zeroed(block, size + 1);
        } else if (seed >> 62 == 3) resize(block, size + 1);
        else release(block);
    }
    for (int i = 0; i < OF_A_THREAD; i++) release(&mine[i]);
    return NULL;
}

/* Refusals come and go while threads work; between them the layers are walked. */
static void while_busy(void) {
    static const char *const ways[] = {"from:1", "rate:2", "rate:5,mmap", "from:1,membarrier", "from:3,madvise,mremap",
                                       "rate:3:7,mprotect,mmap", "from:1,mprotect"};
    pthread_t threads[THREADS];
    must = 0;
    limited = 1; /* Main's own forks and children find memory refused, too. */
    for (int i = 0; i < THREADS; i++) REQUIRE(!pthread_create(&threads[i], NULL, churn, of_threads[i]), "thread %d", i);
    for (int i = 0; i < 28; i++) {
        refusing = ways[i % 7];
        cidalloc_fail(refusing);
        usleep(15000);
        /* More than there ever was, untouched. */
        size_t size = (size_t)(i + 1) * 64 * MIB;
        errno = 0;
        void *huge = hide(malloc(size));
        free(result(huge, errno, size));
        malloc_trim(0);
        if (i % 4 == 1) with_a_child();
        cidalloc_fail("off");
        usleep(1000);
        walk();
    }
    __atomic_store_n(&busy_until_told, 0, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    walk();
    limited = 0;
    REQUIRE(failed > 0, "nothing failed");
}

int main(int argc, char **argv) {
    alarm(30);
    for (; argc > 1; argc--, argv++) {
        if (strcmp(argv[1], "limited") == 0) {
            limited = 1;
        } else if (strcmp(argv[1], "locked") == 0) {
            /* What there is already may be more than the limit. */
            int error = mlockall(MCL_CURRENT | MCL_FUTURE);
            if (error) error = mlockall(MCL_FUTURE);
            REQUIRE(error == 0, "errno %d", errno);
        } else break;
    }
    long refused = two_rounds();
    unsigned failures = failed;
    for (int i = 1; i < argc; i++) {
        refusing = argv[i];
        if (strcmp(refusing, "half-way") == 0) {
            move_half_way();
            continue;
        }
        if (strcmp(refusing, "busy") == 0) {
            while_busy();
            continue;
        }
        REQUIRE(cidalloc_fail(refusing) == 0, "nothing was refused in between");
        long more = two_rounds();
        REQUIRE(more > 0, "nothing was refused");
    }
    char text[80];
    int length = snprintf(text, sizeof text, "%ld refused, %u failed\n", refused, failures);
    return write(1, text, (size_t)length) == length ? 0 : 1;
}
