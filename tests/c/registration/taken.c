/*
 * CIDALLOC_RSEQ=take, seen by others in the process: a second user of rseq on the C library's areas, sched_getcpu,
 * fork, exec, signal handlers, and by the kernel. Runs on the library, in any mode; what must be so is worked out here.
 *
 *   taken                 every check, each in a process of its own
 *   taken CHECK           one of them
 *   taken refused[-in-a-thread] kept|lost   what calls refused by CIDALLOC_FAIL must come to
 *   taken time NAME N     nanoseconds of NAME (getcpu, count), the best of N times
 *
 * Exit status: 0 if what must be is so.
 */
#include "rseq.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "cidalloc.h"

/* The library is told to take what the C library has registered with 32 bytes. */
static int taking, v2_offered;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    puts("");
    fflush(stdout);
    _exit(1);
}

#define CHECK(condition) ((condition) ? (void)0 : fail("%s:%d: not so: %s", __FILE__, __LINE__, #condition))

/* Misses its cache, hits it, and a large one; enough for a thread to be taken in. */
static void allocate(void) {
    void *volatile kept; /* out of the compiler's sight */
    for (int i = 0; i < 200; i++) {
        kept = malloc((size_t)(i % 40 + 1) * 24);
        CHECK(kept);
        memset(kept, i, 24);
        free(kept);
    }
    kept = malloc(300000);
    CHECK(kept);
    free(kept);
}

static void heap_is_whole(void) { CHECK(cidalloc_walk(NULL) == 0); }

static void in_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* ---- the other user: a counter for each CPU, as the ABI has it */

enum { CPUS = 4096 };
static struct {
    volatile uint64_t count;
    char apart[120];
} counters[CPUS];
static atomic_ulong without, moves, aborts;
static const volatile uint32_t never;

static void count(void) {
    struct area *area = libc_area();
    for (;;) {
        uint32_t cpu = area->cpu_id_start;
        if (!is_registered(area)) {
            atomic_fetch_add(&without, 1);
            return;
        }
        switch (count_in_section(area, &area->cpu_id, cpu, &counters[cpu % CPUS].count, 20, &never)) {
        case DONE: return;
        case MOVED: atomic_fetch_add(&moves, 1); break;
        case ABORTED: atomic_fetch_add(&aborts, 1); break;
        }
    }
}

static uint64_t counted(void) {
    uint64_t sum = 0;
    for (int cpu = 0; cpu < CPUS; cpu++) sum += counters[cpu].count;
    return sum;
}

enum { EACH = 200000, THREADS = 6 };

static void *count_and_allocate(void *blocks) {
    for (int i = 0; i < EACH; i++) {
        count();
        if (i % 16 == 0) {
            void *volatile *slot = (void *volatile *)blocks + i / 16 % 64;
            free(*slot);
            *slot = malloc((size_t)(i % 700 + 1));
        }
    }
    for (int i = 0; i < 64; i++) free(((void **)blocks)[i]);
    return NULL;
}

/* Both users at work in every thread: each count is there, and each block whole. */
static void beside(void) {
    static void *blocks[THREADS][64];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, count_and_allocate, blocks[i]) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    uint64_t due = (uint64_t)EACH * THREADS, sum = counted();
    if (sum + without != due) fail("%llu in sections and %lu without are not %llu", (unsigned long long)sum, without, (unsigned long long)due);
    /* Whoever must do without does, and nobody else. */
    CHECK(without == (taking ? due : 0));
    heap_is_whole();
}

static void *tells_the_cpu(void *unused) {
    (void)unused;
    allocate();
    cpu_set_t allowed, one;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        unsigned asked = 0;
        CHECK(syscall(SYS_getcpu, &asked, NULL, NULL) == 0);
        CHECK(sched_getcpu() == cpu && asked == (unsigned)cpu);
    }
    return NULL;
}

/* The C library's own use of its area. */
static void getcpu_tells(void) {
    in_thread(tells_the_cpu, NULL);
    tells_the_cpu(NULL);
}

/* ---- single threads */

/* What the main thread and one that it made look like. The C library does not register the second. */
static void *is_not_registered(void *unused) {
    (void)unused;
    CHECK((int32_t)libc_area()->cpu_id == (taking ? -2 : (int32_t)libc_area()->cpu_id_start));
    allocate();
    CHECK(is_registered(libc_area()) == !taking);
    return NULL;
}

static void threads_as_made(void) {
    allocate();
    CHECK(is_registered(libc_area()) == !taking);
    if (taking) CHECK((int32_t)libc_area()->cpu_id == -1 && libc_area()->mm_cid == UINT32_MAX);
    in_thread(is_not_registered, NULL);
}

/* A thread as one looks that was made by a thread that was not taken over: the C library has registered it. */
static struct area *as_made_by_others(void) {
    struct area *area = libc_area();
    if (!taking) return area;
    CHECK(!is_registered(area));
    CHECK(register_area(area, libc_length(), 0) == 0);
    CHECK(is_registered(area));
    return area;
}

