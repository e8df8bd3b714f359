/* Rules of alignment: what every block may rely on, and the functions that are told an alignment. */
#define _GNU_SOURCE
#include "rule.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define LARGEST_ALIGNMENT (64 * MIB)

static const size_t sizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 24, 100, 128, 129, 1000, 1024, 4095, 4096, 4097, 30000,
                               262143, 262144, 262145, MIB, 3 * MIB + 5};
enum { SIZES = sizeof sizes / sizeof *sizes };

static int aligned(const void *pointer, size_t alignment) { return ((uintptr_t)pointer & (alignment - 1)) == 0; }

/* What the header promises; the standards ask for no more than this. */
static size_t promised(size_t size) { return size <= 8 ? 8 : 16; }

/* Writes the whole block and takes a look at its ends. */
static int writable(void *block, size_t size) {
    unsigned char *bytes = hide(block);
    memset(bytes, 0x5a, size);
    return size == 0 || (bytes[0] == 0x5a && bytes[size - 1] == 0x5a);
}

static void every_size_is_aligned(void) {
    for (size_t size = 0; size <= 300000; size++) {
        note("size %zu", size);
        void *block = hide(malloc(size));
        if (!CHECK(block != NULL)) return;
        CHECK(aligned(block, promised(size)));
        free(block);
    }
    for (size_t power = 1 << 18; power <= 64 * MIB; power *= 2)
        for (size_t size = power - 1; size <= power + 1; size++) {
            note("size %zu", size);
            void *block = hide(malloc(size));
            if (!CHECK(block != NULL)) return;
            CHECK(aligned(block, 16));
            free(block);
        }
}

/* Blocks held at the same time come from places that a lone block never sees. */
static void held_blocks_are_aligned(void) {
    enum { HELD = 500 };
    static void *held[HELD];
    for (size_t size = 1; size <= 40000; size += size < 256 ? 1 : size / 7) {
        note("size %zu", size);
        for (int i = 0; i < HELD; i++) {
            held[i] = hide(i % 2 ? malloc(size) : calloc(1, size));
            if (!CHECK(held[i] != NULL)) return;
            CHECK(aligned(held[i], promised(size)));
        }
        for (int i = 0; i < HELD; i++) free(held[i]);
    }
}

static void calloc_and_realloc_are_aligned(void) {
    void *moving = NULL;
    for (size_t size = 1; size <= 8 * MIB; size += 1 + size / 5) {
        note("size %zu", size);
        void *cleared = hide(calloc(size, 1));
        moving = hide(realloc(moving, size));
        if (!CHECK(cleared != NULL) || !CHECK(moving != NULL)) return;
        CHECK(aligned(cleared, promised(size)));
        CHECK(aligned(moving, promised(size)));
        free(cleared);
    }
    free(moving);
}

typedef void *allocate_aligned(size_t alignment, size_t size);

static void *by_posix_memalign(size_t alignment, size_t size) {
    void *block = NULL;
    return posix_memalign(&block, alignment, size) == 0 ? block : NULL;
}

static void every_alignment(allocate_aligned *allocate, size_t least) {
    for (size_t alignment = least; alignment <= LARGEST_ALIGNMENT; alignment *= 2)
        for (int i = 0; i < SIZES; i++) {
            /* Several at once: the first of a fresh area is aligned by chance. */
            void *blocks[3];
            int held = alignment >= MIB ? 2 : 3;
            note("alignment %zu, size %zu", alignment, sizes[i]);
            for (int j = 0; j < held; j++) {
                blocks[j] = hide(allocate(alignment, sizes[i]));
                if (!CHECK(blocks[j] != NULL)) return;
                CHECK(aligned(blocks[j], alignment));
                CHECK(malloc_usable_size(blocks[j]) >= sizes[i]);
                CHECK(writable(blocks[j], sizes[i]));
            }
            for (int j = 0; j < held; j++)
                for (int k = 0; k < j; k++) CHECK(blocks[j] != blocks[k]);
            for (int j = 0; j < held; j++) free(blocks[j]);
        }
}

static void aligned_alloc_aligns(void) { every_alignment(aligned_alloc, 1); }
static void memalign_aligns(void) { every_alignment(memalign, 1); }
static void posix_memalign_aligns(void) { every_alignment(by_posix_memalign, sizeof(void *)); }

/* Thousands of tiny blocks of a page's alignment and more must not need their alignment's worth of memory each to be
 * told apart. */
static void small_blocks_of_big_alignment(void) {
    enum { HELD = 200 };
    static unsigned char *held[HELD];
    static const size_t alignments[] = {32, 64, 256, 4096, 8192, 16384, 65536, MIB};
    for (size_t a = 0; a < sizeof alignments / sizeof *alignments; a++) {
        note("alignment %zu", alignments[a]);
        for (int i = 0; i < HELD; i++) {
            size_t size = 1 + i % 40;
            held[i] = hide(aligned_alloc(alignments[a], size));
            if (!CHECK(held[i] != NULL)) return;
            CHECK(aligned(held[i], alignments[a]));
            memset(held[i], i, size);
        }
        for (int i = 0; i < HELD; i++) {
            size_t size = 1 + i % 40;
            for (size_t j = 0; j < size; j++) CHECK(held[i][j] == (unsigned char)i);
        }
        for (int i = 0; i < HELD; i++) free(held[i]);
    }
}

