/* stack.c: the memory that fibers stand on. The contract, the layout of a slot and who may call are in stack.h.
 *
 * How it hangs together:
 *   - one `struct pool` for each size class: its warm slots, a LIFO list through the control blocks, and its slabs;
 *   - one `struct slab` for each mapping, on the heap: what must be known of a slot while its memory is given back
 *     (state, guard kind, the list of cold slots as indexes), five bytes a slot;
 *   - one registry row for each slab, which a signal handler may read at any moment.
 * A slot's address follows from its index and the other way round, so nothing is searched but the registry.
 *
 * Where memory goes and comes from:
 *   - warm slots first, last in first out: their pages, caches and thread states are ready;
 *   - then cold slots, then slots never used, from the head of the pool's list of slabs with room. A slab that was full
 *     joins at the head and one that fell empty goes to the tail, so that the slabs in between run empty;
 *   - one wholly cold slab a class is kept in reserve, the largest; a second one is unmapped. Load that goes up and down by
 *     less than a slab never maps or unmaps; more than that costs one map and one unmap for a slab's worth of slots.
 *     (Keeping half of the peak was the alternative: MADV_DONTNEED does not free page tables, some 800 bytes a slot.)
 */
#define _GNU_SOURCE
#include "stack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL /* Linux 6.13; older headers lack them */
#  define MADV_GUARD_INSTALL 102
#  define MADV_GUARD_REMOVE 103
#endif
#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#  define MADV_POPULATE_WRITE 23
#endif
#ifndef SYS_pidfd_open /* Linux 5.3 */
#  define SYS_pidfd_open 434
#endif
#ifndef SYS_process_madvise /* Linux 5.10; for any advice on the own process, 6.13 */
#  define SYS_process_madvise 440
#endif

#ifndef PIDFD_SELF_THREAD_GROUP /* Linux 6.14 */
#  define PIDFD_SELF_THREAD_GROUP -10001
#endif

#define PAGE_BYTES ((size_t)GREENIO_PAGE_BYTES)
#define CACHE_LINE_BYTES 64

#define LEAST_DATA_BYTES 768 /* of the hot page: the first Python frames */
#define DATA_PAGES_BYTES ((size_t)GREENIO_DATA_AREA_MIN_BYTES) /* above the hot page */

#define SMALLEST_SHIFT 16 /* 64 KiB */
#define LARGEST_SHIFT 32  /* GREENIO_STACK_MAX_BYTES */
#define SIZE_CLASSES (LARGEST_SHIFT - SMALLEST_SHIFT + 1)

#define FIRST_SLAB_BYTES ((size_t)64 << 20) /* of a size class; each next one is twice as large, up to the last */
#define LAST_SLAB_BYTES ((size_t)512 << 20)
#define SLAB_MAX_SLOTS 2048

#define DEFAULT_HIGH_WATER 1024
#define DEFAULT_SURPLUS (128 * 1024)
#define SURPLUS_PERIOD_NS 1000000000

/* A fiber that wrote further below the hot page than this went deep. json, ssl, logging and database drivers use up to
 * 20 KiB of C stack; a pool that gives that back at each release would fault it in again each time. */
#define WARM_STACK_BYTES ((size_t)32 * 1024)

/* Slots guarded by mprotect cost two mappings each, three with the yellow half open; the rest of the process needs some. */
#define MPROTECT_SHARE_PERCENT 40
#define MAP_COUNT_FALLBACK 65530 /* the kernel's default */

#define CANARY_BYTES 128 /* right below the limit */

/* Slots that are guarded, or given back, in one system call where the kernel can. One by one, 100,000 fibers that come and go
 * spend a third of their time in madvise and the interrupts to other cores that follow it. */
#define BATCH 64
#define BATCHED_STACK_BYTES ((size_t)512 * 1024) /* larger ones go at once: they may hold as much memory as they are large */

/* state of a slot, in the low bits of slab->states[index]; the guard's kind is above, and what is known of its pages */
enum { SLOT_FRESH, SLOT_IN_USE, SLOT_POOLED, SLOT_COLD };
#define STATE_MASK 3
#define KIND_SHIFT 2
#define KIND_MASK 3
#define LOOKED_AT 16 /* since it was made, or given back */
#define TO_LOOK_AT 32 /* pooled; how deep its last user went is not known yet */

#define NO_SLOT UINT32_MAX

struct slab {
    char *start;
    size_t bytes;
    size_t slot_bytes;
    uint32_t slot_count;
    uint32_t made;           /* slots [0, made) were handed out once and are guarded; the rest are fresh */
    uint32_t guarded;        /* slots [made, guarded) are guarded already, by MADV_GUARD_INSTALL */
    uint32_t busy;           /* slots in use, pooled, or cold and still to be given back */
    uint32_t to_look_at;     /* slots with TO_LOOK_AT */
    uint32_t first_cold;     /* NO_SLOT: none */
    uint16_t size_class;
    uint8_t has_room;        /* is in the pool's list of slabs with room */
    size_t registry_row;
    struct slab *room_next, *room_previous; /* the pool's slabs with room */
    struct slab *next, *previous;           /* all slabs, newest first */
    uint32_t *next_cold;     /* [slot_count] */
    uint8_t *states;         /* [slot_count] */
};

