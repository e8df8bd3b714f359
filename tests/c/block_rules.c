/* Rules of a block's life: its content, its extent, its end. */
#define _GNU_SOURCE
#include "rule.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define MIB ((size_t)1 << 20)

/* A pattern by position, so that content moved by some offset does not pass. */
static unsigned char pattern(size_t position) { return (unsigned char)(position * 37 + (position >> 8) + 1); }

static void fill(unsigned char *block, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) block[i] = pattern(i);
}

static int filled(const unsigned char *block, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (block[i] != pattern(i)) return 0;
    return 1;
}

static void ladder(size_t numerator, size_t denominator, size_t top, int with_neighbours) {
    static void *neighbours[1000];
    size_t size = 1, held = 0;
    unsigned char *block = hide(malloc(1));
    fill(block, 0, 1);
    while (size < top) {
        size_t grown = size * numerator / denominator + 1;
        if (grown > top) grown = top;
        note("from %zu to %zu bytes", size, grown);
        /* A live block behind each rung keeps growth in place from being the only way. */
        if (with_neighbours && held < 1000 && size < MIB) neighbours[held++] = hide(malloc(size));
        block = hide(realloc(block, grown));
        if (!CHECK(block != NULL)) return;
        if (!CHECK(filled(block, size))) return;
        CHECK(malloc_usable_size(block) >= grown);
        fill(block, size, grown);
        size = grown;
    }
    while (size > 1) {
        size_t shrunk = size * denominator / numerator;
        note("from %zu to %zu bytes", size, shrunk);
        if (with_neighbours && held < 1000 && size < MIB) neighbours[held++] = hide(malloc(size));
        block = hide(realloc(block, shrunk));
        if (shrunk == 0) { /* freed */
            block = NULL;
            break;
        }
        if (!CHECK(block != NULL)) return;
        if (!CHECK(filled(block, shrunk))) return;
        CHECK(malloc_usable_size(block) >= shrunk);
        size = shrunk;
    }
    free(block);
    for (size_t i = 0; i < held; i++) free(neighbours[i]);
}

static void realloc_ladder(void) {
    ladder(2, 1, 64 * MIB, 0);
    ladder(3, 2, 64 * MIB, 0);
    ladder(9, 8, 2 * MIB, 0);
}

static void realloc_ladder_between_neighbours(void) {
    ladder(2, 1, 64 * MIB, 1);
    ladder(3, 2, 2 * MIB, 1);
}

static void realloc_by_one(void) {
    unsigned char *block = NULL;
    for (size_t size = 1; size <= 20000; size++) {
        note("size %zu", size);
        block = hide(realloc(block, size));
        if (!CHECK(block != NULL)) return;
        block[size - 1] = pattern(size - 1);
        if (size % 100 == 0 && !CHECK(filled(block, size))) return;
    }
    for (size_t size = 20000; size >= 1; size -= size > 700 ? 97 : 1) {
        note("size %zu", size);
        block = hide(realloc(block, size));
        if (!CHECK(block != NULL)) return;
        if (!CHECK(filled(block, size))) return;
    }
    free(block);
}

static void realloc_of_null(void) {
    for (size_t size = 1; size < 2 * MIB; size *= 3) {
        unsigned char *block = hide(realloc(NULL, size));
        unsigned char *array = hide(reallocarray(NULL, size, 2));
        note("size %zu", size);
        if (!CHECK(block != NULL) || !CHECK(array != NULL)) return;
        CHECK(malloc_usable_size(block) >= size);
        CHECK(malloc_usable_size(array) >= 2 * size);
        fill(block, 0, size);
        fill(array, 0, 2 * size);
        CHECK(filled(block, size));
        free(block);
        free(array);
    }
}

/* Growing into the rest of the usable size must keep what the program put there: usable means usable. */
static void realloc_keeps_usable_content(void) {
    for (size_t size = 1; size < 4 * MIB; size += 1 + size / 2) {
        unsigned char *block = hide(malloc(size));
        size_t usable = malloc_usable_size(block);
        note("size %zu, usable %zu", size, usable);
        fill(block, 0, usable);
        block = hide(realloc(block, usable * 2 + 1));
        if (!CHECK(block != NULL)) return;
        CHECK(filled(block, usable));
        free(block);
    }
}

static void free_of_null(void) {
    for (int i = 0; i < 1000; i++) free(hide(NULL));
}

