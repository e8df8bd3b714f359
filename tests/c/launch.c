/*
 * Starts a program for which the kernel refuses system calls: launch ERRNO CALL[,CALL]... PROGRAM [ARGUMENT]...
 * ERRNO is EPERM, ENOSYS or EACCES.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
    const char *name;
    int number;
} calls[] = {
    {"madvise", SYS_madvise},
    {"mremap", SYS_mremap},
    {"membarrier", SYS_membarrier},
    {"rseq", 0
#ifdef SYS_rseq
                 + SYS_rseq
#elif defined __x86_64__
                 + 334
#else
                 + 293
#endif
    },
    {"getrandom", SYS_getrandom},
    {"sched_getaffinity", SYS_sched_getaffinity},
    {"openat", SYS_openat},
    {"prlimit64", SYS_prlimit64},
    {"uname", SYS_uname},
    {"tgkill", SYS_tgkill},
    {"process_vm_readv", SYS_process_vm_readv},
};

static const struct {
    const char *name;
    int number;
} errors[] = {{"EPERM", EPERM}, {"ENOSYS", ENOSYS}, {"EACCES", EACCES}};

#define STATEMENT(code, k) ((struct sock_filter)BPF_STMT(code, k))

int main(int argc, char **argv) {
    struct sock_filter program[2 * sizeof calls / sizeof *calls + 2];
    unsigned short length = 0;
    int error = 0;
    if (argc < 4) return 2;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (strcmp(errors[i].name, argv[1]) == 0) error = errors[i].number;
    if (!error) return 2;
    program[length++] = STATEMENT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (char *word = strtok(argv[2], ","); word; word = strtok(NULL, ",")) {
        int number = -1;
        for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
            if (strcmp(calls[i].name, word) == 0) number = calls[i].number;
        if (number < 0 || length + 3u > sizeof program / sizeof *program) {
            fprintf(stderr, "launch: %s is not known\n", word);
            return 2;
        }
        program[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1);
        program[length++] = STATEMENT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error);
    }
    program[length++] = STATEMENT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {length, program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
        perror("launch: no filter can be installed");
        return 3;
    }
    execvp(argv[3], argv + 3);
    perror(argv[3]);
    return 127;
}