struct pool {
    struct greenio_stack *warm;            /* last in, first out */
    struct slab *room_first, *room_last;
    struct slab *reserve;                  /* the one wholly cold slab that is kept, or NULL */
    size_t next_slab_bytes;                /* 0: FIRST_SLAB_BYTES */
    size_t least_pooled;                   /* since the surplus period began */
    size_t unneeded;                       /* surplus slots still to go: all through the last period they lay here */
    struct greenio_stack_stats figures;
};

static struct pool pools[SIZE_CLASSES];
static struct slab *all_slabs;
static size_t high_water = DEFAULT_HIGH_WATER;
static size_t most_surplus = DEFAULT_SURPLUS;
static int64_t surplus_period_end_ns;

static size_t hot_stack_bytes; /* where the control block is in the hot page, in slots of the first colour */
static size_t colours;
static int is_initialized;
static int wants_yellow;
static enum greenio_guard_kind chosen_kind;
static size_t mprotect_slots;      /* in existence */
static size_t mprotect_slots_max;

/* Cold slots whose memory is still to be given back: BATCH at most. Not in their slab's list of cold ones yet. */
static struct {
    struct slab *slab;
    uint32_t index;
} leaving[BATCH];
static size_t leaving_count;

volatile int greenio_stack_yellow_open_count;
size_t greenio_stack_surplus;
size_t greenio_stack_to_look_at;

/* ---- registry: which slab holds an address ------------------------------------------------------------------------ */

/* Rows are written by one thread and read by signal handlers on any, so each has a sequence number, odd while the row
 * changes. A reader that meets an odd or a changed one goes on to the next row: a slab that comes or goes at this moment
 * has nobody standing on it. Reading never looks at a struct slab, which may be freed. */
struct registry_row {
    uint32_t sequence;
    uint32_t size_class;
    uintptr_t start; /* 0: a free row */
    uintptr_t end;
    size_t slot_bytes;
};

#define ROWS_PER_CHUNK 1024
#define CHUNKS 64

static struct registry_row *registry_chunks[CHUNKS];
static size_t registry_rows; /* rows from here on were never used */

static struct registry_row *registry_row_at(size_t row)
{
    struct registry_row *chunk = __atomic_load_n(&registry_chunks[row / ROWS_PER_CHUNK], __ATOMIC_ACQUIRE);
    return chunk + row % ROWS_PER_CHUNK;
}

static void registry_write(struct registry_row *row, uintptr_t start, uintptr_t end, size_t slot_bytes, uint32_t size_class)
{
    uint32_t sequence = row->sequence;
    __atomic_store_n(&row->sequence, sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&row->start, start, __ATOMIC_RELAXED);
    __atomic_store_n(&row->end, end, __ATOMIC_RELAXED);
    __atomic_store_n(&row->slot_bytes, slot_bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&row->size_class, size_class, __ATOMIC_RELAXED);
    __atomic_store_n(&row->sequence, sequence + 2, __ATOMIC_RELEASE);
}

/* 0, or -1 with ENOMEM. */
static int registry_add(struct slab *slab)
{
    size_t row;
    for (row = 0; row < registry_rows && registry_row_at(row)->start != 0; row++)
        ;
    if (row == (size_t)CHUNKS * ROWS_PER_CHUNK) {
        errno = ENOMEM;
        return -1;
    }
    if (registry_chunks[row / ROWS_PER_CHUNK] == NULL) {
        struct registry_row *chunk = calloc(ROWS_PER_CHUNK, sizeof *chunk);
        if (chunk == NULL)
            return -1;
        __atomic_store_n(&registry_chunks[row / ROWS_PER_CHUNK], chunk, __ATOMIC_RELEASE);
    }
    slab->registry_row = row;
    registry_write(registry_row_at(row), (uintptr_t)slab->start, (uintptr_t)slab->start + slab->bytes, slab->slot_bytes,
                   slab->size_class);
    if (row == registry_rows)
        __atomic_store_n(&registry_rows, row + 1, __ATOMIC_RELEASE);
    return 0;
}

static void registry_remove(const struct slab *slab)
{
    registry_write(registry_row_at(slab->registry_row), 0, 0, 0, 0);
}

