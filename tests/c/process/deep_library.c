/* A library to be opened with RTLD_DEEPBIND: hands blocks out and takes them in. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *deep_malloc(size_t size) { return malloc(size); }
void *deep_calloc(size_t count, size_t size) { return calloc(count, size); }
void *deep_realloc(void *block, size_t size) { return realloc(block, size); }
void deep_free(void *block) { free(block); }
char *deep_strdup(const char *text) { return strdup(text); }
char *deep_asprintf(int number) {
    char *text;
    return asprintf(&text, "the number %d, as text that is longer than a few bytes", number) < 0 ? NULL : text;
}
char *deep_getline(const char *path) {
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    if (getline(&line, &room, file) < 0) line = NULL;
    fclose(file);
    return line;
}
/* Which malloc this library has come to. */
void *deep_address_of_malloc(void) { return (void *)malloc; }
