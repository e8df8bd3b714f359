/*
 * A user of rseq that is not cidalloc: the ABI as the kernel's headers and documentation have it, without a library.
 * Sections of its own on x86_64 and aarch64, announced in whatever area the caller names.
 */
#ifndef REGISTRATION_RSEQ_H
#define REGISTRATION_RSEQ_H

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct rseq; a name of our own, as newer C libraries have theirs. */
struct area {
    volatile uint32_t cpu_id_start, cpu_id;
    volatile uint64_t rseq_cs;
    volatile uint32_t flags, node_id, mm_cid, slice_ctrl;
    uint8_t later[96];
} __attribute__((aligned(128)));

enum { ORIGINAL_LENGTH = 32, UNREGISTER = 1 };

#if defined(__x86_64__)
#define SIGNATURE 0x53053053u
#elif defined(__aarch64__)
#define SIGNATURE 0xd428bc00u
#else
#error "no sections for this architecture"
#endif

extern const unsigned __rseq_size __attribute__((weak));
extern const ptrdiff_t __rseq_offset __attribute__((weak));

/* The C library's area of this thread; NULL if it has none of any thread. */
static inline struct area *libc_area(void) {
    if (!&__rseq_size || __rseq_size == 0) return NULL;
    return (struct area *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* What the C library registers: it tells less than 32 of the original length. */
static inline unsigned libc_length(void) { return __rseq_size < ORIGINAL_LENGTH ? ORIGINAL_LENGTH : __rseq_size; }

/* The length that a registration of full size has. */
static inline unsigned full_length(void) {
    enum { RSEQ_FEATURE_SIZE = 27 };
    unsigned long size = getauxval(RSEQ_FEATURE_SIZE);
    return size < ORIGINAL_LENGTH ? ORIGINAL_LENGTH : (unsigned)size;
}

static inline int is_registered(const struct area *area) { return area && (int32_t)area->cpu_id >= 0; }

/* 0, or the error. */
static inline int register_area(struct area *area, unsigned length, int flags) {
    if (!(flags & UNREGISTER)) {
        area->cpu_id_start = 0;
        area->cpu_id = (uint32_t)-1;
        area->rseq_cs = 0;
    }
    return syscall(SYS_rseq, area, length, flags, SIGNATURE) ? errno : 0;
}

enum ended { DONE, MOVED, ABORTED };

/*
 * Adds 1 to *counter in a section announced in `area`, if *id is `held` in there; in between it goes round a loop `rounds`
 * times (at least once), or until *until is not 0.
 */
static inline enum ended count_in_section(struct area *area, const volatile uint32_t *id, uint32_t held,
                                          volatile uint64_t *counter, uint64_t rounds, const volatile uint32_t *until) {
#if defined(__x86_64__)
    __asm__ goto(".pushsection __rseq_cs, \"aw\"\n"
                 ".balign 32\n"
                 "6: .long 0, 0\n"
                 ".quad 3f, 4f - 3f, 7f\n"
                 ".popsection\n"
                 ".pushsection .text.aborted, \"ax\"\n"
                 ".byte 0x0f, 0xb9, 0x3d\n"
                 ".long 0x53053053\n"
                 "7: jmp %l[aborted]\n"
                 ".popsection\n"
                 "lea 6b(%%rip), %%rax\n"
                 "mov %%rax, 8(%[area])\n"
                 "3: cmp %[held], (%[id])\n"
                 "jne %l[moved]\n"
                 "mov (%[counter]), %%rax\n"
                 "mov %[rounds], %%rcx\n"
                 "9: cmpl $0, (%[until])\n"
                 "jne 8f\n"
                 "dec %%rcx\n"
                 "jnz 9b\n"
                 "8: inc %%rax\n"
                 "mov %%rax, (%[counter])\n"
                 "4:\n"
                 :
                 : [area] "r"(area), [id] "r"(id), [held] "r"(held), [counter] "r"(counter), [rounds] "r"(rounds), [until] "r"(until)
                 : "rax", "rcx", "memory", "cc"
                 : moved, aborted);
#else
    __asm__ goto(".pushsection __rseq_cs, \"aw\"\n"
                 ".balign 32\n"
                 "6: .long 0, 0\n"
                 ".quad 3f, 4f - 3f, 7f\n"
                 ".popsection\n"
                 ".pushsection .text.aborted, \"ax\"\n"
                 ".inst 0xd428bc00\n"
                 "7: b %l[aborted]\n"
                 ".popsection\n"
                 "adrp x9, 6b\n"
                 "add x9, x9, :lo12:6b\n"
                 "str x9, [%[area], 8]\n"
                 "3: ldr w9, [%[id]]\n"
                 "cmp w9, %w[held]\n"
                 "b.ne %l[moved]\n"
                 "ldr x9, [%[counter]]\n"
                 "mov x10, %[rounds]\n"
                 "9: ldr w11, [%[until]]\n"
                 "cbnz w11, 8f\n"
                 "subs x10, x10, 1\n"
                 "b.ne 9b\n"
                 "8: add x9, x9, 1\n"
                 "str x9, [%[counter]]\n"
                 "4:\n"
                 :
                 : [area] "r"(area), [id] "r"(id), [held] "r"(held), [counter] "r"(counter), [rounds] "r"(rounds), [until] "r"(until)
                 : "x9", "x10", "x11", "memory", "cc"
                 : moved, aborted);
#endif
    return DONE;
moved:
    return MOVED;
aborted:
    return ABORTED;
}

#endif
