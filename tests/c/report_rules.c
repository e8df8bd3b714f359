/* Rules of the functions that report on the heap or tune it. */
#define _GNU_SOURCE
#include "rule.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* What this process has in memory, in bytes; read without allocating. */
static size_t resident(void) {
    char text[200];
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long total = 0, pages = 0;
    if (!file) return 0;
    if (fgets(text, sizeof text, file)) sscanf(text, "%lu %lu", &total, &pages);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* malloc_info's text, to be freed. */
static char *info(int *result) {
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) return NULL;
    *result = malloc_info(0, stream);
    fclose(stream);
    return text;
}

/* Reads a name; returns what follows it, or NULL. */
static const char *name_end(const char *at) {
    if (!isalpha((unsigned char)*at) && *at != '_') return NULL;
    while (isalnum((unsigned char)*at) || strchr("_-.:", *at)) {
        if (!*at) return NULL;
        at++;
    }
    return at;
}

/* Whether `text` is one element: tags paired, attributes named once in quotes, no bare '<' or '&' between. Enough of
 * XML for what a malloc_info writes; comments and the like count as errors. */
static int well_formed(const char *text) {
    struct {
        const char *name;
        size_t length;
    } open[16];
    int depth = 0, elements = 0;
    const char *at = text;
    if (strncmp(at, "<?xml", 5) == 0) {
        at = strstr(at, "?>");
        if (!at) return 0;
        at += 2;
    }
    while (*at) {
        if (*at != '<') {
            if (depth == 0 && !isspace((unsigned char)*at)) return 0;
            if (*at == '>') return 0;
            if (*at == '&' && !strchr(at, ';')) return 0;
            at++;
            continue;
        }
        at++;
        int closing = *at == '/';
        if (closing) at++;
        const char *name = at;
        at = name_end(at);
        if (!at) return 0;
        size_t length = (size_t)(at - name);
        if (closing) {
            if (depth == 0 || open[depth - 1].length != length || memcmp(open[depth - 1].name, name, length)) return 0;
            depth--;
            while (isspace((unsigned char)*at)) at++;
            if (*at++ != '>') return 0;
            continue;
        }
        if (depth == 0 && elements++) return 0;
        for (;;) {
            int space = isspace((unsigned char)*at);
            while (isspace((unsigned char)*at)) at++;
            if (*at == '>' || *at == '/') break;
            if (!space || !(at = name_end(at)) || *at++ != '=') return 0;
            char quote = *at++;
            if (quote != '"' && quote != '\'') return 0;
            while (*at && *at != quote && *at != '<') at++;
            if (*at++ != quote) return 0;
        }
        if (*at == '/') {
            at++;
        } else {
            if (depth == 16) return 0;
            open[depth].name = name;
            open[depth++].length = length;
        }
        if (*at++ != '>') return 0;
    }
    return depth == 0 && elements == 1;
}

static void malloc_info_is_xml(void) {
    CHECK(well_formed("<a v=\"1\"><b/><c x='2' y=\"3\">t</c>\n</a>\n"));
    CHECK(!well_formed("<a><b></a></b>") && !well_formed("<a x=1/>") && !well_formed("<a/><b/>") && !well_formed("<a>"));

    void *held[200];
    for (int i = 0; i < 200; i++) held[i] = hide(malloc((size_t)(1 + i * i * 20)));
    int result = -1;
    char *text = info(&result);
    if (!CHECK(text != NULL)) return;
    CHECK(result == 0);
    note("%.150s", text);
    CHECK(well_formed(text));
    const char *root = strstr(text, "<malloc");
    const char *root_end = root ? strchr(root, '>') : NULL;
    const char *version = root ? strstr(root, "version=\"") : NULL;
    CHECK(root != NULL);
    CHECK(version && version < root_end && isdigit((unsigned char)version[9]));
    free(text);
    for (int i = 0; i < 200; i++) free(held[i]);
}

static void malloc_info_refuses_options(void) {
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    if (!CHECK(stream != NULL)) return;
    errno = 0;
    int result = malloc_info(1, stream);
    /* The man page says -1 and errno; glibc returns EINVAL itself. */
    CHECK(result == EINVAL || (result == -1 && errno == EINVAL));
    fclose(stream);
    CHECK(size == 0);
    free(text);
}

static void malloc_stats_writes_to_stderr(void) {
    FILE *file = tmpfile();
    if (!CHECK(file != NULL)) return;
    fflush(stderr);
    int saved = dup(2);
    if (!CHECK(saved >= 0 && dup2(fileno(file), 2) == 2)) return;
    malloc_stats();
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    CHECK(lseek(fileno(file), 0, SEEK_END) > 0);
    fclose(file);
}

#if defined __GLIBC__ && __GLIBC_PREREQ(2, 33)

