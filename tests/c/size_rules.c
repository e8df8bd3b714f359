/* Rules of size: zero, too much, and cleared memory. */
#define _GNU_SOURCE
#include "rule.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

static void *posix_of(size_t size) {
    void *block = NULL;
    return posix_memalign(&block, 64, size) == 0 ? block : NULL;
}

static void zero_is_a_block(void) {
    void *blocks[9];
    enum { BLOCKS = sizeof blocks / sizeof *blocks };
    for (int round = 0; round < 100; round++) {
        blocks[0] = hide(malloc(0));
        blocks[1] = hide(malloc(0));
        blocks[2] = hide(calloc(0, 0));
        blocks[3] = hide(calloc(0, 100));
        blocks[4] = hide(calloc(SIZE_MAX, 0));
        blocks[5] = hide(realloc(NULL, 0));
        blocks[6] = hide(aligned_alloc(64, 0));
        blocks[7] = hide(posix_of(0));
        blocks[8] = hide(reallocarray(NULL, 0, 5));
        for (int i = 0; i < BLOCKS; i++) {
            note("block %d", i);
            CHECK(blocks[i] != NULL);
            for (int j = 0; j < i; j++) CHECK(blocks[i] != blocks[j]);
        }
        for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    }
}

static void realloc_of_zero_blocks(void) {
    unsigned char *block = hide(malloc(0));
    block = hide(realloc(block, 5000));
    if (!CHECK(block != NULL)) return;
    memset(block, 1, 5000);
    free(block);
}

/* glibc's reading, which C17 allowed and which programs rely on. A block not freed would show as growth. */
static void realloc_to_zero_frees(void) {
    errno = 0;
    CHECK(hide(realloc(hide(malloc(100)), 0)) == NULL);
    CHECK(hide(reallocarray(hide(malloc(100)), 0, 8)) == NULL);
    CHECK(hide(reallocarray(hide(malloc(100)), 8, 0)) == NULL);
    CHECK(errno == 0);
    for (int i = 0; i < 20000; i++) {
        unsigned char *block = hide(malloc(8 * MIB));
        if (!CHECK(block != NULL)) return;
        block[0] = 1;
        if (!CHECK(hide(realloc(block, 0)) == NULL)) return;
    }
}

static void usable_size_of_null(void) { CHECK(malloc_usable_size(hide(NULL)) == 0); }

static const size_t too_large[] = {SIZE_MAX,         SIZE_MAX - 1,
                                   SIZE_MAX - 15,    SIZE_MAX - 4095,
                                   SIZE_MAX - 8191,  SIZE_MAX - 2 * MIB,
                                   SIZE_MAX / 2 + 2, (size_t)PTRDIFF_MAX + 1,
                                   PTRDIFF_MAX,      (size_t)PTRDIFF_MAX - 15,
                                   (size_t)PTRDIFF_MAX - 4096, (size_t)1 << 62,
                                   (size_t)1 << 57};

static void impossible_sizes(void) {
    for (size_t i = 0; i < sizeof too_large / sizeof *too_large; i++) {
        note("size %zu", too_large[i]);
        errno = 0;
        CHECK(hide(malloc(too_large[i])) == NULL);
        CHECK(errno == ENOMEM);
        errno = 0;
        CHECK(hide(calloc(1, too_large[i])) == NULL);
        CHECK(errno == ENOMEM);
        errno = 0;
        CHECK(hide(calloc(too_large[i], 1)) == NULL);
        CHECK(errno == ENOMEM);
        errno = 0;
        CHECK(hide(realloc(NULL, too_large[i])) == NULL);
        CHECK(errno == ENOMEM);
    }
}