/* Copy the row that holds `address` to `*found` and return 1; or 0. Async-signal-safe. */
static int registry_find(uintptr_t address, struct registry_row *found)
{
    size_t rows = __atomic_load_n(&registry_rows, __ATOMIC_ACQUIRE);
    for (size_t i = 0; i < rows; i++) {
        struct registry_row *row = registry_row_at(i);
        uintptr_t start = __atomic_load_n(&row->start, __ATOMIC_RELAXED);
        if (start == 0 || address < start || address >= __atomic_load_n(&row->end, __ATOMIC_RELAXED))
            continue;
        found->sequence = __atomic_load_n(&row->sequence, __ATOMIC_ACQUIRE);
        found->start = __atomic_load_n(&row->start, __ATOMIC_RELAXED);
        found->end = __atomic_load_n(&row->end, __ATOMIC_RELAXED);
        found->slot_bytes = __atomic_load_n(&row->slot_bytes, __ATOMIC_RELAXED);
        found->size_class = __atomic_load_n(&row->size_class, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (found->sequence % 2 == 0 && found->sequence == __atomic_load_n(&row->sequence, __ATOMIC_RELAXED)
            && found->start != 0 && address >= found->start && address < found->end)
            return 1;
    }
    return 0;
}

/* ---- geometry ------------------------------------------------------------------------------------------------------ */

static size_t class_stack_bytes(size_t size_class)
{
    return (size_t)1 << (SMALLEST_SHIFT + size_class);
}

static size_t class_slot_bytes(size_t size_class)
{
    return GREENIO_GUARD_BYTES + class_stack_bytes(size_class) + PAGE_BYTES + DATA_PAGES_BYTES;
}

/* The hot page lies above `stack_bytes` of stack, so what it holds of the C stack is extra. */
static struct greenio_stack *block_at(char *slot, size_t index, size_t size_class)
{
    char *hot_page = slot + GREENIO_GUARD_BYTES + class_stack_bytes(size_class);
    return (struct greenio_stack *)(hot_page + hot_stack_bytes + (index % colours) * CACHE_LINE_BYTES);
}

static char *hot_page_of(const struct greenio_stack *stack)
{
    return (char *)((uintptr_t)stack & ~(PAGE_BYTES - 1));
}

static char *slot_of(const struct greenio_stack *stack)
{
    return stack->limit - GREENIO_GUARD_BYTES;
}

static char *slot_end_of(const struct greenio_stack *stack)
{
    return hot_page_of(stack) + PAGE_BYTES + DATA_PAGES_BYTES;
}

static char *yellow_of(const struct greenio_stack *stack)
{
    return stack->limit - GREENIO_GUARD_HALF_BYTES;
}

static char *slot_at(const struct slab *slab, uint32_t index)
{
    return slab->start + index * slab->slot_bytes;
}

static uint32_t index_of(const struct slab *slab, const struct greenio_stack *stack)
{
    return (uint32_t)((size_t)(slot_of(stack) - slab->start) / slab->slot_bytes);
}

static enum greenio_guard_kind kind_of(const struct slab *slab, uint32_t index)
{
    return (enum greenio_guard_kind)(slab->states[index] >> KIND_SHIFT & KIND_MASK);
}

size_t greenio_stack_round(size_t stack_bytes)
{
    if (stack_bytes > GREENIO_STACK_MAX_BYTES)
        return 0;
    size_t rounded = (size_t)1 << SMALLEST_SHIFT;
    while (rounded < stack_bytes)
        rounded <<= 1;
    return rounded;
}

/* ---- guards -------------------------------------------------------------------------------------------------------- */

/* One advice for many ranges: how many of them have it, from the first on; the others are as they were. */
static size_t advise_all(const struct iovec *ranges, size_t count, int advice)
{
    static enum { BY_NAME, BY_DESCRIPTOR, ONE_BY_ONE } way; /* how the kernel lets a process advise itself: the best that it knows */
    size_t done = 0;
    ssize_t bytes = -1;
    if (way == BY_NAME) {
        bytes = syscall(SYS_process_madvise, PIDFD_SELF_THREAD_GROUP, ranges, count, advice, 0);
        if (bytes < 0)
            way = BY_DESCRIPTOR;
    }
    if (way == BY_DESCRIPTOR) {
        int process = (int)syscall(SYS_pidfd_open, getpid(), 0);
        if (process >= 0) {
            bytes = syscall(SYS_process_madvise, process, ranges, count, advice, 0);
            if (bytes < 0)
                way = ONE_BY_ONE;
            close(process);
        }
    }
    for (; bytes > 0 && (size_t)bytes >= ranges[done].iov_len; done++)
        bytes -= (ssize_t)ranges[done].iov_len;
    while (done < count && madvise(ranges[done].iov_base, ranges[done].iov_len, advice) == 0)
        done++;
    return done;
}

/* Whether the kernel knows MADV_GUARD_INSTALL: 0, or the errno. Tried, because its number says nothing: a kernel may have
 * it backported, and a sandbox may refuse it. */
static int probe_guard_madvise(void)
{
    char *scratch = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (scratch == MAP_FAILED)
        return errno;
    int error = madvise(scratch, PAGE_BYTES, MADV_GUARD_INSTALL) == 0 ? 0 : errno;
    munmap(scratch, PAGE_BYTES);
    return error;
}

static size_t read_max_map_count(void)
{
    char text[32];
    size_t count = 0;
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return MAP_COUNT_FALLBACK;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    for (ssize_t i = 0; i < length && text[i] >= '0' && text[i] <= '9'; i++)
        count = count * 10 + (size_t)(text[i] - '0');
    return count != 0 ? count : MAP_COUNT_FALLBACK;
}

int greenio_stack_init(size_t wanted_hot_stack_bytes, size_t wanted_colours, int yellow, int forced)
{
    size_t highest = wanted_hot_stack_bytes + (wanted_colours - 1) * CACHE_LINE_BYTES;
    if (forced < -1 || forced > GREENIO_GUARD_CANARY || wanted_colours == 0 || wanted_hot_stack_bytes % CACHE_LINE_BYTES != 0
        || highest + sizeof(struct greenio_stack) + LEAST_DATA_BYTES > PAGE_BYTES
        || (all_slabs != NULL && (wanted_hot_stack_bytes != hot_stack_bytes || wanted_colours != colours))) {
        errno = EINVAL;
        return -1;
    }
    enum greenio_guard_kind kind = (enum greenio_guard_kind)forced;
    if (forced == -1 || forced == GREENIO_GUARD_MADVISE) {
        int error = probe_guard_madvise();
        if (error != 0 && forced != -1) {
            errno = error;
            return -1;
        }
        kind = error == 0 ? GREENIO_GUARD_MADVISE : GREENIO_GUARD_MPROTECT;
    }
    if (mprotect_slots_max == 0)
        mprotect_slots_max = read_max_map_count() / 100 * MPROTECT_SHARE_PERCENT;
    hot_stack_bytes = wanted_hot_stack_bytes;
    colours = wanted_colours;
    chosen_kind = kind;
    wants_yellow = yellow != 0;
    is_initialized = 1;
    return 0;
}

enum greenio_guard_kind greenio_stack_guard_kind(void)
{
    if (chosen_kind == GREENIO_GUARD_MPROTECT && mprotect_slots >= mprotect_slots_max)
        return GREENIO_GUARD_CANARY;
    return chosen_kind;
}

int greenio_stack_has_yellow(void)
{
    return wants_yellow && greenio_stack_guard_kind() != GREENIO_GUARD_CANARY;
}

/* Guard the slab's next slot, which is handed out for the first time, as well as can be had. One that the kernel refuses (a
 * limit on mappings, locked memory) gets the next weaker kind instead of failing the spawn: stats tell. */
static enum greenio_guard_kind guard_install(struct slab *slab)
{
    enum greenio_guard_kind kind = greenio_stack_guard_kind();
    char *slot = slot_at(slab, slab->made);
    if (slab->made < slab->guarded)
        return GREENIO_GUARD_MADVISE;
    if (kind == GREENIO_GUARD_MADVISE) {
        /* As many as there are already: a program with ten fibers has no use for sixty guards. */
        size_t count = slab->made < BATCH ? slab->made + 1 : BATCH;
        if (count > slab->slot_count - slab->made)
            count = slab->slot_count - slab->made;
        struct iovec ranges[BATCH];
        for (size_t i = 0; i < count; i++)
            ranges[i] = (struct iovec){slot + i * slab->slot_bytes, GREENIO_GUARD_BYTES};
        count = advise_all(ranges, count, MADV_GUARD_INSTALL);
        slab->guarded = slab->made + (uint32_t)count;
        if (count == BATCH) { /* many are wanted: their hot pages, too, which come dearer one by one, by page faults */
            for (size_t i = 0; i < count; i++)
                ranges[i] = (struct iovec){(char *)ranges[i].iov_base + slab->slot_bytes - DATA_PAGES_BYTES - PAGE_BYTES, PAGE_BYTES};
            advise_all(ranges, count, MADV_POPULATE_WRITE);
        }
        if (count > 0)
            return kind;
        kind = mprotect_slots < mprotect_slots_max ? GREENIO_GUARD_MPROTECT : GREENIO_GUARD_CANARY;
    }
    if (kind == GREENIO_GUARD_MPROTECT && mprotect(slot, GREENIO_GUARD_BYTES, PROT_NONE) == 0) {
        mprotect_slots++;
        return kind;
    }
    return GREENIO_GUARD_CANARY;
}

/* The canary is a run of zero bytes: memory that was never written has them without costing a page, and frames that run
 * over them leave return addresses and pointers. It lies in what would be the guard, so a small overflow harms nobody
 * before it is noticed. */
int greenio_stack_canary_intact(const struct greenio_stack *stack)
{
    if (stack->guard_kind != GREENIO_GUARD_CANARY)
        return 1;
    const volatile uint64_t *words = (const volatile uint64_t *)(stack->limit - CANARY_BYTES);
    uint64_t seen = 0;
    for (size_t i = 0; i < CANARY_BYTES / sizeof *words; i++)
        seen |= words[i];
    return seen == 0;
}

int greenio_stack_open_yellow(struct greenio_stack *stack, const void *lowest)
{
    if (!wants_yellow || stack->guard_kind == GREENIO_GUARD_CANARY) {
        errno = ENOTSUP;
        return -1;
    }
    const char *open_limit = greenio_stack_open_limit(stack);
    char *from = (char *)((uintptr_t)lowest & ~(PAGE_BYTES - 1));
    if (from < yellow_of(stack))
        from = yellow_of(stack);
    if (from >= open_limit)
        return 0;
    size_t bytes = (size_t)(open_limit - from);
    int failed = stack->guard_kind == GREENIO_GUARD_MADVISE ? madvise(from, bytes, MADV_GUARD_REMOVE)
                                                            : mprotect(from, bytes, PROT_READ | PROT_WRITE);
    if (failed)
        return -1;
    if (!stack->yellow_open)
        __atomic_add_fetch(&greenio_stack_yellow_open_count, 1, __ATOMIC_RELAXED);
    stack->yellow_open = (uint8_t)((size_t)(stack->limit - from) / PAGE_BYTES);
    return 0;
}

int greenio_stack_close_yellow(struct greenio_stack *stack)
{
    if (!stack->yellow_open)
        return 0;
    if (stack->guard_kind == GREENIO_GUARD_MADVISE) { /* drops the pages, too */
        if (madvise(yellow_of(stack), GREENIO_GUARD_HALF_BYTES, MADV_GUARD_INSTALL) != 0)
            return -1;
    }
    else {
        madvise(yellow_of(stack), GREENIO_GUARD_HALF_BYTES, MADV_DONTNEED); /* refused for locked memory only */
        if (mprotect(yellow_of(stack), GREENIO_GUARD_HALF_BYTES, PROT_NONE) != 0)
            return -1;
    }
    stack->yellow_open = 0;
    __atomic_sub_fetch(&greenio_stack_yellow_open_count, 1, __ATOMIC_RELAXED);
    return 0;
}

/* ---- slabs --------------------------------------------------------------------------------------------------------- */

static void room_insert(struct pool *pool, struct slab *slab, int at_head)
{
    struct slab *after = at_head ? NULL : pool->room_last;
    struct slab *before = at_head ? pool->room_first : NULL;
    slab->room_previous = after;
    slab->room_next = before;
    *(after != NULL ? &after->room_next : &pool->room_first) = slab;
    *(before != NULL ? &before->room_previous : &pool->room_last) = slab;
    slab->has_room = 1;
}

static void room_remove(struct pool *pool, struct slab *slab)
{
    *(slab->room_previous != NULL ? &slab->room_previous->room_next : &pool->room_first) = slab->room_next;
    *(slab->room_next != NULL ? &slab->room_next->room_previous : &pool->room_last) = slab->room_previous;
    slab->has_room = 0;
}

static void slab_free(struct slab *slab)
{
    munmap(slab->start, slab->bytes);
    free(slab);
}

/* A slab of at most `bytes` (less when address space is scarce), one slot at least; in no list yet. NULL with ENOMEM. */
static struct slab *slab_map(size_t size_class, size_t bytes)
{
    size_t slot_bytes = class_slot_bytes(size_class);
    size_t count = bytes / slot_bytes;
    count = count < 1 ? 1 : count > SLAB_MAX_SLOTS ? SLAB_MAX_SLOTS : count;
    char *start;
    while ((start = mmap(NULL, count * slot_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                         0)) == MAP_FAILED) {
        if (count == 1) {
            errno = ENOMEM;
            return NULL;
        }
        count /= 2;
    }
    /* A huge page per touched hot page would cost 2 MiB a fiber. A kernel without huge pages refuses: just as well. */
    madvise(start, count * slot_bytes, MADV_NOHUGEPAGE);

    struct slab *slab = calloc(1, sizeof *slab + count * (sizeof *slab->next_cold + sizeof *slab->states));
    if (slab == NULL) {
        munmap(start, count * slot_bytes);
        errno = ENOMEM;
        return NULL;
    }
    slab->start = start;
    slab->bytes = count * slot_bytes;
    slab->slot_bytes = slot_bytes;
    slab->slot_count = (uint32_t)count;
    slab->first_cold = NO_SLOT;
    slab->size_class = (uint16_t)size_class;
    slab->next_cold = (uint32_t *)(slab + 1);
    slab->states = (uint8_t *)(slab->next_cold + count);
    if (registry_add(slab) != 0) {
        slab_free(slab);
        errno = ENOMEM;
        return NULL;
    }
    return slab;
}

static struct slab *slab_new(struct pool *pool, size_t size_class)
{
    size_t bytes = pool->next_slab_bytes != 0 ? pool->next_slab_bytes : FIRST_SLAB_BYTES;
    struct slab *slab = slab_map(size_class, bytes);
    if (slab == NULL)
        return NULL;
    if (bytes < LAST_SLAB_BYTES)
        pool->next_slab_bytes = bytes * 2;
    slab->next = all_slabs;
    if (all_slabs != NULL)
        all_slabs->previous = slab;
    all_slabs = slab;
    room_insert(pool, slab, 0);
    pool->figures.slabs++;
    pool->figures.reserved_bytes += slab->bytes;
    return slab;
}

/* Unmap a slab none of whose slots is in use or pooled. */
static void slab_drop(struct pool *pool, struct slab *slab)
{
    for (uint32_t i = 0; i < slab->made; i++) {
        int kind = kind_of(slab, i);
        pool->figures.guards[kind]--;
        if (kind == GREENIO_GUARD_MPROTECT)
            mprotect_slots--;
    }
    pool->figures.cold -= slab->made;
    pool->figures.slabs--;
    pool->figures.reserved_bytes -= slab->bytes;
    room_remove(pool, slab);
    *(slab->previous != NULL ? &slab->previous->next : &all_slabs) = slab->next;
    if (slab->next != NULL)
        slab->next->previous = slab->previous;
    registry_remove(slab);
    slab_free(slab);
}

/* A slab fell wholly cold: it becomes the reserve, or goes. The last slab of a class is always its reserve. */
static void slab_emptied(struct pool *pool, struct slab *slab)
{
    struct slab *other = pool->reserve;
    if (other != NULL && other->bytes >= slab->bytes) {
        slab_drop(pool, slab);
        return;
    }
    pool->reserve = slab;
    room_remove(pool, slab);
    room_insert(pool, slab, 0);
    if (other != NULL)
        slab_drop(pool, other);
}

/* ---- slots --------------------------------------------------------------------------------------------------------- */

/* A slot that has no control block just now, cold or fresh, with a new block. NULL with ENOMEM. */
static struct greenio_stack *slot_make(struct pool *pool, size_t size_class)
{
    if (leaving_count != 0)
        greenio_stack_give_back();
    struct slab *slab = pool->room_first != NULL ? pool->room_first : slab_new(pool, size_class);
    if (slab == NULL)
        return NULL;
    uint32_t index = slab->first_cold;
    char *slot;
    enum greenio_guard_kind kind;
    if (index != NO_SLOT) {
        slab->first_cold = slab->next_cold[index];
        slot = slot_at(slab, index);
        kind = kind_of(slab, index);
        pool->figures.cold--;
    }
    else {
        kind = guard_install(slab);
        index = slab->made++;
        slot = slot_at(slab, index);
        pool->figures.guards[kind]++;
    }
    slab->states[index] = (uint8_t)(SLOT_IN_USE | kind << KIND_SHIFT);
    slab->busy++;
    if (slab == pool->reserve)
        pool->reserve = NULL;
    if (slab->first_cold == NO_SLOT && slab->made == slab->slot_count)
        room_remove(pool, slab);

    /* Zero since it was mapped or given back: only what is not zero needs writing. */
    struct greenio_stack *stack = block_at(slot, index, size_class);
    stack->base = (char *)stack;
    stack->data = (char *)(stack + 1);
    stack->data_bytes = (size_t)(slot + slab->slot_bytes - stack->data);
    stack->guard_kind = (uint8_t)kind;
    stack->size_class = (uint16_t)size_class;
    stack->slab = slab;
    stack->limit = slot + GREENIO_GUARD_BYTES; /* last: greenio_stack_find takes it for the sign of a block */
    return stack;
}

_Static_assert(sizeof(struct greenio_stack) % 16 == 0, "the data area after the block is 16-byte aligned");

static uint8_t *state_of(const struct greenio_stack *stack)
{
    struct slab *slab = stack->slab;
    return &slab->states[index_of(slab, stack)];
}

static void set_state(const struct greenio_stack *stack, int state)
{
    uint8_t *entry = state_of(stack);
    *entry = (uint8_t)((*entry & ~STATE_MASK) | state);
}

static void look_no_more(struct slab *slab, uint32_t index)
{
    slab->states[index] &= (uint8_t)~TO_LOOK_AT;
    slab->to_look_at--;
    greenio_stack_to_look_at--;
}

static struct greenio_stack *pool_pop(struct pool *pool)
{
    struct greenio_stack *stack = pool->warm;
    pool->warm = stack->next;
    stack->next = NULL;
    set_state(stack, SLOT_IN_USE);
    if (*state_of(stack) & TO_LOOK_AT)
        look_no_more(stack->slab, index_of(stack->slab, stack));
    if (pool->figures.pooled > high_water)
        greenio_stack_surplus--;
    pool->figures.pooled--;
    pool->figures.in_use++;
    if (pool->figures.pooled < pool->least_pooled)
        pool->least_pooled = pool->figures.pooled;
    return stack;
}

struct greenio_stack *greenio_stack_acquire(size_t stack_bytes)
{
    if (!is_initialized && greenio_stack_init(GREENIO_HOT_STACK_DEFAULT_BYTES, GREENIO_STACK_DEFAULT_COLOURS, 0, -1) != 0)
        return NULL;
    size_t rounded = greenio_stack_round(stack_bytes);
    if (rounded == 0) {
        errno = EINVAL;
        return NULL;
    }
    size_t size_class = (size_t)__builtin_ctzl(rounded) - SMALLEST_SHIFT;
    struct pool *pool = &pools[size_class];
    struct greenio_stack *stack;
    if (pool->warm != NULL) {
        stack = pool_pop(pool);
        pool->figures.reused_total++;
    }
    else {
        stack = slot_make(pool, size_class);
        if (stack == NULL)
            return NULL;
        pool->figures.in_use++;
    }
    pool->figures.acquired_total++;
    if (pool->figures.in_use > pool->figures.in_use_peak)
        pool->figures.in_use_peak = pool->figures.in_use;
    return stack;
}

/* Whether something was written in the page at `page`, as far as two words in every `stride` bytes tell. Deep use leaves return
 * addresses and saved registers all over, but for large buffers that nobody filled (sorted has one of 2 KiB). Reading a page
 * that was never written maps the kernel's zero page, once: no memory. */
static int page_written(const char *page, size_t stride)
{
    uint64_t seen = 0;
    for (size_t offset = 0; offset < PAGE_BYTES; offset += stride)
        seen |= *(const uint64_t *)(page + offset) | *(const uint64_t *)(page + offset + 8);
    return seen != 0;
}

/* Whether the last user of the slot left more than a few pages behind. One look right below what is kept warm, one half way
 * down, in case a large buffer lay over the first, and one at the end of the data area. */
static int went_deep(const struct greenio_stack *stack)
{
    const char *hot_page = hot_page_of(stack);
    size_t stack_bytes = class_stack_bytes(stack->size_class);
    return page_written(hot_page - WARM_STACK_BYTES - PAGE_BYTES, 256)
           || page_written(hot_page - stack_bytes / 2 - PAGE_BYTES, 1024)
           || page_written(slot_end_of(stack) - PAGE_BYTES, 1024);
}

/* The same of a slot whose pages were never looked at, where which are there says all: three page faults for the looks above would
 * cost more than the fiber may have. Who comes back by the other way pays them once. */
static int ever_went_deep(const struct greenio_stack *stack)
{
    unsigned char resident[BATCHED_STACK_BYTES / PAGE_BYTES];
    unsigned char last_resident[1];
    size_t pages = (size_t)(hot_page_of(stack) - WARM_STACK_BYTES - stack->limit) / PAGE_BYTES;
    if (pages <= sizeof resident && mincore(stack->limit, pages * PAGE_BYTES, resident) == 0
        && mincore(slot_end_of(stack) - PAGE_BYTES, PAGE_BYTES, last_resident) == 0)
        return memchr(resident, 1, pages) != NULL || last_resident[0] & 1;
    return went_deep(stack);
}

static void keep_hot_page_only(struct greenio_stack *stack)
{
    char *above = hot_page_of(stack) + PAGE_BYTES;
    madvise(stack->limit, (size_t)(hot_page_of(stack) - stack->limit), MADV_DONTNEED);
    madvise(above, DATA_PAGES_BYTES, MADV_DONTNEED);
    pools[stack->size_class].figures.given_back_total++;
}

void greenio_stack_look(size_t most)
{
    for (struct slab *slab = all_slabs; slab != NULL && greenio_stack_to_look_at != 0; slab = slab->next) {
        for (uint32_t i = 0; slab->to_look_at != 0; i++) {
            if (!(slab->states[i] & TO_LOOK_AT))
                continue;
            if (most-- == 0)
                return;
            struct greenio_stack *stack = block_at(slot_at(slab, i), i, slab->size_class);
            slab->states[i] |= LOOKED_AT;
            look_no_more(slab, i);
            if (ever_went_deep(stack))
                keep_hot_page_only(stack);
        }
    }
}

int greenio_stack_pool_has_room(const struct greenio_stack *stack)
{
    size_t pooled = pools[stack->size_class].figures.pooled;
    return pooled < high_water || (pooled - high_water < most_surplus && class_stack_bytes(stack->size_class) <= BATCHED_STACK_BYTES);
}

void greenio_stack_release(struct greenio_stack *stack)
{
    struct pool *pool = &pools[stack->size_class];
    uint8_t *state = state_of(stack);
    if (stack->yellow_open)
        greenio_stack_close_yellow(stack);
    set_state(stack, SLOT_POOLED);
    if (pool->figures.pooled >= high_water)
        greenio_stack_surplus++; /* goes whole: a look at pages that it may never have touched would cost as much as its hot page did */
    else if (*state & LOOKED_AT || class_stack_bytes(stack->size_class) > BATCHED_STACK_BYTES) {
        if (went_deep(stack))
            keep_hot_page_only(stack);
    }
    else { /* later: the first look takes as long as some ten fibers do that end one after another */
        *state |= TO_LOOK_AT;
        ((struct slab *)stack->slab)->to_look_at++;
        greenio_stack_to_look_at++;
    }
    stack->owner = NULL;
    stack->next = pool->warm;
    pool->warm = stack;
    pool->figures.in_use--;
    pool->figures.pooled++;
}

static struct iovec memory_of(const struct slab *slab, uint32_t index)
{
    int unguarded = kind_of(slab, index) == GREENIO_GUARD_CANARY;
    char *from = slot_at(slab, index) + (unguarded ? 0 : GREENIO_GUARD_BYTES);
    return (struct iovec){from, (size_t)(slot_at(slab, index) + slab->slot_bytes - from)};
}

void greenio_stack_give_back(void)
{
    struct iovec ranges[BATCH];
    for (size_t i = 0; i < leaving_count; i++)
        ranges[i] = memory_of(leaving[i].slab, leaving[i].index);
    size_t done = 0;
    while (done < leaving_count) {
        done += advise_all(ranges + done, leaving_count - done, MADV_DONTNEED);
        if (done < leaving_count) { /* refused for locked memory */
            const struct slab *slab = leaving[done].slab;
            memset(block_at(slot_at(slab, leaving[done].index), leaving[done].index, slab->size_class), 0,
                   sizeof(struct greenio_stack));
            done++;
        }
    }
    size_t count = leaving_count;
    leaving_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct slab *slab = leaving[i].slab;
        struct pool *pool = &pools[slab->size_class];
        slab->next_cold[leaving[i].index] = slab->first_cold;
        slab->first_cold = leaving[i].index;
        if (!slab->has_room)
            room_insert(pool, slab, 1);
        slab->busy--;
        if (slab->busy == 0)
            slab_emptied(pool, slab);
    }
}

