/* A small program: a few hundred blocks of up to 2 KB, half of them freed and
 * allocated again. What it takes is mostly what an allocator needs to be there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 300 };

int main(void) {
    static char *held[BLOCKS];
    static size_t sizes[BLOCKS];
    unsigned state = 1;
    size_t sum = 0;
    for (int turn = 0; turn < 3; turn++)
        for (int i = 0; i < BLOCKS; i++) {
            if (turn && (i + turn) % 2) continue;
            state = state * 1103515245 + 12345;
            unsigned bits = 3 + (state >> 16) % 8;
            if (held[i] && (unsigned char)held[i][sizes[i] - 1] != i % 251) return 1;
            free(held[i]);
            sizes[i] = (1u << bits) + (state >> 20) % (1u << bits);
            held[i] = malloc(sizes[i]);
            if (!held[i]) return 1;
            memset(held[i], i % 251, sizes[i]);
            sum += sizes[i];
        }
    for (int i = 0; i < BLOCKS; i++) free(held[i]);
    printf("result %zu\n", sum);
}