static const struct {
    size_t count, size;
} products[] = {
    {SIZE_MAX / 2 + 1, 2},         {2, SIZE_MAX / 2 + 1},
    {(size_t)1 << 32, (size_t)1 << 32}, {SIZE_MAX, SIZE_MAX},
    {SIZE_MAX, 2},                 {SIZE_MAX / 3 + 1, 3},
    {((size_t)1 << 60) + 1, 16},   {((size_t)1 << 32) + 1, ((size_t)1 << 32) - 1},
    {SIZE_MAX / 16 + 2, 16},
};
enum { PRODUCTS = sizeof products / sizeof *products };

static void calloc_overflows(void) {
    for (int i = 0; i < PRODUCTS; i++) {
        note("%zu of %zu bytes", products[i].count, products[i].size);
        errno = 0;
        CHECK(hide(calloc(products[i].count, products[i].size)) == NULL);
        CHECK(errno == ENOMEM);
    }
}

static void reallocarray_overflows(void) {
    unsigned char *block = hide(malloc(100));
    memset(block, 0x3c, 100);
    for (int i = 0; i < PRODUCTS; i++) {
        note("%zu of %zu bytes", products[i].count, products[i].size);
        errno = 0;
        CHECK(hide(reallocarray(block, products[i].count, products[i].size)) == NULL);
        CHECK(errno == ENOMEM);
        errno = 0;
        CHECK(hide(reallocarray(NULL, products[i].count, products[i].size)) == NULL);
        CHECK(errno == ENOMEM);
        for (int j = 0; j < 100; j++) CHECK(block[j] == 0x3c);
    }
    block = hide(reallocarray(block, 30, 40));
    if (!CHECK(block != NULL)) return;
    CHECK(malloc_usable_size(block) >= 1200);
    for (int j = 0; j < 100; j++) CHECK(block[j] == 0x3c);
    free(block);
}

static void failed_realloc_keeps_the_block(void) {
    static const size_t sizes[] = {1, 16, 100, 5000, 100000, 262144, 300000, 4 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *block = hide(malloc(sizes[i]));
        if (!CHECK(block != NULL)) return;
        memset(block, 0x77, sizes[i]);
        size_t usable = malloc_usable_size(block);
        for (size_t j = 0; j < sizeof too_large / sizeof *too_large; j++) {
            note("from %zu to %zu bytes", sizes[i], too_large[j]);
            errno = 0;
            CHECK(hide(realloc(block, too_large[j])) == NULL);
            CHECK(errno == ENOMEM);
        }
        CHECK(malloc_usable_size(block) == usable);
        for (size_t j = 0; j < sizes[i]; j++)
            if (!CHECK(block[j] == 0x77)) break;
        free(block);
    }
}