void greenio_stack_discard(struct greenio_stack *stack)
{
    size_t stack_class = stack->size_class;
    struct pool *pool = &pools[stack_class];
    if (stack->yellow_open && greenio_stack_close_yellow(stack) != 0) /* the block goes, the red half has to do */
        __atomic_sub_fetch(&greenio_stack_yellow_open_count, 1, __ATOMIC_RELAXED);
    set_state(stack, SLOT_COLD);
    leaving[leaving_count].slab = stack->slab;
    leaving[leaving_count].index = index_of(stack->slab, stack);
    leaving_count++;
    stack->owner = NULL;
    stack->limit = NULL; /* no block any more, to greenio_stack_find */
    pool->figures.given_back_total++;
    pool->figures.in_use--;
    pool->figures.cold++;
    if (leaving_count == BATCH || pool->figures.in_use == 0 || class_stack_bytes(stack_class) > BATCHED_STACK_BYTES)
        greenio_stack_give_back();
}

struct greenio_stack *greenio_stack_pool_take(size_t keep)
{
    size_t pooled = 0;
    struct pool *largest = NULL; /* the class whose warm slots may hold most */
    for (size_t i = 0; i < SIZE_CLASSES; i++) {
        pooled += pools[i].figures.pooled;
        if (pools[i].warm != NULL)
            largest = &pools[i];
    }
    return pooled > keep ? pool_pop(largest) : NULL;
}

