/*
 * Nothing here is a fault: threads that pass blocks on, children, and a signal handler that allocates and frees
 * blocks of every small size while it interrupts everything. Ends with status 0.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOTS = 256, ROUNDS = 20000, THREADS = 4 };
static char *slots[SLOTS];
static char *for_the_handler[SLOTS];
static volatile sig_atomic_t signals;

static void on_signal(int signal) {
    (void)signal;
    int i = signals++ % SLOTS;
    /* Blocks of both sides: from the heap or from aside, freed here or there. */
    char *old = __atomic_exchange_n(&for_the_handler[i], malloc((size_t)i % 40), __ATOMIC_ACQ_REL);
    free(old);
}

static size_t length(unsigned n) { return n % 97 == 0 ? 300000 + n % 1000 : n % 13 == 0 ? n % 20000 : n % 200; }

static void *work(void *seed) {
    unsigned state = (unsigned)(size_t)seed;
    for (int i = 0; i < ROUNDS; i++) {
        state = state * 1664525 + 1013904223;
        unsigned n = state >> 8;
        size_t bytes = length(n);
        char *mine = n % 5 == 0 ? aligned_alloc((size_t)16 << n % 9, bytes) : n % 7 == 0 ? calloc(1, bytes) : malloc(bytes);
        if (!mine || malloc_usable_size(mine) < bytes) _exit(9);
        memset(mine, 3, bytes);
        if (n % 11 == 0) {
            mine = realloc(mine, bytes / 2 + 1);
            mine[bytes / 2] = 5;
        }
        char **slot = n % 17 == 0 ? &for_the_handler[n % SLOTS] : &slots[n % SLOTS];
        free(__atomic_exchange_n(slot, mine, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

int main(void) {
    alarm(120);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 500}, {0, 500}};
    setitimer(ITIMER_REAL, &often, NULL);
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0) {
            struct itimerval never = {{0, 0}, {0, 0}};
            setitimer(ITIMER_REAL, &never, NULL);
            for (int n = 0; n < 1000; n++) free(malloc((size_t)n * 37));
            exit(0);
        }
        int status;
        if (waitpid(child, &status, 0) != child || status) return 8;
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return signals == 0;
}
