/*
 * A library whose fork handlers allocate, check and free, registered by a constructor: preloaded before the allocator
 * or after it, its handlers run while the allocator's locks are free, or while they are held.
 */
#define _GNU_SOURCE
#include "life.h"

static struct block *kept[3];
static unsigned long forks;

static void prepare(void) {
    for (unsigned long i = 0; i < 3; i++) {
        if (kept[i]) block_free(kept[i], i);
        kept[i] = block_new(i == 2 ? 200000 : 50 + forks % 400, i);
    }
    churn(forks, 60, 30);
    forks++;
}
static void in_parent(void) {
    for (unsigned long i = 0; i < 2; i++) block_free(kept[i], i), kept[i] = NULL;
    churn(forks, 60, 30);
}
static void in_child(void) {
    for (unsigned long i = 0; i < 3; i++) block_check(kept[i], i);
    in_parent();
}

__attribute__((constructor)) static void start(void) {
    pthread_atfork(prepare, in_parent, in_child);
}