static void free_keeps_errno(void) {
    for (size_t size = 0; size < 300 * MIB; size = size * 2 + 1) {
        unsigned char *block = hide(malloc(size));
        note("size %zu", size);
        if (!CHECK(block != NULL)) return;
        if (size) block[0] = 1;
        errno = E2BIG;
        free(block);
        CHECK(errno == E2BIG);
    }
    /* Enough frees to reach the slow paths, in both small and large. */
    static void *held[30000];
    for (int i = 0; i < 30000; i++) held[i] = hide(malloc((size_t)(i % 100 ? 64 : 70000)));
    for (int i = 0; i < 30000; i++) {
        errno = E2BIG;
        free(held[i]);
        if (!CHECK(errno == E2BIG)) return;
    }
    errno = E2BIG;
    free(NULL);
    CHECK(errno == E2BIG);
}

static void usable_size_is_constant(void) {
    enum { BLOCKS = 60 };
    unsigned char *blocks[BLOCKS];
    size_t usable[BLOCKS];
    size_t size = 0;
    for (int i = 0; i < BLOCKS; i++, size += 1 + size / 3) {
        blocks[i] = hide(i % 3 == 2 ? calloc(1, size) : malloc(size));
        note("size %zu", size);
        if (!CHECK(blocks[i] != NULL)) return;
        usable[i] = malloc_usable_size(blocks[i]);
        CHECK(usable[i] >= size);
        memset(blocks[i], i + 1, usable[i]);
    }
    for (int round = 0; round < 20; round++) {
        void *others[200];
        for (int i = 0; i < 200; i++) {
            size_t other = (size_t)(1 + i * i * (round + 1));
            others[i] = hide(malloc(other));
            if (!CHECK(others[i] != NULL)) return;
            memset(others[i], 0xee, malloc_usable_size(others[i]));
        }
        for (int i = 0; i < 200; i++) free(others[i]);
        if (round == 10) malloc_trim(0);
        for (int i = 0; i < BLOCKS; i++) {
            note("block %d, usable %zu", i, usable[i]);
            if (!CHECK(malloc_usable_size(blocks[i]) == usable[i])) return;
        }
    }
    for (int i = 0; i < BLOCKS; i++) {
        note("block %d, usable %zu", i, usable[i]);
        for (size_t j = 0; j < usable[i]; j++)
            if (!CHECK(blocks[i][j] == (unsigned char)(i + 1))) break;
        free(blocks[i]);
    }
}

static void blocks_are_disjoint(void) {
    enum { BLOCKS = 5000 };
    static unsigned char *blocks[BLOCKS];
    static size_t usable[BLOCKS];
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < BLOCKS; i++) blocks[i] = NULL;
    for (int step = 0; step < 100000; step++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        int i = (int)(random % BLOCKS);
        if (blocks[i]) {
            note("block %d, usable %zu", i, usable[i]);
            unsigned char mark = (unsigned char)i;
            CHECK(blocks[i][0] == mark && blocks[i][usable[i] - 1] == mark && blocks[i][usable[i] / 2] == mark);
            CHECK(memcmp(blocks[i], blocks[i] + 1, usable[i] - 1) == 0);
            free(blocks[i]);
            blocks[i] = NULL;
        } else {
            size_t size = (size_t)(random >> 20) % 200;
            if (random % 64 == 0) size *= 50;
            if (random % 4096 == 0) size *= 1000;
            blocks[i] = hide(malloc(size));
            if (!CHECK(blocks[i] != NULL)) return;
            usable[i] = malloc_usable_size(blocks[i]);
            if (usable[i] == 0) { /* room for the mark */
                free(blocks[i]);
                blocks[i] = hide(malloc(1));
                usable[i] = malloc_usable_size(blocks[i]);
            }
            memset(blocks[i], i, usable[i]);
        }
    }
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i]) {
            CHECK(blocks[i][0] == (unsigned char)i);
            CHECK(memcmp(blocks[i], blocks[i] + 1, usable[i] - 1) == 0);
            free(blocks[i]);
        }
}