static void *is_taken_late(void *unused) {
    (void)unused;
    struct area *area = as_made_by_others();
    count();
    CHECK(counted() == 1 && without == 0);
    allocate();
    CHECK(is_registered(area) == !taking);
    if (taking) CHECK(area->mm_cid == UINT32_MAX);
    count();
    CHECK(counted() == (taking ? 1 : 2) && without == (taking ? 1 : 0));
    /* The place is another's now. */
    if (taking) CHECK(register_area(area, libc_length(), 0) == EINVAL);
    return NULL;
}

static void late(void) {
    in_thread(is_taken_late, NULL);
    heap_is_whole();
}

/* ---- a handler's malloc, the thread's first, in the middle of the other user's work */

static volatile uint32_t handled;

static void handler(int signal) {
    (void)signal;
    allocate();
    handled = 1;
}

static atomic_int started;

/* In the section until the handler has run, which aborts it. */
static void *is_interrupted_inside(void *unused) {
    (void)unused;
    struct area *area = as_made_by_others();
    started = 1;
    uint32_t cpu;
    enum ended ended;
    do {
        cpu = area->cpu_id_start;
        ended = count_in_section(area, &area->cpu_id, cpu, &counters[0].count, UINT64_MAX, &handled);
    } while (ended != DONE && !handled); /* preempted before the signal came */
    CHECK(handled);
    CHECK(is_registered(area) == !taking);
    /* Where the signal came between two tries, the last one found the handler's work done. */
    CHECK(ended == ABORTED || ended == (taking ? MOVED : DONE));
    CHECK(counted() == (ended == DONE));
    if (!taking) return NULL;
    CHECK(count_in_section(area, &area->cpu_id, cpu, &counters[0].count, 1, &handled) == MOVED);
    CHECK(counted() == 0);
    return NULL;
}

static void handler_inside(void) {
    signal(SIGUSR1, handler);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, is_interrupted_inside, NULL) == 0);
    while (!started) sched_yield();
    struct timespec some = {0, 30000000};
    nanosleep(&some, NULL);
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    heap_is_whole();
}

/* Between reading an id and the section that compares it. */
static void *is_interrupted_before(void *unused) {
    (void)unused;
    struct area *area = as_made_by_others();
    uint32_t cpu = area->cpu_id_start, cid = area->mm_cid;
    CHECK(raise(SIGUSR1) == 0 && handled);
    if (!taking) return NULL;
    CHECK(count_in_section(area, &area->cpu_id, cpu, &counters[0].count, 1, &never) == MOVED);
    CHECK(count_in_section(area, &area->mm_cid, cid, &counters[0].count, 1, &never) == MOVED);
    /* What the kernel leaves in the area of a thread without registration. */
    CHECK(count_in_section(area, &area->mm_cid, 0, &counters[0].count, 1, &never) == MOVED);
    CHECK(counted() == 0);
    return NULL;
}

static void handler_before(void) {
    signal(SIGUSR1, handler);
    in_thread(is_interrupted_before, NULL);
}

/* ---- what the kernel has registered, and how it treats it */

struct registration {
    uint64_t address;
    uint32_t length, signature, flags, padding;
};

/* Asks for the registration of a fork of this thread; then lets it do `go_on`. How it ended. */
static int forked(struct registration *found, void (*go_on)(void), uint64_t poke) {
    const enum __ptrace_request GET_RSEQ_CONFIGURATION = 0x420f;
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        go_on();
        fflush(stdout);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK(ptrace(GET_RSEQ_CONFIGURATION, child, sizeof *found, found) == (long)sizeof *found);
    if (poke) {
        long words = ptrace(PTRACE_PEEKDATA, child, found->address, 0);
        CHECK(ptrace(PTRACE_POKEDATA, child, found->address, words + (long)poke) == 0);
    }
    CHECK(ptrace(PTRACE_DETACH, child, 0, 0) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void nothing(void) {}

static void registered_is_ours(void) {
    allocate();
    struct registration found;
    CHECK(forked(&found, nothing, 0) == 0);
    struct area *theirs = libc_area();
    CHECK((found.address == (uint64_t)(uintptr_t)theirs) == !taking);
    CHECK(found.length == (taking ? full_length() : libc_length()) && found.signature == SIGNATURE);
}

/* Goes to every CPU, so that the kernel has new ids to write. */
static void moves_about(void) {
    cpu_set_t allowed, one;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (int round = 0; round < 3; round++)
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &allowed)) {
                CPU_ZERO(&one);
                CPU_SET(cpu, &one);
                CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
            }
}

