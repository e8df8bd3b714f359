/*
 * storm WAY: signal handlers that use every entry of malloc, small and large, while the same thread is interrupted
 * anywhere in it.
 *   timer: one thread, a timer that fires every 150 us of its time
 *   kill: four threads that churn, a fifth that sends them signals of two kinds, so that handlers nest
 *   stack: as timer, on an alternate stack of 16 KiB
 *   fork: as timer, and every tenth handler forks; with THREADS others that churn
 *   resume: one thread; the children go on where the handler interrupted them
 *   jump: handlers that leave by siglongjmp what interrupted the application's own code
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <sys/time.h>
#include "life.h"

enum { KEPT = 64, EVERY_US = 150 };
static __thread struct block *kept[KEPT];
static __thread unsigned long seeds[KEPT];
static __thread volatile int busy[KEPT];
static volatile long handled, forked;
static volatile int forking;

static void in_handler(int signal) {
    int error = errno;
    unsigned long n = (unsigned long)__atomic_add_fetch(&handled, 1, __ATOMIC_RELAXED);
    unsigned long state = n * 48271 + 1;
    for (int j = 0; j < 4; j++) {
        int i = (int)(next_random(&state) % KEPT);
        /* Handlers nest: each slot is used by one of them at a time. */
        if (busy[i]) continue;
        busy[i] = 1;
        if (kept[i] && n % 5 == 0) {
            block_check(kept[i], seeds[i]);
            struct block *moved = realloc(kept[i], sizeof(struct block) + 900);
            REQUIRE(moved && moved->seed == seeds[i]);
            block_fill(moved, sizeof(struct block) + 900, seeds[i]);
            kept[i] = moved;
        } else {
            if (kept[i]) block_free(kept[i], seeds[i]);
            seeds[i] = next_random(&state);
            kept[i] = block_new(random_size(&state), seeds[i]);
        }
        busy[i] = 0;
    }
    void *aligned = memalign(4096, 5000);
    REQUIRE(aligned && (uintptr_t)aligned % 4096 == 0 && malloc_usable_size(aligned) >= 5000);
    free(aligned);
    if (forking && n % 10 == 0) {
        pid_t child = fork();
        if (child == 0) {
            /* The handler of a process with one thread may go on; else it ends here. */
            if (forking == 2) {
                forking = 3;
                return;
            }
            struct block *block = block_new(400000, n);
            block_free(block, n);
            for (unsigned long i = 0; i < 500; i++) free(malloc(i * 10));
            _exit(7);
        }
        forked++;
        int status;
        REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    }
    (void)signal;
    errno = error;
}

/* A slow machine gets the time it needs. */
static int enough(void) { return handled > 200 && (!forking || forked > 10); }

static void install(int flags) {
    struct sigaction action = {.sa_handler = in_handler, .sa_flags = SA_RESTART | flags};
    REQUIRE(!sigaction(SIGPROF, &action, NULL) && !sigaction(SIGUSR1, &action, NULL));
    REQUIRE(!sigaction(SIGUSR2, &action, NULL));
}

/* A timer of this thread's own time. */
static timer_t timer;
static void every(long us) {
    struct itimerspec time = {{0, us * 1000}, {0, us * 1000}};
    REQUIRE(!timer_settime(timer, 0, &time, NULL));
}
static void start_timer(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    REQUIRE(!timer_create(CLOCK_MONOTONIC, &event, &timer));
    every(EVERY_US);
}

static void drop_kept(void) {
    for (int i = 0; i < KEPT; i++)
        if (kept[i]) block_free(kept[i], seeds[i]), kept[i] = NULL;
}

/* Slow paths mostly: many blocks, then none; large ones that grow; trimming and statistics. */
static void slow_paths(int rounds) {
    enum { MANY = 1500 };
    static __thread struct block *held[MANY];
    for (int r = 0; r < rounds; r++) {
        for (unsigned long i = 0; i < MANY; i++) held[i] = block_new(16 + (i * (unsigned long)r) % 3000, i);
        for (unsigned long i = 0; i < MANY; i++) block_free(held[i], i);
        struct block *large = block_new(200000, 3);
        for (size_t size = 400000; size < 8000000; size *= 2) {
            large = realloc(large, size);
            REQUIRE(large);
            block_check(large, 3);
        }
        block_free(large, 3);
        if (r % 8 == 0) malloc_trim(0), mallinfo2();
    }
}

static void *churning_too(void *argument) {
    (void)argument;
    while (!stop) slow_paths(1);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    drop_kept();
    return NULL;
}

static void kill_storm(double seconds) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) REQUIRE(!pthread_create(&threads[i], NULL, churning_too, NULL));
    for (double end = now_s() + seconds; now_s() < end || !enough();) {
        for (int i = 0; i < 4; i++) {
            pthread_kill(threads[i], SIGUSR1);
            pthread_kill(threads[i], SIGUSR2);
        }
        usleep(150);
    }
    stop = 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

static sigjmp_buf back;
static volatile int may_jump;
static void jumps(int signal) {
    (void)signal;
    struct block *block = block_new(77, 5);
    block_free(block, 5);
    handled++;
    if (may_jump) {
        may_jump = 0;
        siglongjmp(back, 1);
    }
}

static void jump(double seconds) {
    volatile long jumped = 0;
    REQUIRE(signal(SIGPROF, jumps) != SIG_ERR);
    start_timer();
    for (double end = now_s() + seconds; now_s() < end || !enough() || jumped <= 50;) {
        /* Where every loop below is left by a jump, only this looks at the end. */
        if (sigsetjmp(back, 1)) {
            jumped++;
            continue;
        }
        churn(8, 300, 100);
        may_jump = 1;
        for (volatile int i = 0; i < 200000 && may_jump; i++) continue;
        may_jump = 0;
    }
    every(0);
}

int main(int argc, char **argv) {
    begin(150);
    const char *way = argc > 1 ? argv[1] : "timer";
    double seconds = 0.4;
    churn(1, 1000, 100);
    size_t live = live_bytes();
    if (!strcmp(way, "jump")) {
        jump(seconds);
    } else if (!strcmp(way, "kill")) {
        install(0);
        kill_storm(seconds);
    } else {
        pthread_t threads[4];
        int others = argc > 2 ? atoi(argv[2]) : 0;
        static char stack[16 << 10] __attribute__((aligned(64)));
        stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
        if (!strcmp(way, "stack")) REQUIRE(!sigaltstack(&alternate, NULL));
        install(!strcmp(way, "stack") ? SA_ONSTACK : 0);
        forking = !strcmp(way, "fork") ? 1 : !strcmp(way, "resume") ? 2 : 0;
        start_churning(threads, others);
        start_timer();
        for (double end = now_s() + seconds; forking != 3 && !(now_s() > end && enough());) slow_paths(2);
        if (forking == 3) {
            /* A child: the timer did not come along. It goes on to a regular end. */
            slow_paths(2);
            churn(9, 2000, 200);
            malloc_trim(0);
            exit(7);
        }
        every(0);
        join_churning(threads, others);
    }
    drop_kept();
    /* A slow path takes in what was freed in handlers; then nothing is lost. */
    churn(1, 1000, 100);
    slow_paths(1);
    size_t now = live_bytes();
    if (now > live + 16384) fprintf(stderr, "%zu bytes live before, %zu after\n", live, now);
    REQUIRE(now <= live + 16384);
    printf("ok %ld\n", handled);
    return 0;
}
