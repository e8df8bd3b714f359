/*
 * Commits one fault that the checking mode must see: checked CASE SIZE. `checked CASE SIZE sound` does all the rest of
 * the case, and must end with status 0. The pointer in question stands on stdout before the fault.
 *
 * Whatever follows a fault here would be reached without a check; exit status 4 says so.
 */
#define _GNU_SOURCE
#include <cidalloc.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int faulty = 1;
static size_t size;
static char *block;

static void *hide(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

static char *fresh(size_t bytes) {
    char *pointer = hide(malloc(bytes));
    if (!pointer) _exit(9);
    memset(pointer, 1, bytes);
    return pointer;
}

static void announce(const void *pointer) {
    char text[32];
    int length = snprintf(text, sizeof text, "%#lx\n", (unsigned long)(uintptr_t)pointer);
    if (write(1, text, (size_t)length) != length) _exit(9);
}

/* Free and realloc are the doors through which a pointer passes. */
static void release(void *pointer) {
    announce(pointer);
    if (faulty) free(hide(pointer));
}

static void churn(int rounds) {
    for (int i = 0; i < rounds; i++) {
        char *other = fresh(size + (size_t)(i % 7) * 8);
        free(other);
    }
}

static void double_immediate(void) {
    free(block);
    release(block);
}

static void double_delayed(void) {
    free(block);
    churn(size < 100000 ? 1000 : 20); /* it is still kept */
    release(block);
}

static void double_interleaved(void) {
    char *other = fresh(size);
    free(block);
    free(other);
    release(block);
}

static void double_realloc(void) {
    free(block);
    announce(block);
    if (faulty) hide(realloc(hide(block), size + 1));
}

static void double_after_realloc(void) {
    char *grown = hide(realloc(block, size + 100));
    release(block);
    free(grown);
}

static void *free_it(void *pointer) {
    free(pointer);
    return NULL;
}

static void double_by_thread(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, free_it, block);
    pthread_join(thread, NULL);
    release(block);
}

/* The block's place has a new owner, whose block the second free takes: his own free is the one seen. */
static void double_after_reuse(void) {
    char *old = block, *owner;
    free(block);
    /* Out of quarantine, so that the place can be given again. */
    malloc_trim(0);
    for (int i = 0; i < 1000 && (owner = fresh(size)) != old; i++) {
    }
    if (owner != old) {
        announce(old);
        if (faulty) free(hide(old)); /* not given again: seen here */
        return;
    }
    announce(old);
    if (faulty) free(hide(old));
    free(owner);
}

static void free_stack(void) {
    char local[64];
    release(local + 16);
}

static void free_static(void) {
    static char memory[4096] __attribute__((aligned(16)));
    release(memory + 64);
}

static void free_mapped(void) { release(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); }
static void free_far(void) { release((void *)(uintptr_t)0x7ffffffff000); }
static void free_near(void) { release(block + ((uintptr_t)1 << 21) + 48); }
static void free_before(void) { release(block - 16); }
static void free_behind(void) { release(block + size + 16); }
static void free_interior(void) { release(block + (size + 1) / 2); }
static void free_misaligned(void) { release(block + 1); }
static void realloc_interior(void) {
    announce(block + 1);
    if (faulty) hide(realloc(hide(block + 1), size * 2));
}
static void usable_size_of_freed(void) {
    free(block);
    announce(block);
    if (faulty) malloc_usable_size(hide(block));
}

static void sized_free(void) {
    announce(block);
    free_sized(block, size + (size_t)faulty);
}

static void sized_free_smaller(void) {
    announce(block);
    free_sized(block, size - (size_t)faulty);
}

static void aligned_sized_free(void) {
    char *aligned = hide(aligned_alloc(64, size));
    announce(aligned);
    free_aligned_sized(aligned, faulty ? 128 : 64, size);
}

static void sized_free_of_aligned(void) {
    char *aligned = hide(aligned_alloc(64, size));
    announce(aligned);
    if (faulty) free_sized(aligned, size);
    else free(aligned);
}

/* Writes at block + from, `bytes` of them, and then meets the damage through `seen`. */
static void write_at(ptrdiff_t from, size_t bytes) {
    volatile char *at = (char *)hide(block) + from;
    announce(block);
    if (!faulty) return;
    if (from >= 0)
        for (size_t i = 0; i < bytes; i++) at[i] = 0x55;
    else
        for (size_t i = bytes; i-- > 0;) at[i] = 0x55;
}

