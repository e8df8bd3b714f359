// What the heap takes at the most, in MB, after the most that was live at once. `holes`: one block in twenty stays of
// what was freed, and a large block comes. `tails`: large blocks that use a few pages of their last hugepage.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *block[4096];

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    _exit(1);
}

// Without the C library's streams, which allocate.
static long peak_mb(void) {
    static char text[4096];
    long kb = 0;
    int fd = open("/proc/self/status", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0) fail("status");
    close(fd);
    char *at = strstr(text, "VmHWM:");
    if (!at || sscanf(at, "VmHWM: %ld", &kb) != 1) fail("VmHWM");
    return kb / 1024;
}

static char *filled(size_t size) {
    char *p = malloc(size);
    if (!p) fail("no memory");
    memset(p, 1, size);
    return p;
}

int main(int argc, char **argv) {
    int holes = argc > 1 && !strcmp(argv[1], "holes");
    size_t size = holes ? 24 << 10 : (2 << 20) + 8192, count = holes ? 2000 : 60;
    for (size_t i = 0; i < count; i++) block[i] = filled(size);
    if (holes) {
        for (size_t i = 0; i < count; i++)
            if (i % 20) free(block[i]);
        block[1] = filled(24 << 20);
    }
    printf("%zu %ld\n", size * count >> 20, peak_mb());
    return 0;
}
