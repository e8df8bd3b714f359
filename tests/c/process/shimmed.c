/* Does what makes an allocator, its C library and the shim call each other. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include "life.h"

int main(void) {
    begin(150);
    pthread_t threads[4];
    start_churning(threads, 4);
    for (int n = 0; n < 20; n++) {
        pid_t child = fork();
        if (child == 0) {
            churn((unsigned long)n, 200, 100);
            _exit(3);
        }
        REQUIRE(exit_code(child) == 3);
        void *library = dlopen("libm.so.6", RTLD_NOW);
        REQUIRE(library && dlsym(library, "cos"));
        dlclose(library);
        int file = open("/proc/self/maps", O_RDONLY);
        char text[4096];
        REQUIRE(file >= 0 && read(file, text, sizeof text) > 0);
        close(file);
        REQUIRE(sysconf(_SC_PAGESIZE) >= 4096 && getenv("PATH"));
        void *at = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(at != MAP_FAILED && !munmap(at, 1 << 16));
        sched_yield();
        malloc_trim(0);
        struct block *large = block_new(5000000, 3);
        large = realloc(large, 20000000);
        REQUIRE(large);
        block_check(large, 3);
        block_free(large, 3);
        pid_t other = vfork();
        if (other == 0) {
            free(malloc(100));
            _exit(3);
        }
        REQUIRE(exit_code(other) == 3);
    }
    join_churning(threads, 4);
    puts("ok");
    return 0;
}