static void overflow_1(void) { write_at((ptrdiff_t)size, 1), free(block); }
static void overflow_32(void) { write_at((ptrdiff_t)size, 32), free(block); }
static void overflow_1m(void) { write_at((ptrdiff_t)size, 1 << 20), free(block); }
static void overflow_zero(void) {
    announce(block);
    if (faulty) ((volatile char *)hide(block))[size] = 0;
    free(block);
}
static void overflow_realloc(void) { write_at((ptrdiff_t)size, 1), free(hide(realloc(block, size * 2))); }
static void overflow_at_exit(void) { write_at((ptrdiff_t)size, 1); }
static void overflow_on_demand(void) {
    write_at((ptrdiff_t)size, 1);
    cidalloc_check();
    _exit(faulty ? 4 : 0);
}
static void overflow_aligned(void) {
    block = hide(aligned_alloc(256, size));
    write_at((ptrdiff_t)size, 1), free(block);
}
static void overflow_calloc(void) {
    block = hide(calloc(1, size));
    for (size_t i = 0; i < size; i++)
        if (block[i]) _exit(9);
    write_at((ptrdiff_t)size, 1), free(block);
}
static void underflow_1(void) { write_at(-1, 1), free(block); }
static void underflow_32(void) { write_at(-32, 32), free(block); }
static void underflow_aligned(void) {
    block = hide(aligned_alloc(256, size));
    write_at(-1, 1), free(block);
}
static void underflow_at_exit(void) { write_at(-8, 8); }

static void write_freed(void) {
    free(block);
    write_at(0, 1);
}
static void write_freed_last(void) {
    free(block);
    write_at((ptrdiff_t)size - 1, 1);
}
/* Until the block leaves the quarantine. */
static void write_freed_later(void) {
    free(block);
    write_at((ptrdiff_t)size / 2, 1);
    for (int i = 0; i < 70000; i++) free(fresh(24));
    if (faulty) _exit(4);
}
static void write_freed_aligned(void) {
    block = hide(aligned_alloc(4096, size));
    free(block);
    write_at(0, 1);
}

/* No fault ends these two: what they read is what a program would go astray on. */
static void read_fresh(void) {
    unsigned char *pointer = hide(malloc(size));
    announce(pointer);
    for (size_t i = 0; i < size && i < 65536; i++)
        if (faulty && pointer[i] != 0xa7) _exit(4);
    free(pointer);
}
static void read_freed(void) {
    free(block);
    announce(block);
    for (size_t i = 0; i < size; i++)
        if (faulty && ((volatile unsigned char *)hide(block))[i] != 0x7a) _exit(4);
}

static void in_child(void) {
    pid_t child = fork();
    if (child == 0) {
        double_immediate();
        _exit(faulty ? 4 : 0);
    }
    int status;
    waitpid(child, &status, 0);
    free(block);
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    if (status) _exit(9);
}

static const struct {
    const char *name;
    void (*commit)(void);
} cases[] = {
#define CASE(name) {#name, name}
    CASE(double_immediate), CASE(double_delayed), CASE(double_interleaved), CASE(double_realloc),
    CASE(double_after_realloc), CASE(double_by_thread), CASE(double_after_reuse), CASE(free_stack), CASE(free_static),
    CASE(free_mapped), CASE(free_far), CASE(free_near), CASE(free_before), CASE(free_behind), CASE(free_interior),
    CASE(free_misaligned), CASE(realloc_interior), CASE(usable_size_of_freed), CASE(sized_free),
    CASE(sized_free_smaller), CASE(aligned_sized_free), CASE(sized_free_of_aligned), CASE(overflow_1),
    CASE(overflow_32), CASE(overflow_1m), CASE(overflow_zero), CASE(overflow_realloc), CASE(overflow_at_exit),
    CASE(overflow_on_demand), CASE(overflow_aligned), CASE(overflow_calloc), CASE(underflow_1), CASE(underflow_32),
    CASE(underflow_aligned), CASE(underflow_at_exit), CASE(write_freed), CASE(write_freed_last),
    CASE(write_freed_later), CASE(write_freed_aligned), CASE(read_fresh), CASE(read_freed), CASE(in_child),
};

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    alarm(60);
    size = strtoul(argv[2], NULL, 10);
    faulty = argc == 3;
    /* Neighbours on both sides, so that nothing is at the edge of the heap by chance. */
    for (int i = 0; i < 20; i++) fresh(size);
    block = fresh(size);
    for (int i = 0; i < 20; i++) fresh(size);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].commit();
            return 0;
        }
    return 2;
}