void greenio_stack_set_high_water(size_t slots, size_t surplus)
{
    high_water = slots;
    most_surplus = surplus;
    greenio_stack_surplus = 0;
    for (size_t i = 0; i < SIZE_CLASSES; i++) {
        if (pools[i].figures.pooled > slots)
            greenio_stack_surplus += pools[i].figures.pooled - slots;
    }
}

size_t greenio_stack_high_water(void)
{
    return high_water;
}

struct greenio_stack *greenio_stack_take_surplus(int64_t now_ns, int64_t *next_ns)
{
    if (now_ns != INT64_MAX && now_ns >= surplus_period_end_ns) {
        surplus_period_end_ns = now_ns + SURPLUS_PERIOD_NS;
        for (size_t i = 0; i < SIZE_CLASSES; i++) {
            struct pool *pool = &pools[i];
            pool->unneeded = pool->least_pooled > high_water ? pool->least_pooled - high_water : 0;
            pool->least_pooled = pool->figures.pooled;
        }
    }
    for (size_t i = 0; greenio_stack_surplus != 0 && i < SIZE_CLASSES; i++) {
        struct pool *pool = &pools[i];
        if (pool->figures.pooled > high_water && (pool->unneeded != 0 || now_ns == INT64_MAX)) {
            pool->unneeded -= pool->unneeded != 0;
            return pool_pop(pool);
        }
    }
    *next_ns = surplus_period_end_ns;
    return NULL;
}

