// The program of tests/aborts.rs: allocates and frees by every way into the
// library, the same way each time round, and counts its blocks afterwards.
//
// Two threads, of which only one runs at a time. The main thread goes round:
//     stop (SIGSTOP)   the tracer sets its breakpoint
//     script
//     stop (SIGSTOP)   the tracer takes it away; the rival gives up its blocks
//     check            ends the program with a line "BROKEN: ..." and status 3
// The rival is the thread that uses the slab meanwhile. It does what the tracer
// writes to stdin, and answers each order with a byte on stdout:
//     r  a round: takes two blocks of many classes, or gives them back
//     f  gives back all it has
//     q  as f, and the program ends after the next check
//
// Every block is in a table from when it is got until it is given back: one
// that is got while it is there has two owners. Its two ends are stamped. What
// nobody holds the library must count as free, and what it counts as free it
// must have once: the check takes free blocks into the table, and counts.
#define _GNU_SOURCE
#include <cidalloc.h>
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Nothing here may allocate by itself.
static void broken(const char *format, ...) {
	char line[200] = "BROKEN: ";
	size_t at = strlen(line);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(line + at, sizeof line - at - 1, format, arguments);
	va_end(arguments);
	strcat(line, "\n");
	if (write(2, line, strlen(line)) < 0)
		_exit(4);
	_exit(3);
}

// ---- the table of blocks

struct block {
	char *at;
	size_t size;
	unsigned stamp;
};

#define ROOM (1u << 13)
static struct block table[ROOM];
static unsigned blocks;
static unsigned stamps;

static unsigned home(const void *at) {
	return (unsigned)((uintptr_t)at / 8 * 2654435761u >> 7) % ROOM;
}

static struct block *find(const void *at) {
	unsigned i = home(at);
	while (table[i].at && table[i].at != at)
		i = (i + 1) % ROOM;
	return &table[i];
}

static void forget(struct block *gone) {
	unsigned hole = (unsigned)(gone - table), i = hole;
	while (table[i = (i + 1) % ROOM].at) {
		// An entry moves into the hole if that is not before its home.
		if ((i - home(table[i].at)) % ROOM >= (i - hole) % ROOM) {
			table[hole] = table[i];
			hole = i;
		}
	}
	table[hole].at = 0;
	blocks--;
}

// At both ends. No block here is smaller than two stamps.
static void stamp(const struct block *b) {
	memcpy(b->at, &b->stamp, sizeof b->stamp);
	memcpy(b->at + b->size - sizeof b->stamp, &b->stamp, sizeof b->stamp);
}

// `kept`: what a change of size has kept of the block.
static void check_stamp(const struct block *b, size_t kept) {
	if (memcmp(b->at, &b->stamp, sizeof b->stamp) != 0)
		broken("the start of a block of %zu bytes was overwritten", b->size);
	if (kept >= b->size && memcmp(b->at + b->size - sizeof b->stamp, &b->stamp, sizeof b->stamp) != 0)
		broken("the end of a block of %zu bytes was overwritten", b->size);
}

static void *own(void *at, size_t size) {
	if (!at)
		broken("no block of %zu bytes", size);
	struct block *b = find(at);
	if (b->at)
		broken("a block has two owners: one of %zu bytes, and one of %zu", b->size, size);
	*b = (struct block){at, size, ++stamps};
	if (++blocks > ROOM / 2)
		broken("the table is too small");
	if (malloc_usable_size(at) < size)
		broken("a block is smaller than its %zu bytes", size);
	stamp(b);
	return at;
}

// Takes a block out of the table, before it is given back.
static size_t disown(void *at) {
	struct block *b = find(at);
	if (!b->at)
		broken("an unknown block is given back");
	check_stamp(b, b->size);
	size_t size = b->size;
	forget(b);
	return size;
}

// ---- the ways into the library

enum { NEW = 1 };
enum shape { SIZE, COUNT_SIZE, ALIGN_SIZE, SIZE_ALIGN, OUT, RESIZE, RESIZE_ARRAY };
enum last { PLAIN, SIZED, ALIGNED_SIZED, FLAGS, ALIGN, SIZE_THEN_ALIGN, RESIZE_TO_0 };

typedef uintptr_t word;