static void mallinfo2_follows(void) {
    enum { SMALL = 2000, LARGE = 4 };
    static void *small[SMALL], *large[LARGE];
    if (getenv("CIDALLOC_CHECK")) {
        skip("the checking mode keeps freed blocks, which are in use to the layers below");
        return;
    }
    const size_t small_size = 4000, large_size = 8 * MIB;
    const size_t bytes = SMALL * small_size + LARGE * large_size;
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < SMALL; i++) small[i] = hide(malloc(small_size));
    for (int i = 0; i < LARGE; i++) large[i] = hide(malloc(large_size));
    struct mallinfo2 during = mallinfo2();
    for (int i = 0; i < SMALL; i++) free(small[i]);
    for (int i = 0; i < LARGE; i++) free(large[i]);
    struct mallinfo2 after = mallinfo2();

    size_t used_before = before.uordblks + before.hblkhd, used_during = during.uordblks + during.hblkhd,
           used_after = after.uordblks + after.hblkhd;
    note("in use %zu, then %zu, then %zu; arena %zu, free %zu", used_before, used_during, used_after, during.arena,
         during.fordblks);
    CHECK(used_during >= used_before + bytes);
    CHECK(used_during <= used_before + bytes + bytes / 4);
    CHECK(used_after + LARGE * large_size <= used_during);
    CHECK(during.arena + during.hblkhd >= used_during);
    CHECK(during.uordblks + during.fordblks <= during.arena + during.hblkhd);
    CHECK(during.hblks == 0 || during.hblkhd != 0);
    CHECK(during.keepcost <= during.fordblks);
}

static void mallinfo_is_mallinfo2(void) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo narrow = mallinfo();
#pragma GCC diagnostic pop
    struct mallinfo2 wide = mallinfo2();
    note("arena %d and %zu, in use %d and %zu", narrow.arena, wide.arena, narrow.uordblks, wide.uordblks);
    CHECK(narrow.arena == (int)wide.arena);
    CHECK(narrow.hblkhd == (int)wide.hblkhd);
    CHECK(narrow.uordblks == (int)wide.uordblks);
    CHECK(narrow.fordblks == (int)wide.fordblks);
}

#else

static void mallinfo2_follows(void) { skip("the C library declares no mallinfo2"); }
static void mallinfo_is_mallinfo2(void) { skip("the C library declares no mallinfo2"); }

#endif

static void mallopt_accepts(void) {
    static const struct {
        int parameter, value;
        const char *name;
    } cases[] = {
        {M_TRIM_THRESHOLD, 1 << 20, "M_TRIM_THRESHOLD"}, {M_TOP_PAD, 65536, "M_TOP_PAD"},
        {M_MMAP_THRESHOLD, 1 << 20, "M_MMAP_THRESHOLD"}, {M_MMAP_MAX, 1000, "M_MMAP_MAX"},
        {M_CHECK_ACTION, 3, "M_CHECK_ACTION"},           {M_ARENA_TEST, 2, "M_ARENA_TEST"},
        {M_ARENA_MAX, 4, "M_ARENA_MAX"},                 {M_MXFAST, 64, "M_MXFAST"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        note("%s", cases[i].name);
        CHECK(mallopt(cases[i].parameter, cases[i].value) == 1);
        void *block = hide(malloc(1000));
        CHECK(block != NULL);
        free(block);
    }
}

static void mallopt_refuses(void) {
    /* More than 80 * sizeof(size_t) / 4. */
    CHECK(mallopt(M_MXFAST, 1000000) == 0);
}

static void mallopt_returns_0_or_1(void) {
    for (int parameter = 100; parameter < 110; parameter++) {
        int result = mallopt(parameter, 1);
        note("parameter %d: %d", parameter, result);
        CHECK(result == 0 || result == 1);
    }
}

/* An option that is said to be set has to work. The block is too large for glibc's thread cache, which forgets. */
static void mallopt_perturb_is_honest(void) {
    if (!mallopt(M_PERTURB, 0x5a)) {
        skip("mallopt refuses M_PERTURB, as it may");
        return;
    }
    for (int round = 0; round < 50; round++) {
        unsigned char *block = hide(malloc(5000)), *cleared = hide(calloc(1, 5000));
        if (!CHECK(block && cleared)) break;
        for (int i = 0; i < 5000; i++)
            if (!CHECK(block[i] == 0xa5) || !CHECK(cleared[i] == 0)) break;
        free(block);
        free(cleared);
    }
    mallopt(M_PERTURB, 0);
}

static void malloc_trim_gives_back(void) {
    enum { BLOCKS = 16000 };
    static void *blocks[BLOCKS];
    malloc_trim(0);
    size_t before = resident();
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = hide(malloc(4000));
        if (!CHECK(blocks[i] != NULL)) return;
        memset(blocks[i], 1, 4000);
    }
    size_t during = resident();
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    size_t freed = resident();
    int result = malloc_trim(0);
    size_t after = resident();
    note("resident %zu, then %zu, freed %zu, trimmed %zu; returned %d", before, during, freed, after, result);
    CHECK(during >= before + BLOCKS * 4000 * 9 / 10);
    CHECK(result == 0 || result == 1);
    CHECK(after <= before + 8 * MIB);
    /* 1 says that something went back, and only then. */
    if (freed > after + 8 * MIB) CHECK(result == 1);
    result = malloc_trim(0);
    CHECK(result == 0 || result == 1);
    result = malloc_trim((size_t)1 << 40);
    CHECK(result == 0 || result == 1);
}