/* ---- questions ----------------------------------------------------------------------------------------------------- */

int greenio_stack_visit_in_use(int (*visit)(struct greenio_stack *, void *), void *closure)
{
    for (struct slab *slab = all_slabs; slab != NULL; slab = slab->next) {
        for (uint32_t i = 0; i < slab->made; i++) {
            if ((slab->states[i] & STATE_MASK) != SLOT_IN_USE)
                continue;
            int stop = visit(block_at(slab->start + i * slab->slot_bytes, i, slab->size_class), closure);
            if (stop != 0)
                return stop;
        }
    }
    return 0;
}

int greenio_stack_stats(size_t index, struct greenio_stack_stats *stats)
{
    if (index >= SIZE_CLASSES)
        return 0;
    *stats = pools[index].figures;
    stats->stack_bytes = class_stack_bytes(index);
    stats->slot_bytes = class_slot_bytes(index);
    stats->high_water = high_water;
    return 1;
}

static enum greenio_stack_part part_of(const char *limit, const char *block, const char *address)
{
    if (address < limit - GREENIO_GUARD_HALF_BYTES)
        return GREENIO_PART_RED;
    if (address < limit)
        return GREENIO_PART_YELLOW;
    return address < block ? GREENIO_PART_STACK : GREENIO_PART_DATA;
}

enum greenio_stack_part greenio_stack_part(const struct greenio_stack *stack, const void *address)
{
    return part_of(stack->limit, (const char *)stack, address);
}

int greenio_stack_locate(const void *address, struct greenio_stack_place *place)
{
    struct registry_row row;
    if (!registry_find((uintptr_t)address, &row))
        return 0;
    size_t index = ((uintptr_t)address - row.start) / row.slot_bytes;
    char *slot = (char *)row.start + index * row.slot_bytes;
    char *limit = slot + GREENIO_GUARD_BYTES;
    struct greenio_stack *stack = block_at(slot, index, row.size_class);
    place->part = part_of(limit, (char *)stack, address);
    place->stack_bytes = class_stack_bytes(row.size_class);
    /* A cold or fresh slot reads as zero, so its block does not name its own limit. */
    place->stack = stack->limit == limit ? stack : NULL;
    return 1;
}

struct greenio_stack *greenio_stack_find(const void *address)
{
    struct greenio_stack_place place;
    return greenio_stack_locate(address, &place) ? place.stack : NULL;
}