static struct way {
	const char *name;
	enum shape shape;
	int is_new;
	word (*call)();
} getters[] = {
	{"malloc", SIZE, 0, 0},
	{"calloc", COUNT_SIZE, 0, 0},
	{"realloc", RESIZE, 0, 0},
	{"reallocarray", RESIZE_ARRAY, 0, 0},
	{"aligned_alloc", ALIGN_SIZE, 0, 0},
	{"memalign", ALIGN_SIZE, 0, 0},
	{"posix_memalign", OUT, 0, 0},
	{"valloc", SIZE, 0, 0},
	{"pvalloc", SIZE, 0, 0},
	{"_Znwm", SIZE, NEW, 0},
	{"_Znam", SIZE, NEW, 0},
	{"_ZnwmRKSt9nothrow_t", SIZE, NEW, 0},
	{"_ZnamRKSt9nothrow_t", SIZE, NEW, 0},
	{"_ZnwmSt11align_val_t", SIZE_ALIGN, 0, 0},
	{"_ZnamSt11align_val_t", SIZE_ALIGN, 0, 0},
	{"_ZnwmSt11align_val_tRKSt9nothrow_t", SIZE_ALIGN, 0, 0},
	{"_ZnamSt11align_val_tRKSt9nothrow_t", SIZE_ALIGN, 0, 0},
};

static struct end {
	const char *name;
	enum last last;
	int of_new; // for blocks of operator new without an alignment only
	word (*call)();
	int is_alias; // the same code as one before
} enders[] = {
	{"free", PLAIN, 0, 0},
	{"cfree", PLAIN, 0, 0},
	{"realloc", RESIZE_TO_0, 0, 0},
	{"free_sized", SIZED, 0, 0},
	{"free_aligned_sized", ALIGNED_SIZED, 0, 0},
	{"sdallocx", FLAGS, 0, 0},
	{"_ZdlPv", PLAIN, 0, 0},
	{"_ZdaPv", PLAIN, 0, 0},
	{"_ZdlPvm", SIZED, NEW, 0},
	{"_ZdaPvm", SIZED, NEW, 0},
	{"_ZdlPvRKSt9nothrow_t", FLAGS, 0, 0},
	{"_ZdaPvRKSt9nothrow_t", FLAGS, 0, 0},
	{"_ZdlPvSt11align_val_t", ALIGN, 0, 0},
	{"_ZdaPvSt11align_val_t", ALIGN, 0, 0},
	{"_ZdlPvmSt11align_val_t", SIZE_THEN_ALIGN, 0, 0},
	{"_ZdaPvmSt11align_val_t", SIZE_THEN_ALIGN, 0, 0},
	{"_ZdlPvSt11align_val_tRKSt9nothrow_t", ALIGN, 0, 0},
	{"_ZdaPvSt11align_val_tRKSt9nothrow_t", ALIGN, 0, 0},
};

static size_t (*walk)(struct cidalloc_census *);

#define COUNT(a) (sizeof(a) / sizeof *(a))
static const word align = 32;

static void find_ways(void) {
	for (size_t i = 0; i < COUNT(getters); i++)
		if (!(getters[i].call = (word (*)())dlsym(RTLD_DEFAULT, getters[i].name)))
			broken("the library has no %s", getters[i].name);
	for (size_t i = 0; i < COUNT(enders); i++)
		if (!(enders[i].call = (word (*)())dlsym(RTLD_DEFAULT, enders[i].name)))
			broken("the library has no %s", enders[i].name);
	if (!(walk = (size_t (*)(struct cidalloc_census *))dlsym(RTLD_DEFAULT, "cidalloc_walk")))
		broken("the library has no cidalloc_walk");
	for (size_t i = 0; i < COUNT(enders); i++)
		for (size_t j = 0; j < i; j++)
			enders[i].is_alias |= enders[i].call == enders[j].call;
}

static void *get(const struct way *way, size_t size) {
	word at = 0;
	switch (way->shape) {
	case SIZE: at = way->call(size, 0ul); break;
	case COUNT_SIZE: at = way->call(1ul, size); break;
	case ALIGN_SIZE: at = way->call(align, size); break;
	case SIZE_ALIGN: at = way->call(size, align, 0ul); break;
	case OUT:
		if ((int)way->call(&at, align, size) != 0)
			at = 0;
		break;
	case RESIZE: at = way->call(0ul, size); break;
	case RESIZE_ARRAY: at = way->call(0ul, 1ul, size); break;
	}
	return own((void *)at, size);
}