/* Of a mixed set, whatever is not replaced acts on a heap that nobody uses. */
static void one_owner(void) {
    static const struct {
        const char *name;
        function linked;
    } functions[] = {
        {"malloc", (function)malloc},
        {"free", (function)free},
        {"calloc", (function)calloc},
        {"realloc", (function)realloc},
        {"reallocarray", (function)reallocarray},
        {"aligned_alloc", (function)aligned_alloc},
        {"posix_memalign", (function)posix_memalign},
        {"memalign", (function)memalign},
        {"valloc", (function)valloc},
        {"pvalloc", (function)pvalloc},
        {"malloc_usable_size", (function)malloc_usable_size},
        {"malloc_trim", (function)malloc_trim},
        {"mallopt", (function)mallopt},
        {"malloc_stats", (function)malloc_stats},
        {"malloc_info", (function)malloc_info},
#if defined __GLIBC__ && __GLIBC_PREREQ(2, 33)
        {"mallinfo2", (function)mallinfo2},
#endif
        {"mallinfo", NULL},
        {"free_sized", NULL},
        {"free_aligned_sized", NULL},
        {"cfree", NULL},
        {"sdallocx", NULL},
        {"nallocx", NULL},
    };
    Dl_info owner, other, libc, self;
    void *address;
    /* In a static program all is one object, which dladdr may not even know. */
    *(function *)&address = (function)one_owner;
    int known = dladdr(address, &self);
    *(function *)&address = (function)printf;
    if (!known || !dladdr(address, &libc) || libc.dli_fbase == self.dli_fbase) {
        skip("a static program");
        return;
    }
    *(function *)&address = (function)malloc;
    if (!CHECK(dladdr(address, &owner) != 0)) return;
    note("malloc comes from %s", owner.dli_fname);
    CHECK((owner.dli_fbase != libc.dli_fbase) == ours());
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        function address_of = functions[i].linked;
        if (!address_of) address_of = find(functions[i].name);
        if (!address_of) address_of = (function)dlsym(RTLD_DEFAULT, functions[i].name);
        note("%s", functions[i].name);
        if (!address_of && !ours()) continue;
        if (!CHECK(address_of != NULL)) continue;
        *(function *)&address = address_of;
        if (!CHECK(dladdr(address, &other) != 0)) continue;
        note("%s comes from %s, malloc from %s", functions[i].name, other.dli_fname, owner.dli_fname);
        CHECK(other.dli_fbase == owner.dli_fbase);
    }
}

const struct rule report_rules[] = {
    {"one-owner", "glibc manual, Replacing malloc",
     "all functions of the family come from one library", one_owner, 0},
    {"malloc-info-xml", "malloc_info(3)",
     "malloc_info writes one well-formed element <malloc version=...>", malloc_info_is_xml, 0},
    {"malloc-info-einval", "malloc_info(3)",
     "malloc_info refuses options other than 0 and writes nothing", malloc_info_refuses_options, 0},
    {"malloc-stats", "malloc_stats(3)", "malloc_stats writes to stderr", malloc_stats_writes_to_stderr, 0},
    {"mallinfo2", "mallinfo(3)", "mallinfo2 follows what is in use, and its sums agree", mallinfo2_follows, 0},
    {"mallinfo", "mallinfo(3)", "mallinfo tells the same in ints", mallinfo_is_mallinfo2, 0},
    {"mallopt-accepts", "mallopt(3)",
     "mallopt returns 1 for the documented parameters, and malloc works on", mallopt_accepts, 0},
    {"mallopt-refuses", "mallopt(3)", "mallopt returns 0 for a value out of range", mallopt_refuses, 0},
    {"mallopt-unknown", "mallopt(3)", "mallopt returns 0 or 1 for an unknown parameter", mallopt_returns_0_or_1, 0},
    {"mallopt-perturb", "mallopt(3)", "mallopt(M_PERTURB) fails or fills", mallopt_perturb_is_honest, 0},
    {"malloc-trim", "malloc_trim(3)",
     "malloc_trim gives free memory back and returns 1 if it did, else 0", malloc_trim_gives_back, 0},
    {NULL, NULL, NULL, NULL, 0},
};
