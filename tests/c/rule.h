/*
 * The frame of the conformance programs: a rule of a standard is one row of a table, and the runner in
 * runner.c checks row after row, each in a process of its own or all in one.
 */
#ifndef RULE_H
#define RULE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    /* glibc itself need not keep the rule: it lacks the function, changed its mind between versions, or
     * promises less. Checked on our library only. */
    OURS = 1,
    /* The rule needs a process with RLIMIT_AS of ADDRESS_LIMIT bytes from its start. */
    LIMITED = 2
};

#define ADDRESS_LIMIT ((size_t)1 << 30)

struct rule {
    const char *id;
    const char *source;
    const char *text;
    void (*check)(void);
    unsigned flags;
};

/* A table ends with a row whose id is NULL; tables end with a NULL. */
extern const struct rule *const rule_tables[];

/* True if `condition` holds; else the rule being checked is broken, which is reported with the last note. */
#define CHECK(condition) ((condition) ? 1 : rule_broken(__FILE__, __LINE__, #condition))

int rule_broken(const char *file, int line, const char *condition);

/* Says what the checks that follow are about ("size 17"), for the report of a broken one. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the check of this rule in this process, because it cannot be decided here. */
void skip(const char *why);
int skipped(void);

/* Keeps `pointer` out of the compiler's sight, so that no call is folded away. */
void *hide(void *pointer);

/* The address of a function that the C library at hand may lack: linked in if the program is linked with the
 * library, else looked up. */
typedef void (*function)(void);
function find(const char *name);

/* Whether the library under test is ours (and not the C library's own malloc). */
int ours(void);

#ifdef __cplusplus
}
#endif

#endif