/* In V2 the kernel looks whether anybody has written what is its own; so does a debugging kernel always. */
static void mode_is_as_due(void) {
    allocate();
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    struct registration found;
    CHECK(forked(&found, moves_about, 0) == 0);
    int v2 = v2_offered && found.length >= full_length();
    int status = forked(&found, moves_about, 1000), killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
    printf("%s%s\n", v2 ? "V2" : "legacy", killed ? ", enforced" : "");
    if (CPU_COUNT(&allowed) > 1) CHECK(killed || !v2);
}

/* ---- children */

static void *counts_beside(void *unused) {
    (void)unused;
    for (int i = 0; i < 1000; i++) count();
    allocate();
    return NULL;
}

static void in_child(void) {
    CHECK(is_registered(libc_area()) == !taking);
    allocate();
    pthread_t threads[20];
    for (int i = 0; i < 20; i++) CHECK(pthread_create(&threads[i], NULL, counts_beside, NULL) == 0);
    for (int i = 0; i < 20; i++) pthread_join(threads[i], NULL);
    CHECK(counted() + without == 20 * 1000);
    tells_the_cpu(NULL);
    heap_is_whole();
    struct registration found;
    CHECK(forked(&found, nothing, 0) == 0);
    CHECK(found.length == (taking ? full_length() : libc_length()));
}

static void *forks(void *unused) {
    (void)unused;
    allocate();
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        in_child();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    allocate();
    return NULL;
}

static void forks_in_main_and_in_a_thread(void) {
    forks(NULL);
    in_thread(forks, NULL);
    in_child();
}

static char *self;

static void *executes(void *check) {
    allocate();
    execl(self, self, (char *)check, (char *)NULL);
    return NULL;
}

static void exec_in_a_thread(void) { in_thread(executes, "beside"); }

/* ---- refusals: CIDALLOC_FAIL names the calls */

/* Counts and allocates, in sections or not. */
static void goes_on(int kept_is_due) {
    struct area *area = libc_area();
    CHECK(is_registered(area) == kept_is_due);
    for (int i = 0; i < 10000; i++) {
        count();
        void *volatile kept = malloc((size_t)(i % 900 + 1));
        CHECK(kept);
        free(kept);
    }
    CHECK(counted() == (kept_is_due ? 10000 : 0) && counted() + without == 10000);
    tells_the_cpu(NULL);
    heap_is_whole();
}

/* In the process's first thread, and so in all. */
static void refused(const char *due) { goes_on(!strcmp(due, "kept")); }

static void *stays(void *due) {
    as_made_by_others();
    allocate();
    goes_on(!strcmp(due, "kept"));
    return NULL;
}

static char due_in_thread[8];

static void refused_in_a_thread(const char *due) {
    CHECK(taking && !is_registered(libc_area()));
    strncpy(due_in_thread, due, sizeof due_in_thread - 1);
    in_thread(stays, due_in_thread);
    heap_is_whole();
}

/* ---- what it costs others */

static double now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void times(const char *what, int tries) {
    enum { CALLS = 1000000 };
    allocate();
    double best = 1e18;
    for (int i = 0; i < tries; i++) {
        double start = now_ns();
        if (!strcmp(what, "getcpu"))
            for (int k = 0; k < CALLS; k++) CHECK(sched_getcpu() >= 0);
        else
            for (int k = 0; k < CALLS; k++) count();
        double took = (now_ns() - start) / CALLS;
        if (took < best) best = took;
    }
    printf("%s %.2f ns\n", what, best);
}

static const struct check {
    const char *name;
    void (*run)(void);
} checks[] = {
    {"threads", threads_as_made},
    {"beside", beside},
    {"getcpu", getcpu_tells},
    {"late", late},
    {"handler-inside", handler_inside},
    {"handler-before", handler_before},
    {"registered", registered_is_ours},
    {"mode", mode_is_as_due},
    {"fork", forks_in_main_and_in_a_thread},
    {"exec", exec_in_a_thread},
};

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 1024);
    self = argv[0];
    const char *asked = getenv("CIDALLOC_RSEQ");
    taking = asked && !strcmp(asked, "take") && libc_area() && libc_length() == ORIGINAL_LENGTH;
    v2_offered = full_length() > ORIGINAL_LENGTH;
    if (!libc_area()) {
        puts("skip: the C library registers nothing");
        return 0;
    }
    allocate();
    if (argc > 2) {
        if (!strcmp(argv[1], "time") && argc > 3) times(argv[2], atoi(argv[3]));
        else if (!strcmp(argv[1], "refused")) refused(argv[2]);
        else if (!strcmp(argv[1], "refused-in-a-thread")) refused_in_a_thread(argv[2]);
        else return 2;
        return 0;
    }
    int failed = 0, found = 0;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (argc > 1 && strcmp(argv[1], checks[i].name)) continue;
        found = 1;
        if (argc > 1) {
            checks[i].run();
            continue;
        }
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            execl(argv[0], argv[0], checks[i].name, (char *)NULL);
            _exit(127);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        printf("%s %s\n", status == 0 ? "ok" : "FAIL", checks[i].name);
        failed |= status != 0;
    }
    return failed || !found;
}
