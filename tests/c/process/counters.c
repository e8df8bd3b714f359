/*
 * counters SECONDS THREADS [planted]: another user of rseq beside the allocator, in the same threads. Its own sections,
 * with descriptors and abort handlers of its own, run on the C library's registration, and by CPU, as tracers do it:
 * counters and lists of blocks per CPU, in threads and in the signal handlers that interrupt them. At the end every
 * increment and every block must be there. Threads that are not registered (cpu_id below 0) use atomics and a lock.
 *
 * planted: the counters' sections are announced where nobody looks: increments must get lost, or nothing here can
 * notice that they do. Then the exit code is 3.
 *
 * Prints "ok" and what was counted.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stddef.h>
#include <sys/rseq.h>
#include "life.h"

enum { CPUS = 1024, MOST = 256 };

struct node {
    struct node *next;
    unsigned long size, seed;
};

/* What one CPU has; changed in sections only. */
static struct cpu {
    unsigned long count;
    struct node *nodes;
} __attribute__((aligned(128))) cpus[CPUS];

static unsigned long fallback_count, made, aborted, elsewhere, pushed, popped;
static volatile unsigned long in_handlers;
static struct node *fallback_nodes;
static pthread_mutex_t fallback_lock = PTHREAD_MUTEX_INITIALIZER;
static int planted;

enum outcome { DONE, MOVED, ABORTED };

#define STRING(text) #text
#define VALUE(text) STRING(text)

/*
 * A section: its descriptor, the store that announces it, the check of the CPU, `body`, whose last instruction is the
 * commit, and the abort handler behind its signature. Increments dwell between load and store: there they are to be
 * interrupted.
 */
#ifdef __x86_64__
#define SECTION(body)                                                                             \
    ".pushsection __rseq_cs, \"aw\"\n\t.balign 32\n"                                              \
    "3:\n\t.long 0, 0\n\t.quad 1f, 2f - 1f, 4f\n\t.popsection\n\t"                                \
    "leaq 3b(%%rip), %%rax\n\tmovq %%rax, (%[announce])\n"                                        \
    "1:\n\tcmpl %[cpu], (%[current])\n\tjne %l[moved]\n\t" body                                   \
    "2:\n\t.pushsection .text.unlikely, \"ax\"\n\t.balign 8\n\t.long 0, " VALUE(RSEQ_SIG) "\n"    \
    "4:\n\tjmp %l[aborted]\n\t.popsection\n"
#define INCREMENT                                                                                 \
    "movq (%[word]), %%rax\n\tmovl $16, %%ecx\n5:\n\tdecl %%ecx\n\tjnz 5b\n\t"                     \
    "incq %%rax\n\tmovq %%rax, (%[word])\n"
#define PUSH "movq (%[word]), %%rax\n\tmovq %%rax, (%[node])\n\tmovq %[node], (%[word])\n"
#define POP                                                                                       \
    "movq (%[word]), %%rax\n\tmovq %%rax, (%[node])\n\ttestq %%rax, %%rax\n\tjz 2f\n\t"           \
    "movq (%%rax), %%rax\n\tmovq %%rax, (%[word])\n"
#define SCRATCH "rax", "rcx"
#elif defined(__aarch64__)
#define SECTION(body)                                                                             \
    ".pushsection __rseq_cs, \"aw\"\n\t.balign 32\n"                                              \
    "3:\n\t.long 0, 0\n\t.quad 1f, 2f - 1f, 4f\n\t.popsection\n\t"                                \
    "adrp x15, 3b\n\tadd x15, x15, :lo12:3b\n\tstr x15, [%[announce]]\n"                          \
    "1:\n\tldr w15, [%[current]]\n\tcmp w15, %w[cpu]\n\tb.ne %l[moved]\n\t" body                  \
    "2:\n\t.pushsection .text.unlikely, \"ax\"\n\t.balign 8\n\t.long 0, " VALUE(RSEQ_SIG) "\n"    \
    "4:\n\tb %l[aborted]\n\t.popsection\n"