static void end(const struct end *way, void *at) {
	word size = disown(at), p = (word)at;
	switch (way->last) {
	case PLAIN: way->call(p); break;
	case SIZED: way->call(p, size); break;
	case ALIGNED_SIZED: way->call(p, align, size); break;
	case FLAGS: way->call(p, size, 0ul); break;
	case ALIGN: way->call(p, align, 0ul); break;
	case SIZE_THEN_ALIGN: way->call(p, size, align); break;
	case RESIZE_TO_0: way->call(p, 0ul); break;
	}
}

static void *resize(void *at, size_t size) {
	struct block old = *find(at);
	disown(at);
	void *(*volatile call)(void *, size_t) = realloc;
	void *new = call(at, size);
	if (!new)
		broken("no block of %zu bytes", size);
	old.at = new;
	check_stamp(&old, size < old.size ? size : old.size);
	return own(new, size);
}

// ---- the script

static const size_t sizes[] = {8, 40, 200, 1000, 1500, 5000, 20000};
static const size_t ladder[] = {10, 100, 600, 1000, 3000, 30000, 300000, 20000, 2000, 900, 20};
static const struct {
	size_t size, count;
} heaps[] = {{16, 300}, {128, 200}, {1024, 60}, {4096, 40}, {32768, 10}};

// The blocks of a ring are given back long after they were got.
#define RING 5
static void each_way(void) {
	void *ring[RING] = {0};
	const struct end *by[RING] = {0};
	unsigned turn = 0;
	for (size_t g = 0; g < COUNT(getters); g++)
		for (size_t e = 0; e < COUNT(enders); e++) {
			if (enders[e].of_new && !getters[g].is_new)
				continue;
			unsigned slot = turn++ % RING;
			if (ring[slot])
				end(by[slot], ring[slot]);
			// Both loops have every size for each.
			ring[slot] = get(&getters[g], sizes[(g + e) % COUNT(sizes)]);
			by[slot] = &enders[e];
		}
	for (unsigned slot = 0; slot < RING; slot++)
		end(by[slot], ring[slot]);
}

// A block that has just been given back is the next one: larger classes hit, too,
// whichever way they are given back.
static void pairs(void) {
	const struct way *new = &getters[9];
	for (size_t i = 0; i < COUNT(sizes); i++)
		for (unsigned n = 0; n < 8; n++)
			end(&enders[0], get(&getters[0], sizes[i]));
	for (size_t e = 0; e < COUNT(enders); e++)
		for (unsigned n = 0; n < 4 && !enders[e].is_alias; n++)
			end(&enders[e], get(new, 5000));
}

static void ladders(void) {
	void *at[3];
	for (size_t i = 0; i < COUNT(at); i++)
		at[i] = get(&getters[2], ladder[0]);
	for (size_t step = 1; step < COUNT(ladder); step++)
		for (size_t i = 0; i < COUNT(at); i++)
			at[i] = resize(at[i], ladder[step]);
	for (size_t i = 0; i < COUNT(at); i++)
		end(&enders[2], at[i]);
}

// More blocks of a class than a slab holds: refills, overflows, growth.
static void many(void) {
	static void *held[300];
	for (size_t h = 0; h < COUNT(heaps); h++) {
		for (size_t i = 0; i < heaps[h].count; i++)
			held[i] = get(&getters[0], heaps[h].size);
		for (size_t i = 0; i < heaps[h].count; i++)
			end(&enders[0], held[i]);
	}
}

// More than a slab holds of a class, given back by each way: each must miss.
static void too_many(void) {
	static const struct {
		size_t size, count;
	} of[] = {{1000, 135}, {20000, 8}};
	static void *held[135];
	const struct way *new = &getters[9];
	for (size_t e = 0; e < COUNT(enders); e++)
		for (size_t h = 0; h < COUNT(of) && !enders[e].is_alias; h++) {
			for (size_t i = 0; i < of[h].count; i++)
				held[i] = get(new, of[h].size);
			for (size_t i = 0; i < of[h].count; i++)
				end(&enders[e], held[i]);
		}
}

