/*
 * Checks every row of the tables. Usage: PROGRAM [--together] [--libc] [ID...]
 *
 *   (default)    each rule in a child process, so that a crash costs one rule
 *   --together   all rules one after the other in this process, so that each meets the heap the others left
 *   --libc       the C library's own malloc is under test: rules marked OURS are left out
 *
 * One line a rule on stdout, a last line with the counts, exit status 0 only if no rule is broken.
 */
#define _GNU_SOURCE
#include "rule.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEPT = 0, BROKEN = 1, SKIPPED = 77, SECONDS_PER_RULE = 300 };

static char context[200];
static int broken_checks;
static const char *skip_reason;
static int libc_under_test;

void note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
}

int rule_broken(const char *file, int line, const char *condition) {
    /* A broken rule tends to be broken for many sizes; the first few tell enough. */
    if (++broken_checks <= 3) {
        const char *name = strrchr(file, '/');
        printf("     %s:%d: not so: %s", name ? name + 1 : file, line, condition);
        printf(context[0] ? " (%s)\n" : "\n", context);
    }
    return 0;
}

void skip(const char *why) { skip_reason = why; }
int skipped(void) { return skip_reason != NULL; }

void *hide(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

int ours(void) { return !libc_under_test; }

static int check(const struct rule *rule) {
    context[0] = 0;
    broken_checks = 0;
    skip_reason = NULL;
    alarm(SECONDS_PER_RULE);
    rule->check();
    alarm(0);
    return broken_checks ? BROKEN : skip_reason ? SKIPPED : KEPT;
}

static int check_in_child(const struct rule *rule) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (rule->flags & LIMITED) {
            struct rlimit limit = {ADDRESS_LIMIT, ADDRESS_LIMIT};
            setrlimit(RLIMIT_AS, &limit);
            char *const arguments[] = {"rule", "--under-limit", (char *)rule->id, libc_under_test ? "--libc" : NULL, NULL};
            execv("/proc/self/exe", arguments);
            _exit(126);
        }
        int result = check(rule);
        if (skip_reason) printf("     %s\n", skip_reason);
        fflush(stdout);
        _exit(result);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
        printf("     ended by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
        return BROKEN;
    }
    return WEXITSTATUS(status) == SKIPPED ? SKIPPED : WEXITSTATUS(status) ? BROKEN : KEPT;
}

static const struct rule *rule_named(const char *id) {
    for (const struct rule *const *table = rule_tables; *table; table++)
        for (const struct rule *rule = *table; rule->id; rule++)
            if (strcmp(rule->id, id) == 0) return rule;
    return NULL;
}

int main(int argc, char **argv) {
    int together = 0, first_id = 1, counts[3] = {0, 0, 0};
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);

    for (; first_id < argc && strncmp(argv[first_id], "--", 2) == 0; first_id++) {
        if (strcmp(argv[first_id], "--together") == 0) together = 1;
        else if (strcmp(argv[first_id], "--libc") == 0) libc_under_test = 1;
        else if (strcmp(argv[first_id], "--under-limit") == 0 && first_id + 1 < argc) {
            const struct rule *rule = rule_named(argv[first_id + 1]);
            libc_under_test = argc > first_id + 2;
            int result = rule ? check(rule) : BROKEN;
            if (skip_reason) printf("     %s\n", skip_reason);
            fflush(stdout);
            return result;
        } else {
            fprintf(stderr, "unknown option %s\n", argv[first_id]);
            return 2;
        }
    }
    for (int i = first_id; i < argc; i++)
        if (!rule_named(argv[i])) {
            fprintf(stderr, "no rule is called %s\n", argv[i]);
            return 2;
        }

    for (const struct rule *const *table = rule_tables; *table; table++)
        for (const struct rule *rule = *table; rule->id; rule++) {
            int wanted = first_id == argc;
            for (int i = first_id; i < argc; i++) wanted |= strcmp(argv[i], rule->id) == 0;
            if (!wanted || (libc_under_test && (rule->flags & OURS))) continue;
            int in_child = !together || (rule->flags & LIMITED);
            int result = in_child ? check_in_child(rule) : check(rule);
            if (!in_child && skip_reason) printf("     %s\n", skip_reason);
            printf("%s %-28s [%s] %s\n", result == KEPT ? "kept" : result == SKIPPED ? "skip" : "BROKEN", rule->id,
                   rule->source, rule->text);
            counts[result == KEPT ? 0 : result == BROKEN ? 1 : 2]++;
        }
    printf("%d rules: %d kept, %d broken, %d skipped\n", counts[0] + counts[1] + counts[2], counts[0], counts[1],
           counts[2]);
    fflush(stdout);
    return counts[1] != 0;
}
