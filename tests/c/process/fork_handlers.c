/*
 * fork_handlers THREADS: fork handlers that allocate, registered before the allocator's (by a preinit function, which
 * no library's constructor comes before) and after (by main). The last to run before the fork also raises a signal,
 * whose handler forks.
 */
#define _GNU_SOURCE
#include "life.h"

enum { ROUNDS = 40 };
static struct block *early, *late;
static volatile int nesting, nested;

static void early_prepare(void) {
    /* Runs last: the allocator's locks are held. */
    early = block_new(90, 1);
    churn(3, 40, 20);
    if (nesting == 0) {
        nesting = 1;
        raise(SIGUSR1);
        nesting = 0;
    }
}
static void early_after(void) {
    if (early) block_free(early, 1);
    early = NULL;
    churn(4, 40, 20);
}
static void late_prepare(void) { late = block_new(300000, 2); }
static void late_after(void) {
    if (late) block_free(late, 2);
    late = NULL;
    churn(5, 40, 20);
}

static void preinit(int argc, char **argv, char **environment) {
    (void)argc, (void)argv, (void)environment;
    pthread_atfork(early_prepare, early_after, early_after);
}
__attribute__((section(".preinit_array"), used)) static void (*const at)(int, char **, char **) = preinit;

static void fork_in_handler(int signal) {
    (void)signal;
    pid_t child = fork();
    if (child == 0) {
        churn(6, 100, 50);
        _exit(7);
    }
    nested++;
    REQUIRE(exit_code(child) == 7);
}

int main(int argc, char **argv) {
    begin(150);
    int count = argc > 1 ? atoi(argv[1]) : 8;
    pthread_t threads[64];
    REQUIRE(count <= 64);
    signal(SIGUSR1, fork_in_handler);
    pthread_atfork(late_prepare, late_after, late_after);
    niceness = 15;
    start_churning(threads, count);
    for (int n = 0; n < ROUNDS; n++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(100);
            churn((unsigned long)n, 1000, 200);
            malloc_trim(0);
            _exit(3);
        }
        churn((unsigned long)n, 100, 50);
        REQUIRE(exit_code(child) == 3);
    }
    join_churning(threads, count);
    REQUIRE(nested == ROUNDS);
    puts("ok");
    return 0;
}
