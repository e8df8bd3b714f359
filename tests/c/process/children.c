/*
 * children WAY: children that share their parent's memory allocate, while four threads churn.
 *   vfork, nested, clone-vfork, clone-vm: by the functions of the C library
 *   spawn: posix_spawn, system, popen
 *   bare: vfork by the C library's other name, which no allocator can see; for the test of the test
 */
#define _GNU_SOURCE
#include <sched.h>
#include <spawn.h>
#include "life.h"

enum { CHURNING = 4, HELD = 400 };
extern pid_t __vfork(void) __attribute__((returns_twice));
extern char **environ;

static struct block *handed;
static int rounds = 8;

/* The child's work; it hands a block over to its parent, and frees one of the parent's. */
static int work(void *argument) {
    unsigned long seed = (unsigned long)argument;
    struct block *held[HELD];
    for (int r = 0; r < rounds; r++) {
        for (unsigned long i = 0; i < HELD; i++) held[i] = block_new(32 + i % 200, seed + i);
        for (unsigned long i = 0; i < HELD; i++) block_free(held[i], seed + i);
    }
    free(malloc(300000));
    if (handed) block_free(handed, 1);
    handed = block_new(64, 2);
    return 3;
}

static void before(void) { handed = block_new(64, 1); }
static void after(pid_t child) {
    REQUIRE(exit_code(child) == 3);
    block_free(handed, 2);
    churn((unsigned long)child, 50, 20);
}

__attribute__((noinline)) static void by_vfork(void) {
    before();
    pid_t child = vfork();
    if (child == 0) _exit(work((void *)7));
    after(child);
}

__attribute__((noinline)) static int inner_vfork(void) {
    pid_t child = vfork();
    if (child == 0) {
        struct block *block = block_new(100, 9);
        block_free(block, 9);
        _exit(4);
    }
    return exit_code(child);
}

__attribute__((noinline)) static void by_nested(void) {
    before();
    pid_t child = vfork();
    if (child == 0) {
        if (inner_vfork() != 4) _exit(5);
        _exit(work((void *)7));
    }
    after(child);
}

__attribute__((noinline)) static void by_bare(void) {
    before();
    pid_t child = __vfork();
    if (child == 0) _exit(work((void *)7));
    after(child);
}

static char *stack;
enum { STACK = 1 << 20 };

static void by_clone(int flags) {
    before();
    pid_t child = clone(work, stack + STACK, flags | CLONE_VM | SIGCHLD, (void *)7);
    REQUIRE(child > 0);
    /* Side by side: the same thread words in two tasks at once. */
    if (!(flags & CLONE_VFORK)) churn(3, 3000, 100);
    after(child);
}

static void spawned(void) {
    pid_t child;
    char *arguments[] = {"sh", "-c", "exit 3", NULL};
    REQUIRE(!posix_spawnp(&child, "sh", NULL, NULL, arguments, environ));
    REQUIRE(exit_code(child) == 3);
    REQUIRE(system("exit 5") == 5 << 8);
    FILE *out = popen("echo from a child", "r");
    char line[64];
    REQUIRE(out && fgets(line, sizeof line, out) && !strcmp(line, "from a child\n"));
    REQUIRE(pclose(out) == 0);
}

int main(int argc, char **argv) {
    begin(150);
    const char *way = argc > 1 ? argv[1] : "vfork";
    int count = argc > 2 ? atoi(argv[2]) : 100;
    /* A child's memory must outlive it. */
    REQUIRE((stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED);
    if (!strcmp(way, "bare")) rounds = 200;
    pthread_t threads[CHURNING];
    churn(1, 1000, 100);
    size_t live = live_bytes();
    start_churning(threads, CHURNING);
    for (int n = 0; n < count; n++) {
        if (!strcmp(way, "vfork")) by_vfork();
        else if (!strcmp(way, "nested")) by_nested();
        else if (!strcmp(way, "clone-vfork")) by_clone(CLONE_VFORK);
        else if (!strcmp(way, "clone-vm")) by_clone(0);
        else if (!strcmp(way, "spawn")) spawned();
        else if (!strcmp(way, "bare")) by_bare();
        else REQUIRE(!"a known way");
    }
    join_churning(threads, CHURNING);
    /* Nothing lost: the threads' ends give their records back, the children have freed theirs. */
    size_t now = live_bytes();
    if (now > live + 4096) fprintf(stderr, "%zu bytes live before, %zu after\n", live, now);
    REQUIRE(now <= live + 4096);
    puts("ok");
    return 0;
}
