/* cidalloc_walk in a program that knows the library only by name: every block is counted, in the right class, while
 * it lives and no longer, also in a forked child. Prints "ok" at the end; any fault ends it with 1. */
#include <cidalloc.h>

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef size_t walk_fn(struct cidalloc_census *);

static struct cidalloc_census before, now;
static void *small[1000];
static void *large[7];

static int fail(const char *what, size_t got, size_t expected) {
    fprintf(stderr, "walk.c: %s: %zu instead of %zu\n", what, got, expected);
    return 1;
}

/* The class of blocks of `size` bytes. */
static size_t class_for(size_t size) {
    size_t i = 1;
    while (now.classes[i].size < size) ++i;
    return i;
}

static int compare(const char *when, size_t small_live, size_t large_live, size_t large_bytes) {
    size_t mine = class_for(200), i;
    for (i = 0; i < now.class_count; ++i) {
        size_t expected = before.classes[i].live + (i == mine ? small_live : 0);
        if (now.classes[i].live != expected) return fail(when, now.classes[i].live, expected);
    }
    if (now.large_blocks != before.large_blocks + large_live)
        return fail(when, now.large_blocks, before.large_blocks + large_live);
    if (now.large_bytes != before.large_bytes + large_bytes)
        return fail(when, now.large_bytes, before.large_bytes + large_bytes);
    return 0;
}

int main(void) {
    walk_fn *walk;
    void *found = dlsym(RTLD_DEFAULT, "cidalloc_walk");
    size_t i, pages = 0;
    int status;
    pid_t child;

    if (!found) return fail("no cidalloc_walk", 0, 1);
    memcpy(&walk, &found, sizeof walk);
    fputs("warm up stdio", stderr);
    if (walk(&before) || walk(NULL)) return 1;
    if (before.class_count < 2 || before.class_count > CIDALLOC_CLASSES_MOST) return fail("classes", before.class_count, 80);

    for (i = 0; i < 1000; ++i) small[i] = malloc(200);
    for (i = 0; i < 7; ++i) {
        large[i] = malloc(1000000 * (i + 1));
        pages += (1000000 * (i + 1) + 8191) / 8192;
    }
    if (walk(&now) || compare("while they live", 1000, 7, pages * 8192)) return 1;

    child = fork();
    if (child == 0) {
        if (walk(&now) || compare("in the child", 1000, 7, pages * 8192)) _exit(1);
        for (i = 0; i < 500; ++i) free(small[i]);
        if (walk(&now) || compare("after frees in the child", 500, 7, pages * 8192)) _exit(1);
        _exit(0);
    }
    if (waitpid(child, &status, 0) != child || status != 0) return fail("child", (size_t)status, 0);

    for (i = 0; i < 1000; ++i) free(small[i]);
    for (i = 0; i < 7; ++i) free(large[i]);
    if (walk(&now) || compare("after they are freed", 0, 0, 0)) return 1;
    puts("ok");
    return 0;
}
