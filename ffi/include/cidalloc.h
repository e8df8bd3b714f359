/*
 * cidalloc.h - what libcidalloc offers a C or C++ program beyond <stdlib.h> and <malloc.h>.
 *
 * A program needs no header to run on cidalloc: linked with -lcidalloc, or started with LD_PRELOAD=libcidalloc.so or
 * `cidalloc run`, its malloc, free, calloc, realloc, reallocarray, aligned_alloc, posix_memalign, memalign, valloc,
 * pvalloc, malloc_usable_size, malloc_trim, mallinfo, mallinfo2, mallopt, malloc_stats, malloc_info and every
 * operator new and delete are cidalloc's. This header declares the functions that the C library may lack, and
 * documents the options and the statistics.
 *
 * Alignment: a block of up to 8 bytes is aligned to 8 bytes, any other block to 16 or more.
 * Size 0: malloc(0) returns a block of its own, to be freed like any other; realloc(p, 0) frees p and returns NULL.
 * Sizes above PTRDIFF_MAX fail with ENOMEM.
 * free and its kin leave errno alone.
 *
 * Misuse: a pointer that cidalloc never returned, one into the middle of a block, or one already freed ends the
 * process where a slow path meets it, with one line on stderr
 *     cidalloc: FAULT 0xPOINTER
 * and SIGABRT. The fast paths check nothing; CIDALLOC_CHECK=1 checks every block.
 *
 *
 * OPTIONS, read from the environment once, when the process makes its first allocation. An unknown name or a value
 * out of range is reported on stderr and ignored. `cidalloc run --help` lists all of them with their ranges.
 *
 *   CIDALLOC_STATS=1          print the statistics to stderr at exit
 *   CIDALLOC_STATS=json:PATH  write them as JSON to PATH at exit; %p in PATH becomes the process id
 *   CIDALLOC_COUNT=1          count every allocation and free exactly; slower
 *   CIDALLOC_CHECK=1          the checking mode: the first misuse of a block ends the process with one line that says
 *                             what is known of the block (docs/misuse.md); slower, and takes more memory
 *   CIDALLOC_RSEQ=WHICH       auto: whichever registration of restartable sequences can be had (default)
 *                             libc: only the C library's; own: only cidalloc's; off: none, locks instead;
 *                             take: cidalloc's, in place of a C library's that is too short for the kernel's V2 mode,
 *                             as glibc's 2.35 to 2.40 are; it costs others something (docs/registration.md)
 *   CIDALLOC_INDEX=WHICH      what picks a thread's cache. auto: the best the kernel offers (default);
 *                             mm_cid, cpu_id: an id kept by rseq; shard: none kept by rseq, locks instead
 *   CIDALLOC_SLICE=off        never ask the kernel for time slice extensions (docs/slice.md)
 *   CIDALLOC_SLAB_BYTES=BYTES what one cache may keep at the most, whatever the size of the heap would let it
 *   CIDALLOC_BACKGROUND=on    a thread gives free memory back while the program makes no call at all
 *   CIDALLOC_DECAY_MS=MS      time after which free memory that stays unused goes back to the kernel
 *   CIDALLOC_THP=0            never ask the kernel for transparent hugepages
 *   CIDALLOC_THP_AFTER=BYTES  the heap size from which on hugepages are asked for
 *   CIDALLOC_DEEPBIND=keep    let dlopen open libraries with RTLD_DEEPBIND, by which they reach the C library's malloc
 *   CIDALLOC_FAIL=WHEN        for tests: refuse the allocator's system calls. nth:N, from:N, rate:P[:SEED]; followed by
 *                             names of calls, after commas, to refuse those only; keep: MADV_DONTNEED does nothing
 *
 *
 * STATISTICS, the fields of the JSON object. "bytes" and "count" are integers.
 *
 *   version              text   of the library
 *   pid                  count  process id
 *   mode                 text   "rseq": caches are changed in restartable sequences; "locked": under locks
 *   index                text   "mm_cid", "cpu_id" or "shard": what picks a thread's cache
 *   registration         text   "libc", "own", "taken" (own, in place of the C library's) or "none": who registered rseq
 *   abi_mode             text   how the kernel treats the registration: "legacy", "V2" or "none"
 *   reason               text   why the mode, the index or the registration is not the best there is, or not the one
 *                               asked for; empty if it is
 *   rseq_size            bytes  registered length of struct rseq
 *   refused              text   names of the system calls that have failed for this allocator; empty if none
 *   refusals             count  how often they have
 *   dontneed             text   what MADV_DONTNEED leaves of memory: "zeroes"; "keeps": what was in it, so nothing
 *                               goes back; "unknown" before its first use
 *   live_bytes           bytes  in blocks that the program holds
 *   peak_bytes           bytes  the most that spans and large blocks ever took, free blocks in them included
 *   allocations          count  blocks handed out, but for those of handlers that interrupted the allocator; null unless CIDALLOC_COUNT=1
 *   frees                count  blocks taken back; null unless CIDALLOC_COUNT=1
 *   cid_bytes            bytes  in free blocks cached per cid
 *   transfer_bytes       bytes  in free blocks in the transfer caches
 *   central_bytes        bytes  in free blocks on the central free lists
 *   page_free_bytes      bytes  in free pages that are kept
 *   page_returned_bytes  bytes  in free pages whose memory was given back to the kernel
 *   metadata_bytes       bytes  used by the allocator for itself
 *   mapped_bytes         bytes  obtained from the kernel and not given back
 *   cids_in_use          count  caches in use
 *   refills              count  batches taken into a cid's cache
 *   overflows            count  batches taken out of a full one
 *   central_locks        count  acquisitions of a central free list's lock
 *   lock_waits           count  acquisitions of any lock that had to wait
 *   stops                count  times another cid was stopped to take its blocks
 *   hugepages            count  2 MiB units of address space that hold spans or blocks
 *   hugepages_advised    count  times the kernel was asked to back such a unit by a hugepage
 *   spans                count  runs of pages that hold blocks of one class
 *   large_blocks         count  live blocks above the largest class
 *   threads_taken_in     count  threads that have used a cache
 *   slices               text   time slice extensions: "on" in some thread; "offered": none has needed them yet; "off"
 *   slices_reason        text   why they are off; else empty
 *   slice_threads        count  threads that have turned them on
 *   slice_requests       count  requests for one, each around the locks of a slow path
 *   slice_grants         count  requests that the kernel has taken: of each a yield or a revocation
 *   slice_yields         count  extensions in which the thread came to the end of its work and gave the CPU away
 *   slice_revocations    count  requests after which the thread lost the CPU before that
 *   classes              list   of one object for each size class that was used:
 *     class              count  number of the class
 *     size               bytes  of a block
 *     spans              count  spans of the class
 *     objects            count  blocks in these spans
 *     central_free       count  free blocks on the central free list
 *     transfer           count  free blocks in the transfer cache
 *     cached             count  free blocks in the cids' caches
 */
