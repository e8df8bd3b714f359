/* starts TIMES PROGRAM ARGUMENT...: runs it so many times, one after the other. It is
 * linked statically: what is preloaded is preloaded into PROGRAM alone. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int times = atoi(argv[1]);
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < times; i++) {
        pid_t child;
        int status;
        if (posix_spawn(&child, argv[2], NULL, NULL, argv + 2, environ)) return 1;
        if (waitpid(child, &status, 0) != child || status) return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("work_s %.6f\nresult %d\n",
           (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9, times);
}
