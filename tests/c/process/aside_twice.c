/*
 * A fork handler that runs while the allocator's locks are held gets blocks beside the heap, and frees one twice.
 */
#define _GNU_SOURCE
#include "life.h"

static void prepare(void) {
    char *one = malloc(100), *other = malloc(100);
    free(one);
    free(one);
    /* Not reached: these must not be `other`. */
    char *third = malloc(100), *fourth = malloc(100);
    if (third == other || fourth == other) _exit(7);
    _exit(8);
}

/* Before the library registers its own handlers. */
static void first(int argc, char **argv, char **environment) {
    (void)argc, (void)argv, (void)environment;
    pthread_atfork(prepare, NULL, NULL);
}
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(int, char **, char **) = first;

int main(void) {
    free(malloc(10));
    return fork() == 0 ? 0 : 9;
}
