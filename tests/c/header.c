/* cidalloc.h is C99 and C++11, and its declarations agree with those of the C library. */
#include <cidalloc.h>

#include <malloc.h>


int main(void) {
    void *pointer = malloc(100);
    size_t good = nallocx(100, MALLOCX_ALIGN(16));
    if (good < 100 || good != malloc_usable_size(pointer)) return 1;
    free_sized(pointer, 100);
    free_aligned_sized(memalign(64, 128), 64, 128);
    sdallocx(malloc(7), 7, 0);
    cfree(NULL);
    if (cidalloc_walk(NULL) != 0) return 2;
    return 0;
}