static int all_zero(const unsigned char *bytes, size_t size) {
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static void calloc_clears(void) {
    for (size_t size = 1; size <= 16 * MIB; size += 1 + size / 9) {
        note("size %zu", size);
        unsigned char *block = hide(calloc(1, size));
        if (!CHECK(block != NULL)) return;
        CHECK(all_zero(block, size));
        free(block);
    }
}

/* The blocks calloc gets here held other content a moment ago, to their last usable byte. */
static void calloc_clears_used_memory(void) {
    enum { HELD = 300 };
    static void *held[HELD];
    for (size_t size = 1; size <= 8 * MIB; size += 1 + size / 3) {
        int count = size > 100000 ? 4 : HELD;
        for (int i = 0; i < count; i++) {
            held[i] = hide(malloc(size));
            if (!CHECK(held[i] != NULL)) return;
            memset(held[i], 0xa5, malloc_usable_size(held[i]));
        }
        for (int i = 0; i < count; i++) free(held[i]);
        for (int i = 0; i < count; i++) {
            note("size %zu, block %d", size, i);
            held[i] = hide(i % 2 ? calloc(1, size) : calloc(size, 1));
            if (!CHECK(held[i] != NULL)) return;
            CHECK(all_zero(held[i], size));
            memset(held[i], 0x5a, malloc_usable_size(held[i]));
        }
        for (int i = 0; i < count; i++) free(held[i]);
    }
}

/* Memory that went back to the kernel, or was cut from a larger block, must not pass for fresh wrongly. */
static void calloc_clears_recycled_memory(void) {
    static const size_t sizes[] = {4096, 8192, 40000, 262144, 262145, MIB, 4 * MIB, 32 * MIB};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    for (int from = 0; from < SIZES; from++)
        for (int to = 0; to < SIZES; to++) {
            unsigned char *dirty = hide(malloc(sizes[from]));
            if (!CHECK(dirty != NULL)) return;
            memset(dirty, 0xff, malloc_usable_size(dirty));
            /* Shrunk by half first in every other round, so that the tail goes its own way. */
            if (to % 2) dirty = hide(realloc(dirty, sizes[from] / 2));
            free(dirty);
            if (to % 3 == 0) malloc_trim(0);
            note("from %zu to %zu bytes", sizes[from], sizes[to]);
            unsigned char *cleared = hide(calloc(1, sizes[to]));
            if (!CHECK(cleared != NULL)) return;
            CHECK(all_zero(cleared, sizes[to]));
            free(cleared);
        }
}

static void calloc_multiplies(void) {
    for (size_t count = 1; count <= 4096; count *= 4)
        for (size_t size = 1; size <= 4096; size = size * 3 + 1) {
            note("%zu of %zu bytes", count, size);
            unsigned char *block = hide(calloc(count, size));
            if (!CHECK(block != NULL)) return;
            CHECK(malloc_usable_size(block) >= count * size);
            CHECK(all_zero(block, count * size));
            memset(block, 1, count * size);
            free(block);
        }
}

static void success_leaves_errno(void) {
    for (size_t size = 0; size < 4 * MIB; size = size * 2 + 1) {
        errno = E2BIG;
        void *block = hide(malloc(size));
        block = hide(realloc(block, size * 2 + 3));
        free(block);
        free(hide(calloc(3, size)));
        free(hide(aligned_alloc(128, size)));
        note("size %zu", size);
        CHECK(errno == E2BIG);
    }
}

const struct rule size_rules[] = {
    {"zero-size", "glibc malloc(3), C17 7.22.3", "size 0 gives a block of its own, never NULL", zero_is_a_block, 0},
    {"zero-size-realloc", "C17 7.22.3.5", "a block of size 0 grows like any other", realloc_of_zero_blocks, 0},
    {"realloc-to-zero", "glibc malloc(3)",
     "realloc(p, 0) frees p and returns NULL, errno stays", realloc_to_zero_frees, 0},
    {"usable-size-null", "malloc_usable_size(3)", "malloc_usable_size(NULL) is 0", usable_size_of_null, 0},
    {"too-large", "malloc(3), POSIX.1-2024 malloc",
     "sizes no process can have, PTRDIFF_MAX+1 among them, give NULL and ENOMEM", impossible_sizes, 0},
    {"calloc-overflow", "C23 7.24.3, POSIX.1-2024 calloc",
     "calloc: a product that overflows gives NULL and ENOMEM", calloc_overflows, 0},
    {"reallocarray-overflow", "POSIX.1-2024 reallocarray",
     "reallocarray: the same, and the block stays as it was", reallocarray_overflows, 0},
    {"realloc-failed", "C17 7.22.3.5",
     "a realloc that fails leaves the block as it was", failed_realloc_keeps_the_block, 0},
    {"calloc-clears", "C17 7.22.3.2", "calloc clears", calloc_clears, 0},
    {"calloc-clears-used", "C17 7.22.3.2", "calloc clears memory just used", calloc_clears_used_memory, 0},
    {"calloc-clears-recycled", "C17 7.22.3.2",
     "calloc clears memory used at another size or given back", calloc_clears_recycled_memory, 0},
    {"calloc-product", "C17 7.22.3.2", "calloc gives room for the whole product", calloc_multiplies, 0},
    {"errno-on-success", "C17 7.5", "success leaves errno as it was", success_leaves_errno, 0},
    {NULL, NULL, NULL, NULL, 0},
};