static void aligned_alloc_refuses(void) {
    static const size_t bad[] = {0, 3, 6, 12, 24, 48, 100, 4095, 4097, SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 2 + 2};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        note("alignment %zu", bad[i]);
        errno = 0;
        void *block = hide(aligned_alloc(bad[i], 96));
        CHECK(block == NULL);
        CHECK(errno == EINVAL);
        free(block);
    }
}

static void posix_memalign_refuses(void) {
    static const size_t bad[] = {0,  1,  2,    4,    3,        5,           9,
                                 12, 24, 4095, 4097, SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 2 + 2};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int here;
        void *block = &here;
        note("alignment %zu", bad[i]);
        errno = E2BIG;
        CHECK(posix_memalign(&block, bad[i], 96) == EINVAL);
        CHECK(errno == E2BIG);
        CHECK(block == (void *)&here);
    }
}

static void posix_memalign_without_memory(void) {
    static const size_t alignments[] = {8, 16, 64, 4096, 65536, 64 * MIB, SIZE_MAX / 2 + 1};
    static const size_t too_large[] = {SIZE_MAX, SIZE_MAX - 4096, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX,
                                       (size_t)PTRDIFF_MAX - 4096};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++)
        for (size_t j = 0; j < sizeof too_large / sizeof *too_large; j++) {
            int here;
            void *block = &here;
            note("alignment %zu, size %zu", alignments[i], too_large[j]);
            CHECK(posix_memalign(&block, alignments[i], too_large[j]) == ENOMEM);
            CHECK(block == (void *)&here);
        }
}

static void posix_memalign_leaves_errno(void) {
    void *block = NULL;
    errno = E2BIG;
    CHECK(posix_memalign(&block, 64, SIZE_MAX - 100) == ENOMEM);
    CHECK(errno == E2BIG);
    CHECK(posix_memalign(&block, 64, 100) == 0);
    CHECK(errno == E2BIG);
    free(block);
}

static void huge_sizes_of_aligned(void) {
    static const size_t alignments[] = {1, 8, 16, 64, 4096, 65536, 64 * MIB};
    static const size_t too_large[] = {SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX - 64 * MIB, (size_t)PTRDIFF_MAX + 1,
                                       PTRDIFF_MAX, (size_t)PTRDIFF_MAX - 4096};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++)
        for (size_t j = 0; j < sizeof too_large / sizeof *too_large; j++) {
            note("alignment %zu, size %zu", alignments[i], too_large[j]);
            errno = 0;
            CHECK(hide(aligned_alloc(alignments[i], too_large[j])) == NULL);
            CHECK(errno == ENOMEM);
            errno = 0;
            CHECK(hide(memalign(alignments[i], too_large[j])) == NULL);
            CHECK(errno == ENOMEM);
        }
}

/* The largest power of two is an alignment like any other, and no address but 0 has it. */
static void largest_alignment(void) {
    errno = 0;
    CHECK(hide(aligned_alloc(SIZE_MAX / 2 + 1, 1)) == NULL);
    CHECK(errno == ENOMEM || errno == EINVAL);
    errno = 0;
    CHECK(hide(memalign(SIZE_MAX / 2 + 1, 1)) == NULL);
    CHECK(errno == ENOMEM || errno == EINVAL);
}

static void memalign_rounds_up(void) {
    static const struct {
        size_t asked, given;
    } cases[] = {{0, 8}, {1, 8}, {3, 8}, {5, 8}, {17, 32}, {24, 32}, {33, 64}, {100, 128}, {4095, 4096}, {4097, 8192},
                 {100000, 131072}, {MIB - 1, MIB}, {MIB + 1, 2 * MIB}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int j = 0; j < 5; j++) {
            note("alignment %zu", cases[i].asked);
            void *block = hide(memalign(cases[i].asked, 40));
            if (!CHECK(block != NULL)) return;
            CHECK(aligned(block, cases[i].given));
            CHECK(writable(block, 40));
            /* Not freed at once, so that the next is another. */
            void *other = hide(memalign(cases[i].asked, 40));
            CHECK(other != NULL && other != block && aligned(other, cases[i].given));
            free(block);
            free(other);
        }
}

static void memalign_refuses(void) {
    errno = 0;
    CHECK(hide(memalign(SIZE_MAX / 2 + 2, 40)) == NULL);
    CHECK(errno == EINVAL);
    errno = 0;
    CHECK(hide(memalign(SIZE_MAX, 40)) == NULL);
    CHECK(errno == EINVAL);
}