// A class for each way to get blocks, which it is the first to use.
static void first_of_a_class(void) {
	void *held[COUNT(getters)];
	for (size_t g = 0; g < COUNT(getters); g++)
		held[g] = get(&getters[g], 32 + 32 * g);
	for (size_t g = 0; g < COUNT(getters); g++)
		end(&enders[0], held[g]);
}

// A thread on watch: while much free memory waits to go back, its fast paths are
// copies of their own.
static void on_watch(void) {
	free(malloc(100 << 20));
	each_way();
	malloc_trim(0);
}

// ---- the rival

#define EACH 2
static void *taken[COUNT(sizes) + COUNT(ladder) + COUNT(heaps)][EACH];
static volatile int quit;

static size_t taken_size(size_t i) {
	if (i < COUNT(sizes))
		return sizes[i];
	i -= COUNT(sizes);
	return i < COUNT(ladder) ? ladder[i] : heaps[i - COUNT(ladder)].size;
}

static void round_of_rival(int take) {
	for (size_t i = 0; i < COUNT(taken); i++)
		for (size_t n = 0; n < EACH; n++)
			if (take && !taken[i][n])
				taken[i][n] = get(&getters[0], taken_size(i));
			else if (!take && taken[i][n]) {
				end(&enders[0], taken[i][n]);
				taken[i][n] = 0;
			}
}

static void *rival(void *unused) {
	char order;
	for (int take = 1; read(0, &order, 1) == 1; take = !take) {
		if (order == 'q')
			quit = 1;
		round_of_rival(order == 'r' && take);
		if (order != 'r')
			take = 0;
		if (write(1, &order, 1) != 1)
			_exit(4);
	}
	return unused;
}

// ---- the check

// What must be in use: the same every time round.
static struct cidalloc_census due;

static void count(struct cidalloc_census *now, const char *when) {
	size_t faults = walk(now);
	if (faults)
		broken("%s, the layers disagree in %zu places", when, faults);
}

static void compare(const char *when) {
	static struct cidalloc_census now;
	count(&now, when);
	for (size_t i = 0; i < due.class_count; i++)
		if (now.classes[i].live != due.classes[i].live)
			broken("%s, %zu blocks of %zu bytes count as in use, not %zu", when,
				now.classes[i].live, due.classes[i].size, due.classes[i].live);
	if (now.large_blocks != due.large_blocks || now.large_bytes != due.large_bytes)
		broken("%s, %zu large blocks count as in use, not %zu", when, now.large_blocks, due.large_blocks);
}

// What is free must be there once: it is taken, and no block may come twice.
static void take_the_free(void) {
	enum { MOST = 20 };
	static void *held[COUNT(taken)][MOST];
	for (size_t i = 0; i < COUNT(taken); i++)
		for (size_t n = 0; n < (taken_size(i) > 1000 ? 5 : MOST); n++)
			held[i][n] = get(&getters[0], taken_size(i));
	for (size_t i = 0; i < COUNT(taken); i++)
		for (size_t n = 0; n < (taken_size(i) > 1000 ? 5 : MOST); n++)
			end(&enders[0], held[i][n]);
}

// Some blocks stay.
static unsigned kept;
static void keep(void) {
	for (size_t i = 0; i < COUNT(taken); i++, kept++)
		get(&getters[0], taken_size(i));
}

static void check(void) {
	if (blocks != kept)
		broken("the program itself has kept %u blocks", blocks);
	compare("after the script");
	take_the_free();
	malloc_trim(0);
	compare("sent home");
}

static void stop(void) {
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGSTOP);
}

int main(void) {
	find_ways();
	pthread_t thread;
	if (pthread_create(&thread, 0, rival, 0) != 0)
		broken("no second thread");
	keep();
	for (unsigned round = 0; !quit; round++) {
		stop();
		first_of_a_class();
		each_way();
		pairs();
		too_many();
		ladders();
		many();
		on_watch();
		stop();
		// The first time round counts what is in use: what all the others must.
		if (round == 0) {
			malloc_trim(0);
			count(&due, "at first");
		}
		check();
	}
	return 0;
}