#define INCREMENT                                                                                 \
    "ldr x15, [%[word]]\n\tmov w14, #16\n5:\n\tsubs w14, w14, #1\n\tb.ne 5b\n\t"                   \
    "add x15, x15, #1\n\tstr x15, [%[word]]\n"
#define PUSH "ldr x15, [%[word]]\n\tstr x15, [%[node]]\n\tstr %[node], [%[word]]\n"
#define POP                                                                                       \
    "ldr x15, [%[word]]\n\tstr x15, [%[node]]\n\tcbz x15, 2f\n\t"                                 \
    "ldr x15, [x15]\n\tstr x15, [%[word]]\n"
#define SCRATCH "x14", "x15"
#else
#error "no sections for this architecture"
#endif

static volatile struct rseq *area(void) {
    return (volatile struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* Announced here, a section is none. */
static __thread unsigned long nobody_looks;

#define DEFINE(name, body, node_type, announced)                                                  \
    static enum outcome name(unsigned cpu, void *word, node_type node) {                          \
        volatile struct rseq *own = area();                                                       \
        __asm__ goto(SECTION(body)                                                                \
                     :                                                                            \
                     : [announce] "r"(announced), [current] "r"(&own->cpu_id), [cpu] "r"(cpu),    \
                       [word] "r"(word), [node] "r"(node)                                         \
                     : SCRATCH, "memory", "cc"                                                    \
                     : moved, aborted);                                                           \
        return DONE;                                                                              \
    moved:                                                                                        \
        return MOVED;                                                                             \
    aborted:                                                                                      \
        return ABORTED;                                                                           \
    }

DEFINE(increment, INCREMENT, void *, planted ? (void *)&nobody_looks : (void *)&own->rseq_cs)
DEFINE(push, PUSH, struct node *, &own->rseq_cs)
/* The node found is stored before the commit, as often as the section begins. */
DEFINE(pop, POP, struct node **, &own->rseq_cs)

/* Counted by thread, and summed when it ends; handlers count apart. */
static __thread unsigned long mine_aborted, mine_elsewhere;

static int again(enum outcome outcome) {
    mine_aborted += outcome == ABORTED;
    mine_elsewhere += outcome == MOVED;
    return outcome != DONE;
}

/* Whether the thread is registered, and where it is. */
static int here(unsigned *cpu) {
    *cpu = area()->cpu_id_start;
    return (int)area()->cpu_id >= 0;
}

static void count_one(void) {
    unsigned cpu;
    do {
        if (!here(&cpu)) {
            __atomic_add_fetch(&fallback_count, 1, __ATOMIC_RELAXED);
            return;
        }
        REQUIRE(cpu < CPUS);
    } while (again(increment(cpu, &cpus[cpu].count, NULL)));
}

static void push_one(struct node *node) {
    unsigned cpu;
    do {
        if (!here(&cpu)) {
            pthread_mutex_lock(&fallback_lock);
            node->next = fallback_nodes, fallback_nodes = node;
            pthread_mutex_unlock(&fallback_lock);
            return;
        }
    } while (again(push(cpu, &cpus[cpu].nodes, node)));
}

static struct node *pop_one(void) {
    unsigned cpu;
    struct node *node;
    do {
        if (!here(&cpu)) {
            pthread_mutex_lock(&fallback_lock);
            if ((node = fallback_nodes)) fallback_nodes = node->next;
            pthread_mutex_unlock(&fallback_lock);
            return node;
        }
    } while (again(pop(cpu, &cpus[cpu].nodes, &node)));
    return node;
}

static struct node *node_new(unsigned long seed) {
    size_t size = sizeof(struct node) + seed % 300;
    struct node *node = malloc(size);
    REQUIRE(node);
    node->size = size;
    node->seed = seed;
    memset(node + 1, (int)(seed & 0xff), size - sizeof *node);
    return node;
}

static void node_free(struct node *node) {
    const unsigned char *bytes = (const unsigned char *)(node + 1);
    for (size_t i = 0; i < node->size - sizeof *node; i++) REQUIRE(bytes[i] == (node->seed & 0xff));
    free(node);
}

/* Interrupts the allocator's sections, and these. */
static void in_handler(int signal) {
    (void)signal;
    count_one();
    __atomic_add_fetch(&in_handlers, 1, __ATOMIC_RELAXED);
}

static void *work(void *seed) {
    unsigned long state = (unsigned long)seed * 2654435761u + 1, counted = 0, in = 0, out = 0;
    while (!stop) {
        for (int i = 0; i < 20; i++) count_one(), counted++;
        push_one(node_new(next_random(&state))), in++;
        if (next_random(&state) % 8) {
            struct node *node = pop_one();
            if (node) node_free(node), out++;
        }
        if (next_random(&state) % 64 == 0) sched_yield();
    }
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    __atomic_add_fetch(&made, counted, __ATOMIC_RELAXED);
    __atomic_add_fetch(&pushed, in, __ATOMIC_RELAXED);
    __atomic_add_fetch(&popped, out, __ATOMIC_RELAXED);
    __atomic_add_fetch(&aborted, mine_aborted, __ATOMIC_RELAXED);
    __atomic_add_fetch(&elsewhere, mine_elsewhere, __ATOMIC_RELAXED);
    return NULL;
}

/* The nodes of a list, which are freed. */
static unsigned long drop_all(struct node *node) {
    unsigned long n = 0;
    while (node) {
        struct node *next = node->next;
        node_free(node);
        node = next;
        n++;
    }
    return n;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    int threads = argc > 2 ? atoi(argv[2]) : 16;
    planted = argc > 3 && !strcmp(argv[3], "planted");
    begin((unsigned)seconds + 500);
    REQUIRE(threads > 0 && threads <= MOST);
    struct sigaction action = {.sa_handler = in_handler, .sa_flags = SA_RESTART};
    REQUIRE(!sigaction(SIGUSR1, &action, NULL));
    cpu_set_t allowed;
    REQUIRE(!sched_getaffinity(0, sizeof allowed, &allowed));

    pthread_t all[MOST];
    for (long i = 0; i < threads; i++) REQUIRE(!pthread_create(&all[i], NULL, work, (void *)(i + 1)));
    unsigned long random = 7, signals = 0;
    /* A slow machine gets the time it needs. */
    for (double end = now_s() + seconds; now_s() < end || signals < 50 || in_handlers < 20;) {
        pthread_t hit = all[next_random(&random) % (unsigned long)threads];
        REQUIRE(!pthread_kill(hit, SIGUSR1));
        signals++;
        /* To one of the CPUs, or back to all of them. */
        cpu_set_t to = allowed;
        int cpu = (int)(next_random(&random) % 64);
        if (CPU_ISSET(cpu, &allowed)) {
            CPU_ZERO(&to);
            CPU_SET(cpu, &to);
        }
        REQUIRE(!pthread_setaffinity_np(hit, sizeof to, &to));
        usleep(200);
    }
    stop = 1;
    for (int i = 0; i < threads; i++) REQUIRE(!pthread_join(all[i], NULL));

    unsigned long counted = fallback_count, left = drop_all(fallback_nodes);
    int used = 0;
    for (int i = 0; i < CPUS; i++) {
        counted += cpus[i].count;
        used += cpus[i].count != 0;
        left += drop_all(cpus[i].nodes);
    }
    unsigned long due = made + in_handlers;
    if (counted != due || pushed != popped + left) {
        printf("lost %ld of %lu increments, %ld of %lu blocks\n", (long)(due - counted), due,
               (long)(pushed - popped - left), pushed);
        return 3;
    }
    REQUIRE(due > 1000 && pushed > 50);
    printf("ok %lu increments on %d CPUs, %lu unregistered, %lu in handlers, %lu blocks, %lu aborted, %lu elsewhere\n",
           due, used, fallback_count, in_handlers, pushed, aborted, elsewhere);
    return 0;
}