/* What the C library allocates on behalf of the program comes from the same place and goes back there. */
static void blocks_of_the_c_library(void) {
    char *copy = strdup("from the C library"), *printed = NULL, *line = NULL, *text = NULL;
    wchar_t *wide = wcsdup(L"wide");
    size_t line_size = 0, text_size = 0;
    CHECK(copy && malloc_usable_size(copy) >= strlen(copy) + 1);
    CHECK(wide && malloc_usable_size(wide) >= 5 * sizeof *wide);
    CHECK(asprintf(&printed, "%0*d", 3000, 7) == 3000);
    CHECK(malloc_usable_size(printed) >= 3001);
    FILE *stream = open_memstream(&text, &text_size);
    if (!CHECK(stream != NULL)) return;
    for (int i = 0; i < 20000; i++) fprintf(stream, "line %d\n", i);
    fclose(stream);
    CHECK(malloc_usable_size(text) >= text_size);
    stream = fmemopen(text, text_size, "r");
    if (!CHECK(stream != NULL)) return;
    int lines = 0;
    while (getline(&line, &line_size, stream) > 0) lines++;
    CHECK(lines == 20000);
    CHECK(malloc_usable_size(line) >= line_size);
    fclose(stream);
    free(hide(realloc(copy, 1000)));
    free(wide);
    free(printed);
    free(line);
    free(text);
}

static void free_sized_frees(void) {
    void (*free_sized)(void *, size_t) = (void (*)(void *, size_t))find("free_sized");
    if (!CHECK(free_sized != NULL)) return;
    free_sized(NULL, 0);
    free_sized(NULL, 100);
    for (int round = 0; round < 3; round++)
        for (size_t size = 0; size < 8 * MIB; size += 1 + size / 30) {
            unsigned char *block = hide(malloc(size)), *cleared = hide(calloc(1, size)),
                          *moved = hide(realloc(hide(malloc(size / 2 + 1)), size ? size : 1));
            note("size %zu", size);
            if (!CHECK(block && cleared && moved)) return;
            memset(block, 1, size);
            memset(cleared, 2, size);
            memset(moved, 3, size);
            errno = E2BIG;
            free_sized(block, size);
            free_sized(cleared, size);
            free_sized(moved, size ? size : 1);
            CHECK(errno == E2BIG);
        }
}

/* Blocks freed with their size are not lost, and come back at most once. */
static void sized_frees_recycle(void) {
    enum { HELD = 2000 };
    static void *held[HELD];
    void (*free_sized)(void *, size_t) = (void (*)(void *, size_t))find("free_sized");
    void (*free_aligned_sized)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))find("free_aligned_sized");
    void (*sdallocx)(void *, size_t, int) = (void (*)(void *, size_t, int))find("sdallocx");
    if (!CHECK(free_sized && free_aligned_sized && sdallocx)) return;
    for (size_t size = 8; size <= 20000; size = size * 3 / 2)
        for (int round = 0; round < 6; round++) {
            note("size %zu", size);
            for (int i = 0; i < HELD; i++) {
                held[i] = hide(round % 3 == 1 ? aligned_alloc(256, size) : malloc(size));
                if (!CHECK(held[i] != NULL)) return;
                *(uint64_t *)held[i] = (uint64_t)i;
            }
            for (int i = 0; i < HELD; i++)
                if (!CHECK(*(uint64_t *)held[i] == (uint64_t)i)) return;
            for (int i = 0; i < HELD; i++)
                switch (round % 3) {
                case 0: free_sized(held[i], size); break;
                case 1: free_aligned_sized(held[i], 256, size); break;
                default: sdallocx(held[i], size, 0);
                }
        }
}

static void free_aligned_sized_frees(void) {
    void (*free_aligned_sized)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))find("free_aligned_sized");
    if (!CHECK(free_aligned_sized != NULL)) return;
    free_aligned_sized(NULL, 64, 100);
    for (size_t alignment = 1; alignment <= 64 * MIB; alignment *= 2)
        for (size_t size = 0; size < 2 * MIB; size = size * 3 + 1) {
            note("alignment %zu, size %zu", alignment, size);
            void *block = hide(aligned_alloc(alignment, size));
            if (!CHECK(block != NULL)) return;
            memset(block, 1, size);
            errno = E2BIG;
            free_aligned_sized(block, alignment, size);
            CHECK(errno == E2BIG);
        }
}

static void cfree_frees(void) {
    void (*cfree)(void *) = (void (*)(void *))find("cfree");
    if (!CHECK(cfree != NULL)) return;
    cfree(NULL);
    for (int i = 0; i < 5000; i++) {
        void *block = hide(calloc(10, 1000));
        if (!CHECK(block != NULL)) return;
        errno = E2BIG;
        cfree(block);
        CHECK(errno == E2BIG);
    }
}

