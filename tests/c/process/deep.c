/*
 * deep LIBRARY WANTED: opens the library with RTLD_DEEPBIND; blocks cross the border both ways. WANTED says whose
 * malloc the library must have: "ours" or "glibc".
 * deep --glibc: blocks of glibc's own malloc, of every kind, given to our free, realloc and malloc_usable_size.
 * deep --foreign WORDS: frees a pointer behind words that look a bit like a chunk of glibc's; must not return.
 * deep --found NAME: opens a library by name alone, which only this program's own search path knows.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include "life.h"

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_memalign(size_t, size_t);

static void *hide(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    REQUIRE(found);
    return found;
}

static int cross(const char *path, const char *wanted) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    REQUIRE(library);
    void *(*their_malloc)(size_t) = symbol(library, "deep_malloc");
    void *(*their_calloc)(size_t, size_t) = symbol(library, "deep_calloc");
    void *(*their_realloc)(void *, size_t) = symbol(library, "deep_realloc");
    void (*their_free)(void *) = symbol(library, "deep_free");
    char *(*their_strdup)(const char *) = symbol(library, "deep_strdup");
    char *(*their_asprintf)(int) = symbol(library, "deep_asprintf");
    char *(*their_getline)(const char *) = symbol(library, "deep_getline");
    void *(*address_of_malloc)(void) = symbol(library, "deep_address_of_malloc");
    Dl_info theirs, ours;
    REQUIRE(dladdr(address_of_malloc(), &theirs) && dladdr((void *)nallocx, &ours));
    int same = theirs.dli_fbase == ours.dli_fbase;
    if (same != !strcmp(wanted, "ours")) fprintf(stderr, "malloc of %s\n", theirs.dli_fname);
    REQUIRE(same == !strcmp(wanted, "ours"));
    for (int n = 0; n < 200; n++) {
        /* From the library to us. */
        size_t size = (size_t)n * 37 + 24;
        if (n % 20 == 19) size += 300000;
        struct block *block = (struct block *)their_malloc(size);
        REQUIRE(block && malloc_usable_size(block) >= size);
        block_fill(block, size, 3);
        block = realloc(block, size * 3);
        block_check(block, 3);
        block_free(block, 3);
        free(their_calloc(3, size));
        char *text = their_strdup("a text from there");
        REQUIRE(!strcmp(text, "a text from there"));
        free(text);
        text = their_asprintf(n);
        REQUIRE(atoi(text + 11) == n);
        free(text);
        text = their_getline("/proc/self/status");
        REQUIRE(text && !strncmp(text, "Name:", 5));
        free(text);
        /* From us to the library: only where it has our malloc can this be. */
        if (same) {
            block = block_new(size, 4);
            block = their_realloc(block, size * 2);
            block_check(block, 4);
            their_free(block);
            their_free(strdup("a text from here"));
        }
    }
    puts("ok");
    return 0;
}

static void give(void *pointer, size_t size) {
    struct block *block = pointer;
    REQUIRE(block && malloc_usable_size(block) >= size);
    block_fill(block, size, 6);
    if (size % 3 == 0) {
        block = hide(realloc(block, size / 2 + 20));
        REQUIRE(block && block->seed == 6);
    } else if (size % 3 == 1) {
        block = hide(realloc(block, size * 4));
        block_check(block, 6);
    }
    free(hide(block));
}

static void *in_a_thread(void *argument) {
    void **out = argument;
    for (size_t size = 24; size < 4000; size += 61) give(__libc_malloc(size), size);
    for (int i = 0; i < 20; i++) out[i] = __libc_malloc(500);
    return NULL;
}

static int of_glibc(void) {
    for (size_t size = 24; size < 100000; size += size / 8 + 1) {
        give(__libc_malloc(size), size);
        give(__libc_calloc(1, size), size);
        give(__libc_memalign(256, size), size);
        give(__libc_memalign(4096, size), size);
        give(__libc_malloc(size * 100 + 200000), size * 100 + 200000);
    }
    REQUIRE(sbrk(4096) != (void *)-1);
    for (size_t size = 24; size < 200000; size += size / 4 + 1) give(__libc_malloc(size), size);
    void *left[20];
    pthread_t thread;
    REQUIRE(!pthread_create(&thread, NULL, in_a_thread, left));
    pthread_join(thread, NULL);
    for (int i = 0; i < 20; i++) give(left[i], 500);
    puts("ok");
    return 0;
}

/* An honest block of none: `kind` says what its words pretend. */
static int foreign(const char *kind) {
    static unsigned long area[4096] __attribute__((aligned(4096)));
    unsigned long *chunk = area + 512;
    void *mapped = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!strcmp(kind, "small")) {
        chunk[1] = 0x41, chunk[9] = 0x41;
    } else if (!strcmp(kind, "mmapped-unaligned")) {
        chunk[1] = 0x1010 | 2;
    } else if (!strcmp(kind, "mmapped-odd")) {
        chunk = (unsigned long *)mapped, chunk[1] = 0x1010 | 2;
    } else if (!strcmp(kind, "arena")) {
        chunk[1] = 0x41 | 4, chunk[9] = 0x41;
    } else if (!strcmp(kind, "zero")) {
        chunk = (unsigned long *)mapped + 64;
    } else if (!strcmp(kind, "huge")) {
        chunk[1] = ~7ul | 1;
    } else if (!strcmp(kind, "start")) {
        /* No readable word before it. */
        chunk = (unsigned long *)mapped - 2;
        munmap((char *)mapped - 4096, 4096);
    } else if (!strcmp(kind, "brk")) {
        /* Within the break, but what follows does not say that it is in use. */
        chunk = (unsigned long *)(((uintptr_t)sbrk(65536) + 15) & ~(uintptr_t)15) + 512;
        chunk[1] = 0x41, chunk[9] = 0x40;
    } else {
        REQUIRE(!"a known kind");
    }
    printf("%p\n", (void *)(chunk + 2));
    fflush(stdout);
    free(hide(chunk + 2));
    puts("freed");
    return 0;
}

static int found(const char *name) {
    void *library = dlopen(name, RTLD_NOW | RTLD_DEEPBIND);
    if (!library) puts(dlerror());
    REQUIRE(library);
    /* A name that nobody knows: the error is the loader's, and errno-free. */
    REQUIRE(!dlopen("no-such-library.so", RTLD_NOW));
    REQUIRE(strstr(dlerror(), "no-such-library.so: cannot open shared object file"));
    REQUIRE(dlopen(NULL, RTLD_NOW));
    REQUIRE(!dlclose(library));
    puts("ok");
    return 0;
}

int main(int argc, char **argv) {
    begin(150);
    REQUIRE(argc > 1);
    if (!strcmp(argv[1], "--glibc")) return of_glibc();
    if (!strcmp(argv[1], "--foreign")) return foreign(argv[2]);
    if (!strcmp(argv[1], "--found")) return found(argv[2]);
    REQUIRE(argc > 2);
    return cross(argv[1], argv[2]);
}