#ifndef CIDALLOC_H
#define CIDALLOC_H

#include <stddef.h>
#include <stdlib.h>

/* The C library declares some of these functions in some of its versions, in C++ as functions that throw nothing;
 * a second declaration has to agree. */
#if !defined(__cplusplus)
#define CIDALLOC_NOTHROW
#elif defined(__THROW)
#define CIDALLOC_NOTHROW __THROW
#elif __cplusplus >= 201103L
#define CIDALLOC_NOTHROW noexcept
#else
#define CIDALLOC_NOTHROW throw()
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* C23's frees with the size told, which spares looking it up. `size` is the size asked for of malloc, calloc or
 * realloc; `alignment` and `size` are those asked for of aligned_alloc. A null pointer is allowed. Anything else
 * is undefined, as in the standard. */
#if !defined(__STDC_VERSION_STDLIB_H__) || __STDC_VERSION_STDLIB_H__ < 202311L
void free_sized(void *pointer, size_t size) CIDALLOC_NOTHROW;
void free_aligned_sized(void *pointer, size_t alignment, size_t size) CIDALLOC_NOTHROW;
#endif

/* In the checking mode, looks at every block, live or freed and kept, and ends the process if one is damaged, as is
 * done at exit anyway. Otherwise does nothing. */
void cidalloc_check(void) CIDALLOC_NOTHROW;

/* free under the name of old programs. */
void cfree(void *pointer) CIDALLOC_NOTHROW;

/* Flags of sdallocx and nallocx, with jemalloc's values: an alignment, as a power of two or as its logarithm.
 * Other flags are ignored. */
#ifndef MALLOCX_LG_ALIGN
#define MALLOCX_LG_ALIGN(lg) ((int)(lg))
#endif
#ifndef MALLOCX_ALIGN
#define MALLOCX_ALIGN(alignment) ((int)__builtin_ctzl((unsigned long)(alignment)))
#endif

/* Frees `pointer`, allocated with `size` bytes and, if flags tell one, that alignment. Not for a null pointer. */
void sdallocx(void *pointer, size_t size, int flags) CIDALLOC_NOTHROW;

/* Returns the malloc_usable_size of a block allocated with `size` bytes and the flags' alignment, without allocating
 * one; 0 if no such block can exist. */
size_t nallocx(size_t size, int flags) CIDALLOC_NOTHROW;

/* One size class: counts of blocks, but for `size` (bytes of a block) and `spans`. */
struct cidalloc_class_census {
    size_t size;
    size_t spans;
    size_t live;         /* that the program holds */
    size_t central_free; /* free on the central free list */
    size_t transfer;     /* free in the transfer cache */
    size_t cached;       /* free in the cids' caches */
};

#define CIDALLOC_CLASSES_MOST 128

struct cidalloc_census {
    size_t large_blocks; /* live blocks above the largest class */
    size_t large_bytes;
    size_t aside_blocks; /* live blocks of signal handlers that interrupted the allocator */
    size_t class_count;  /* entries of `classes` that mean something; entry 0 stays zero */
    struct cidalloc_class_census classes[CIDALLOC_CLASSES_MOST];
};

/* Checks every layer of the allocator against the others, and counts all blocks into *census unless that is NULL.
 * Returns 0 if all is consistent; else the number of faults, of which the first 32 are written to stderr, a line
 * each, and *census is zeros. A kernel that refuses membarrier is a fault: then the caches cannot be read.
 * Callable at any time and in any thread; in a signal handler that has interrupted the allocator it checks nothing and
 * returns 1. It takes all locks: other threads wait in their next call that misses their cache. The counts are exact
 * where no other thread is inside the allocator. */
size_t cidalloc_walk(struct cidalloc_census *census) CIDALLOC_NOTHROW;

#ifdef __cplusplus
}
#endif

#endif
