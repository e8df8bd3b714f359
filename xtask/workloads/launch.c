/* Runs one program and says what it cost.
 *
 *     launch FD SECONDS PROGRAM ARGUMENT...
 *
 * Writes one line of NAME=VALUE words to FD.  It is a program of its own, and a
 * small one: a child's peak memory counts what its parent held when it forked.
 * Environment for the program alone is in BENCH_ENV, words of A=B between
 * newlines, so that launch itself is not preloaded; BENCH_ENV is not passed on. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile pid_t child;
static volatile sig_atomic_t late;

static void stop(int sig) {
    (void)sig;
    late = 1;
    if (child > 0) kill(-child, SIGKILL);
}

/* Hundredths of a second that the hypervisor gave to others; 0 if unknown. */
static unsigned long long stolen(void) {
    unsigned long long v[8] = {0};
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return 0;
    if (fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3],
               &v[4], &v[5], &v[6], &v[7]) != 8)
        v[7] = 0;
    fclose(f);
    return v[7];
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    int fd = atoi(argv[1]);
    unsigned long long steal = stolen();
    double start = now();
    child = fork();
    if (child < 0) return 2;
    if (child == 0) {
        setpgid(0, 0);
        close(fd);
        char *env = getenv("BENCH_ENV");
        if (env) env = strdup(env);
        unsetenv("BENCH_ENV");
        for (char *word = env ? strtok(env, "\n") : NULL; word; word = strtok(NULL, "\n"))
            putenv(word);
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    setpgid(child, child);
    signal(SIGALRM, stop);
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    alarm((unsigned)atoi(argv[2]));
    struct rusage u;
    int status;
    while (wait4(child, &status, 0, &u) < 0)
        if (errno != EINTR) return 2;
    double wall = now() - start;
    steal = stolen() - steal;
    kill(-child, SIGKILL); /* whatever it left behind */
    dprintf(fd,
            "status=%d late=%d wall_s=%.6f user_s=%ld.%06ld sys_s=%ld.%06ld peak_kb=%ld minor=%ld "
            "major=%ld voluntary=%ld involuntary=%ld steal_ticks=%llu\n",
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), (int)late, wall,
            (long)u.ru_utime.tv_sec, (long)u.ru_utime.tv_usec, (long)u.ru_stime.tv_sec,
            (long)u.ru_stime.tv_usec, u.ru_maxrss, u.ru_minflt, u.ru_majflt, u.ru_nvcsw,
            u.ru_nivcsw, steal);
    return 0;
}
