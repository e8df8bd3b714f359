// Prints the library that malloc comes from, and tcmalloc's mode.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

int main() {
    Dl_info info;
    void *p = dlsym(RTLD_DEFAULT, "malloc");
    if (!p || !dladdr(p, &info)) return 1;
    printf("malloc %s\n", info.dli_fname);
    free(malloc(100));
    if (void *f = dlsym(RTLD_DEFAULT, "MallocExtension_Internal_GetPerCpuCachesActive"))
        printf("per_cpu %s\n", reinterpret_cast<bool (*)()>(f)() ? "on" : "off");
}
