/* Where the functions beyond the C library's come from: see rule.h. LINKED is defined when the program is linked with
 * the library, dynamically or statically; a missing function is then an error of the linker. */
#define _GNU_SOURCE
#include "rule.h"

#include <string.h>

#ifdef LINKED

#include <cidalloc.h>

static const struct {
    const char *name;
    function address;
} linked[] = {
    {"free_sized", (function)free_sized}, {"free_aligned_sized", (function)free_aligned_sized},
    {"cfree", (function)cfree},           {"sdallocx", (function)sdallocx},
    {"nallocx", (function)nallocx},
};

function find(const char *name) {
    for (size_t i = 0; i < sizeof linked / sizeof *linked; i++)
        if (strcmp(linked[i].name, name) == 0) return linked[i].address;
    return NULL;
}

#else

#include <dlfcn.h>

function find(const char *name) {
    /* POSIX's way from an object pointer to a function pointer. */
    function address;
    *(void **)&address = dlsym(RTLD_DEFAULT, name);
    return address;
}

#endif
