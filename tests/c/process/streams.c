/*
 * A thread flushes all streams again and again, and the write function of one of them allocates: it holds the list of
 * streams, which fork takes, while it may wait for the allocator, whose locks fork takes as well.
 *
 *   streams FORKS
 */
#define _GNU_SOURCE
#include "life.h"

static ssize_t write_and_allocate(void *cookie, const char *text, size_t size) {
    (void)cookie, (void)text;
    void *blocks[64];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 64; i++) blocks[i] = malloc(3000 + (size_t)(i * 977 + round) % 60000);
        for (int i = 0; i < 64; i++) free(blocks[i]);
    }
    return (ssize_t)size;
}

static void *flush(void *argument) {
    (void)argument;
    FILE *stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_and_allocate});
    struct timespec moment = {0, 200000};
    for (;;) {
        fputs("x", stream);
        fflush(NULL);
        /* Else nobody but this thread would ever have the list. */
        nanosleep(&moment, NULL);
    }
}

int main(int argc, char **argv) {
    int forks = argc > 1 ? atoi(argv[1]) : 100;
    pthread_t thread;
    if (pthread_create(&thread, NULL, flush, NULL)) return 2;
    for (int i = 0; i < forks; i++) {
        pid_t child = fork();
        if (child == 0) {
            free(malloc(100000));
            fflush(NULL);
            _exit(3);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 3) return 1;
    }
    if (write(1, "ok\n", 3) < 0) return 2;
    _exit(0);
}
