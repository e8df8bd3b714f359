// Frees some hundred MB of mixed blocks, keeps a tenth, and then waits as the argument says:
// `same` with a few small calls now and then by the thread that freed, `other` with calls by another thread
// while that one sleeps, `busy` with the same after a million calls that all hit, `none` without any call,
// `fork` as `none` in a child. The seconds come second. Prints the MB that are live, resident before the wait, and after.
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCKS 60000
static char *block[BLOCKS];
static size_t size[BLOCKS], live;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    _exit(1);
}

// Without the C library's streams, which allocate.
static long resident_mb(void) {
    char text[64] = {0};
    long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0) fail("statm");
    close(fd);
    sscanf(text, "%*d %ld", &pages);
    return pages * (sysconf(_SC_PAGESIZE) / 1024) / 1024;
}

static unsigned random_number(void) {
    static unsigned long long state = 88172645463325252ULL;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state >> 33;
}

static void *fill_and_free(void *unused) {
    // A tenth stays, apart from the rest in time.
    for (int i = 0; i < BLOCKS; i++) {
        size[i] = (size_t)1 << (5 + random_number() % 10);
        size[i] += random_number() % size[i];
        if (!(block[i] = malloc(size[i]))) fail("no memory");
        memset(block[i], 1, size[i]);
        if (i < BLOCKS / 10) live += size[i];
    }
    for (int i = BLOCKS - 1; i > BLOCKS / 10; i--) {
        int j = BLOCKS / 10 + random_number() % (i - BLOCKS / 10 + 1);
        char *b = block[i];
        block[i] = block[j], block[j] = b;
    }
    for (int i = BLOCKS / 10; i < BLOCKS; i++) free(block[i]);
    return unused;
}

static void a_few_calls(void) {
    for (int i = 0; i < 10; i++) free(malloc(16 + i * 8));
}

static void wait_s(double s, int calls) {
    for (; s > 0; s -= 0.02) {
        struct timespec t = {0, 20000000};
        nanosleep(&t, NULL);
        if (calls) a_few_calls();
    }
}

int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "same";
    if (!strcmp(way, "fork")) {
        pid_t child = fork();
        int status;
        if (child) return waitpid(child, &status, 0) != child || status != 0;
    }
    a_few_calls();
    if (!strcmp(way, "other")) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, fill_and_free, NULL) || pthread_join(thread, NULL)) fail("thread");
    } else {
        fill_and_free(NULL);
    }
    long before = resident_mb();
    if (!strcmp(way, "busy"))
        for (int i = 0; i < 100000; i++) a_few_calls();
    wait_s(argc > 2 ? atof(argv[2]) : 4, !strcmp(way, "same") || !strcmp(way, "other") || !strcmp(way, "busy"));
    long after = resident_mb();
    for (int i = 0; i < BLOCKS / 10; i++)
        if (block[i][size[i] - 1] != 1) fail("a block has changed");
    printf("%zu %ld %ld\n", live >> 20, before, after);
    return 0;
}
