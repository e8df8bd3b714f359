/*
 * Does one thing that no program may do: misuse DOOR CASE. Prints the pointer in question on stdout, then commits the
 * fault. Doors are the functions that take a pointer: free, realloc, usable (malloc_usable_size).
 *
 * Cases that a slow path meets at once end in SIGABRT there. Cases of small blocks are met when the blocks leave the
 * caches; until then nothing may be handed out twice: exit status 3 if that happened, 0 if the end was reached.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOCKS = 200000, LARGE = 1 << 20, SMALL = 64 };

static char in_static_memory[4096] __attribute__((aligned(4096)));
static void *blocks[BLOCKS];
static const char *door;

static void *hide(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

/* Allocates nothing: a buffer of stdio could get the very memory in question. */
static void announce(const void *pointer) {
    char text[32];
    int length = snprintf(text, sizeof text, "%#lx\n", (unsigned long)(uintptr_t)pointer);
    if (write(1, text, (size_t)length) != length) _exit(9);
}

static void pass_through_the_door(void *pointer) {
    pointer = hide(pointer);
    if (strcmp(door, "realloc") == 0) hide(realloc(pointer, 300));
    else if (strcmp(door, "usable") == 0) malloc_usable_size(pointer);
    else free(pointer);
}

static void fault(void *pointer) {
    announce(pointer);
    pass_through_the_door(pointer);
}

static int by_address(const void *a, const void *b) {
    uintptr_t left = *(const uintptr_t *)a, right = *(const uintptr_t *)b;
    return left < right ? -1 : left > right;
}

/* Allocates many blocks of the size and looks for one given twice, or overlapping with another. */
static int handed_out_twice(size_t size) {
    for (int i = 0; i < BLOCKS; i++) blocks[i] = hide(malloc(size));
    qsort(blocks, BLOCKS, sizeof *blocks, by_address);
    for (int i = 1; i < BLOCKS; i++)
        if ((uintptr_t)blocks[i] - (uintptr_t)blocks[i - 1] < size) return 1;
    return 0;
}

/* The fault in the middle of many frees, then whatever brings the blocks out of the caches. */
static int among_small_blocks(size_t offset, int twice, int trim) {
    for (int i = 0; i < BLOCKS; i++) blocks[i] = hide(malloc(SMALL));
    char *victim = (char *)blocks[BLOCKS / 2] + offset;
    announce(victim);
    for (int i = 0; i < BLOCKS; i++) {
        if (i == BLOCKS / 2) {
            if (!twice) {
                pass_through_the_door(victim);
                continue;
            }
            pass_through_the_door(victim);
        }
        free(blocks[i]);
    }
    if (trim) malloc_trim(0);
    /* The sorting below needs none of the class under test. */
    return handed_out_twice(SMALL) ? 3 : 0;
}

int main(int argc, char **argv) {
    char on_the_stack[64];
    if (argc != 3) return 2;
    alarm(60);
    door = argv[1];
    const char *name = argv[2];
    char *large = hide(malloc(LARGE)), *other = hide(malloc(LARGE)), *small = hide(malloc(SMALL));
    memset(large, 1, LARGE);
    memset(other, 1, LARGE);
    memset(small, 1, SMALL);

    if (strcmp(name, "stack") == 0) fault(on_the_stack + 16);
    else if (strcmp(name, "static") == 0) fault(in_static_memory + 64);
    else if (strcmp(name, "static-page") == 0) fault(in_static_memory);
    else if (strcmp(name, "code") == 0) fault((void *)(uintptr_t)main);
    else if (strcmp(name, "mmap") == 0)
        fault(mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    else if (strcmp(name, "far") == 0) fault((void *)(uintptr_t)0x7ffffffff000);
    else if (strcmp(name, "low") == 0) fault((void *)(uintptr_t)16);
    else if (strcmp(name, "noncanonical") == 0) fault((void *)(uintptr_t)0xdeadbeefdeadbeef);
    else if (strcmp(name, "kernel") == 0) fault((void *)(uintptr_t)0xffffffff81000000);
    else if (strcmp(name, "last") == 0) fault((void *)UINTPTR_MAX);
    else if (strcmp(name, "beyond") == 0) fault(large + ((uintptr_t)1 << 42));
    else if (strcmp(name, "interior-16") == 0) fault(large + 16);
    else if (strcmp(name, "interior-odd") == 0) fault(large + 1);
    else if (strcmp(name, "interior-page") == 0) fault(large + 8192);
    else if (strcmp(name, "interior-last") == 0) fault(large + LARGE - 1);
    else if (strcmp(name, "double-large") == 0) {
        free(large);
        fault(large);
    } else if (strcmp(name, "double-large-later") == 0) {
        free(other);
        free(large);
        fault(other);
    } else if (strcmp(name, "double-large-trimmed") == 0) {
        free(large);
        malloc_trim(0);
        fault(large);
    } else if (strcmp(name, "double-after-realloc") == 0) {
        char *grown = hide(realloc(large, (size_t)LARGE * 64));
        /* A block that grew in place was not freed. */
        if (grown == large) free(grown);
        fault(large);
    } else if (strcmp(name, "double-aligned") == 0) {
        char *aligned = hide(aligned_alloc(LARGE, 100));
        free(aligned);
        fault(aligned);
    } else if (strcmp(name, "small-double") == 0) {
        return among_small_blocks(0, 1, 0);
    } else if (strcmp(name, "small-double-trimmed") == 0) {
        return among_small_blocks(0, 1, 1);
    } else if (strcmp(name, "small-interior") == 0) {
        return among_small_blocks(16, 0, 0);
    } else if (strcmp(name, "small-interior-trimmed") == 0) {
        return among_small_blocks(16, 0, 1);
    } else if (strcmp(name, "small-odd-trimmed") == 0) {
        return among_small_blocks(1, 0, 1);
    } else return 2;
    return 4;
}
