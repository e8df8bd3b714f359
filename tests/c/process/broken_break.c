/*
 * The break cannot grow: glibc's first arena goes on in mapped memory, and its blocks still go back to it.
 */
#define _GNU_SOURCE
#include "life.h"

extern void *__libc_malloc(size_t);

int main(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t end = ((uintptr_t)sbrk(0) + page - 1) & ~(page - 1);
    if (mmap((void *)end, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)end)
        return 2;
    for (size_t size = 16; size < 60000; size = size * 3 / 2) {
        char *first = __libc_malloc(size), *second = __libc_malloc(size);
        memset(first, 1, size), memset(second, 2, size);
        if (malloc_usable_size(first) < size) return 3;
        free(first);
        second = realloc(second, size * 2);
        if (!second || second[0] != 2 || second[size - 1] != 2) return 4;
        free(second);
    }
    return write(1, "ok\n", 3) != 3;
}
