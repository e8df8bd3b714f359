/*
 * A library that wraps what an allocator or its C library might call, and allocates in every wrapper. Wrappers go on
 * by bare system calls where they can. At the end it says how often it was called, and by whom from the allocator.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include "life.h"

static long calls, depth_most;
static __thread int depth;
static char from_allocator[512];

/* Whether the wrapper's caller lies in the allocator, known after the constructor. */
static uintptr_t text_begin, text_end;

static void allocate(const char *name, void *caller) {
    int error = errno;
    depth++;
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (depth > depth_most) depth_most = depth;
    if ((uintptr_t)caller >= text_begin && (uintptr_t)caller < text_end && !strstr(from_allocator, name)) {
        strcat(from_allocator, " ");
        strcat(from_allocator, name);
    }
    if (depth < 8) {
        void *small = malloc(40), *large = malloc(200000);
        REQUIRE(small && large);
        memset(small, 1, 40);
        memset(large, 2, 200000);
        small = realloc(small, 400);
        free(large);
        free(small);
    }
    depth--;
    errno = error;
}
#define ALLOCATE() allocate(__func__, __builtin_return_address(0))

/* glibc's own dlsym, which this library wraps. */
static void *next(const char *name) {
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    static void *(*look)(void *, const char *);
    for (int i = 0; i < 3 && !look; i++)
        look = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    REQUIRE(look);
    return look(RTLD_NEXT, name);
}

void *mmap(void *at, size_t length, int protection, int flags, int file, off_t offset) {
    ALLOCATE();
    return (void *)syscall(SYS_mmap, at, length, protection, flags, file, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int file, off_t offset) {
    ALLOCATE();
    return (void *)syscall(SYS_mmap, at, length, protection, flags, file, offset);
}
int munmap(void *at, size_t length) {
    ALLOCATE();
    return (int)syscall(SYS_munmap, at, length);
}
int madvise(void *at, size_t length, int advice) {
    ALLOCATE();
    return (int)syscall(SYS_madvise, at, length, advice);
}
int mprotect(void *at, size_t length, int protection) {
    ALLOCATE();
    return (int)syscall(SYS_mprotect, at, length, protection);
}
#define OPEN(name, directory, ...)                                             \
    int name(__VA_ARGS__ const char *path, int flags, ...) {                            \
        va_list rest;                                                                   \
        va_start(rest, flags);                                                          \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;               \
        va_end(rest);                                                                   \
        ALLOCATE();                                                                     \
        return (int)syscall(SYS_openat, directory, path, flags, mode);                  \
    }
OPEN(open, AT_FDCWD, )
OPEN(open64, AT_FDCWD, )
#define COMMA ,
OPEN(openat, at, int at COMMA)
OPEN(openat64, at, int at COMMA)
ssize_t read(int file, void *buffer, size_t length) {
    ALLOCATE();
    return syscall(SYS_read, file, buffer, length);
}
ssize_t write(int file, const void *buffer, size_t length) {
    ALLOCATE();
    return syscall(SYS_write, file, buffer, length);
}
int close(int file) {
    ALLOCATE();
    return (int)syscall(SYS_close, file);
}
int sched_yield(void) {
    ALLOCATE();
    return (int)syscall(SYS_sched_yield);
}
char *getenv(const char *name) {
    static char *(*real)(const char *);
    ALLOCATE();
    if (!real) real = (char *(*)(const char *))next("getenv");
    return real(name);
}
char *secure_getenv(const char *name) {
    ALLOCATE();
    return getenv(name);
}
long sysconf(int name) {
    static long (*real)(int);
    ALLOCATE();
    if (!real) real = (long (*)(int))next("sysconf");
    return real(name);
}
unsigned long getauxval(unsigned long type) {
    static unsigned long (*real)(unsigned long);
    ALLOCATE();
    if (!real) real = (unsigned long (*)(unsigned long))next("getauxval");
    return real(type);
}
void *dlopen(const char *path, int flags) {
    static void *(*real)(const char *, int);
    ALLOCATE();
    if (!real) real = (void *(*)(const char *, int))next("dlopen");
    return real(path, flags);
}
/* The real caller decides what RTLD_NEXT means: here it is only asked for what comes after everything. */
void *dlsym(void *handle, const char *name) {
    ALLOCATE();
    if (handle == RTLD_NEXT) return next(name);
    static void *(*real)(void *, const char *);
    if (!real) real = (void *(*)(void *, const char *))next("dlsym");
    return real(handle, name);
}
int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *library) {
    static int (*real)(void (*)(void), void (*)(void), void (*)(void), void *);
    ALLOCATE();
    if (!real) real = (int (*)(void (*)(void), void (*)(void), void (*)(void), void *))next("__register_atfork");
    return real(prepare, parent, child, library);
}
int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    ALLOCATE();
    return __register_atfork(prepare, parent, child, NULL);
}

__attribute__((constructor)) static void start(void) {
    Dl_info info;
    if (!nallocx || !dladdr((void *)nallocx, &info)) return;
    text_begin = (uintptr_t)info.dli_fbase;
    text_end = text_begin + (1 << 20);
}

__attribute__((destructor)) static void report(void) {
    char text[700];
    int length = snprintf(text, sizeof text, "shim %ld calls, depth %ld, from the allocator:%s\n", calls, depth_most,
                          from_allocator);
    /* Programs may have closed it. */
    syscall(SYS_write, 2, text, length);
}