static void sdallocx_frees(void) {
    void (*sdallocx)(void *, size_t, int) = (void (*)(void *, size_t, int))find("sdallocx");
    if (!CHECK(sdallocx != NULL)) return;
    for (size_t size = 0; size < 4 * MIB; size = size * 2 + 1) {
        void *block = hide(malloc(size));
        if (!CHECK(block != NULL)) return;
        sdallocx(block, size, 0);
        for (int lg = 0; lg <= 22; lg++) {
            note("size %zu, alignment 2^%d", size, lg);
            block = hide(aligned_alloc((size_t)1 << lg, size));
            if (!CHECK(block != NULL)) return;
            sdallocx(block, size, lg);
        }
    }
}

static void nallocx_foretells(void) {
    size_t (*nallocx)(size_t, int) = (size_t(*)(size_t, int))find("nallocx");
    if (!CHECK(nallocx != NULL)) return;
    for (size_t size = 1; size < 8 * MIB; size += 1 + size / 20) {
        note("size %zu", size);
        void *block = hide(malloc(size));
        if (!CHECK(block != NULL)) return;
        CHECK(nallocx(size, 0) == malloc_usable_size(block));
        CHECK(nallocx(nallocx(size, 0), 0) == nallocx(size, 0));
        CHECK(nallocx(size + 1, 0) >= nallocx(size, 0));
        free(block);
    }
    for (int lg = 0; lg <= 26; lg++)
        for (size_t size = 1; size < 2 * MIB; size = size * 5 + 1) {
            note("size %zu, alignment 2^%d", size, lg);
            void *block = hide(aligned_alloc((size_t)1 << lg, size));
            if (!CHECK(block != NULL)) return;
            CHECK(nallocx(size, lg) == malloc_usable_size(block));
            free(block);
        }
    CHECK(nallocx(SIZE_MAX, 0) == 0);
    CHECK(nallocx((size_t)PTRDIFF_MAX + 1, 0) == 0);
    CHECK(nallocx(SIZE_MAX - 100, 12) == 0);
}

const struct rule block_rules[] = {
    {"realloc-ladder", "C17 7.22.3.5", "realloc keeps the content from 1 byte to 64 MiB and back", realloc_ladder, 0},
    {"realloc-ladder-crowded", "C17 7.22.3.5", "the same between live blocks", realloc_ladder_between_neighbours, 0},
    {"realloc-by-one", "C17 7.22.3.5", "the same byte by byte", realloc_by_one, 0},
    {"realloc-null", "C17 7.22.3.5", "realloc(NULL, n) is malloc(n)", realloc_of_null, 0},
    {"realloc-usable", "malloc_usable_size(3)", "realloc keeps all that was usable", realloc_keeps_usable_content, 0},
    {"free-null", "C17 7.22.3.3", "free(NULL) does nothing", free_of_null, 0},
    {"free-errno", "POSIX.1-2024 free", "free leaves errno as it was", free_keeps_errno, 0},
    {"usable-size-constant", "malloc_usable_size(3)",
     "the usable size is constant and wholly writable for the block's life", usable_size_is_constant, 0},
    {"disjoint", "C17 7.22.3", "live blocks are disjoint", blocks_are_disjoint, 0},
    {"libc-blocks", "glibc manual, Replacing malloc",
     "blocks that the C library allocates can be freed and resized", blocks_of_the_c_library, 0},
    {"free-sized", "C23 7.24.3",
     "free_sized frees blocks of malloc, calloc, realloc, takes NULL, leaves errno", free_sized_frees, OURS},
    {"free-sized-recycles", "C23 7.24.3",
     "blocks freed with their size are handed out again, once", sized_frees_recycle, OURS},
    {"free-aligned-sized", "C23 7.24.3",
     "free_aligned_sized frees blocks of aligned_alloc, takes NULL, leaves errno", free_aligned_sized_frees, OURS},
    {"cfree", "glibc manual before 2.26", "cfree is free", cfree_frees, OURS},
    {"sdallocx", "jemalloc(3)", "sdallocx frees, with and without an alignment told", sdallocx_frees, OURS},
    {"nallocx", "jemalloc(3)",
     "nallocx tells the usable size beforehand, 0 for the impossible", nallocx_foretells, OURS},
    {NULL, NULL, NULL, NULL, 0},
};