static void valloc_gives_pages(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < SIZES; i++) {
        note("size %zu", sizes[i]);
        void *block = hide(valloc(sizes[i]));
        if (!CHECK(block != NULL)) return;
        CHECK(aligned(block, page));
        CHECK(writable(block, sizes[i]));
        free(block);
    }
    errno = 0;
    CHECK(hide(valloc(SIZE_MAX - 100)) == NULL);
    CHECK(errno == ENOMEM);
}

static void pvalloc_gives_whole_pages(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < SIZES; i++) {
        note("size %zu", sizes[i]);
        void *block = hide(pvalloc(sizes[i]));
        size_t rounded = (sizes[i] + page - 1) / page * page;
        if (!CHECK(block != NULL)) return;
        CHECK(aligned(block, page));
        CHECK(malloc_usable_size(block) >= rounded);
        CHECK(writable(block, rounded));
        free(block);
    }
    static const size_t too_large[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 4094, SIZE_MAX - 4095, SIZE_MAX - 4096,
                                       (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX};
    for (size_t i = 0; i < sizeof too_large / sizeof *too_large; i++) {
        note("size %zu", too_large[i]);
        errno = 0;
        CHECK(hide(pvalloc(too_large[i])) == NULL);
        CHECK(errno == ENOMEM);
    }
}

static void realloc_takes_aligned_blocks(void) {
    for (size_t alignment = 8; alignment <= 4 * MIB; alignment *= 4)
        for (int i = 0; i < SIZES; i++) {
            size_t old = sizes[i], kept = old < 100 ? old : 100;
            note("alignment %zu, size %zu", alignment, old);
            unsigned char *block = hide(memalign(alignment, old));
            if (!CHECK(block != NULL)) return;
            memset(block, 0x6b, old);
            block = hide(realloc(block, old * 2 + 100));
            if (!CHECK(block != NULL)) return;
            for (size_t j = 0; j < old; j++)
                if (!CHECK(block[j] == 0x6b)) break;
            block = hide(realloc(block, 100));
            if (!CHECK(block != NULL)) return;
            for (size_t j = 0; j < kept; j++) CHECK(block[j] == 0x6b);
            free(block);
        }
}

const struct rule alignment_rules[] = {
    {"align-every-size", "C23 7.24.3, C17 7.22.3",
     "a block is aligned for any type of its size", every_size_is_aligned, 0},
    {"align-held", "C23 7.24.3, C17 7.22.3", "so are blocks held together", held_blocks_are_aligned, 0},
    {"align-calloc-realloc", "C23 7.24.3, C17 7.22.3",
     "and those of calloc and realloc", calloc_and_realloc_are_aligned, 0},
    {"aligned-alloc-aligns", "C17 7.22.3.1",
     "aligned_alloc: every power of two up to 64 MiB", aligned_alloc_aligns, 0},
    {"memalign-aligns", "glibc manual, Aligned Memory Blocks",
     "memalign: every power of two up to 64 MiB", memalign_aligns, 0},
    {"posix-memalign-aligns", "POSIX.1-2024 posix_memalign",
     "posix_memalign: every power of two from sizeof(void *) to 64 MiB", posix_memalign_aligns, 0},
    {"align-big-of-small", "C17 7.22.3.1",
     "small blocks of big alignment are usable side by side", small_blocks_of_big_alignment, 0},
    {"aligned-alloc-einval", "POSIX.1-2024 aligned_alloc, C23 7.24.3",
     "aligned_alloc: no power of two, then NULL and EINVAL", aligned_alloc_refuses, OURS},
    {"posix-memalign-einval", "POSIX.1-2024 posix_memalign",
     "posix_memalign: bad alignment is returned as EINVAL, errno and *memptr stay", posix_memalign_refuses, 0},
    {"posix-memalign-enomem", "POSIX.1-2024 posix_memalign",
     "posix_memalign: no memory is returned as ENOMEM, *memptr stays", posix_memalign_without_memory, 0},
    {"posix-memalign-errno", "posix_memalign(3)",
     "posix_memalign does not set errno", posix_memalign_leaves_errno, OURS},
    {"aligned-enomem", "POSIX.1-2024 aligned_alloc",
     "aligned_alloc, memalign: impossible sizes give NULL and ENOMEM", huge_sizes_of_aligned, 0},
    {"align-largest", "C23 7.24.3", "an alignment of half the address space fails", largest_alignment, 0},
    {"memalign-rounds-up", "glibc memalign",
     "memalign: an alignment is rounded up to a power of two", memalign_rounds_up, 0},
    {"memalign-einval", "glibc memalign",
     "memalign: an alignment that cannot be rounded up gives NULL and EINVAL", memalign_refuses, 0},
    {"valloc", "glibc manual, Aligned Memory Blocks", "valloc: aligned to the page", valloc_gives_pages, 0},
    {"pvalloc", "pvalloc(3)",
     "pvalloc: whole pages; overflow in rounding gives NULL and ENOMEM", pvalloc_gives_whole_pages, 0},
    {"realloc-of-aligned", "POSIX.1-2024 realloc",
     "realloc takes blocks of the aligned family and keeps their content", realloc_takes_aligned_blocks, 0},
    {NULL, NULL, NULL, NULL, 0},
};
