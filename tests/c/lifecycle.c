/*
 * Allocates wherever a program may: before and in constructors, in thread-specific destructors, in atexit and
 * at_quick_exit handlers, in destructors after main. Each stage checks and frees blocks of earlier ones and notes its
 * letter; the last prints the letters. `lifecycle quick` ends by quick_exit, `lifecycle thread` by pthread_exit of the
 * main thread while another goes on.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEPT = 300 };

static unsigned char *kept[KEPT];
static size_t sizes[KEPT];
static char stages[32];

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0) _exit(9);
}

static void *hide(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

/* Checks what the stage before left, frees two thirds of it and allocates anew. */
static void stage(char letter) {
    for (int i = 0; i < KEPT; i++) {
        if (kept[i])
            for (size_t j = 0; j < sizes[i]; j++)
                if (kept[i][j] != (unsigned char)i) {
                    say("content lost\n");
                    _exit(8);
                }
        if (kept[i] && i % 3 == 0) continue;
        free(kept[i]);
        sizes[i] = (size_t)(i % 50 == 7 ? 400000 : i * 11 + letter);
        kept[i] = hide(i % 2 ? malloc(sizes[i]) : calloc(1, sizes[i]));
        if (!kept[i]) {
            say("no memory\n");
            _exit(7);
        }
        memset(kept[i], i, sizes[i]);
    }
    void *aligned = hide(memalign(256, 1000));
    if ((uintptr_t)aligned & 255) _exit(6);
    free(hide(realloc(aligned, 100000)));
    size_t length = strlen(stages);
    if (length + 1 < sizeof stages) stages[length] = letter;
}

/* Runs before the constructors of every shared library. Static programs have the section too. */
static void before_constructors(int argc, char **argv, char **environment) {
    (void)argc, (void)argv, (void)environment;
    stage('p');
}
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(int, char **, char **) =
    before_constructors;

__attribute__((constructor(101))) static void first_constructor(void) { stage('c'); }
__attribute__((constructor)) static void constructor(void) { stage('d'); }

/* The lower its number, the later a destructor runs. */
__attribute__((destructor)) static void destructor_after_main(void) { stage('y'); }
__attribute__((destructor(101))) static void last_destructor(void) {
    stage('z');
    say(stages);
    say("\n");
}

static void at_exit(void) { stage('x'); }
static void at_quick_exit_(void) {
    stage('q');
    say(stages);
    say("\n");
}

static void of_key(void *value) {
    free(value);
    stage('k');
}

static void *body(void *argument) {
    pthread_key_t *key = argument;
    pthread_setspecific(*key, hide(malloc(100)));
    stage('t');
    return NULL;
}

static void *exits_for_main(void *argument) {
    pthread_join(*(pthread_t *)argument, NULL);
    stage('j');
    exit(0);
}

int main(int argc, char **argv) {
    static pthread_t self;
    pthread_key_t key;
    pthread_t thread;
    alarm(60);
    stage('m');
    if (atexit(at_exit) || at_quick_exit(at_quick_exit_)) return 1;
    if (pthread_key_create(&key, of_key) || pthread_create(&thread, NULL, body, &key)) return 1;
    pthread_join(thread, NULL);
    stage('n');
    if (argc > 1 && strcmp(argv[1], "quick") == 0) quick_exit(0);
    if (argc > 1 && strcmp(argv[1], "thread") == 0) {
        self = pthread_self();
        if (pthread_create(&thread, NULL, exits_for_main, &self)) return 1;
        pthread_setspecific(key, hide(malloc(100)));
        pthread_exit(NULL);
    }
    return 0;
}
