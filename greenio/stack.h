/* stack.h: the memory that fibers stand on. Maps slabs, guards slots, keeps finished ones for reuse.
 *
 * Callers hold the GIL (or otherwise make sure that one OS thread at a time is in here), but for the
 * functions marked async-signal-safe.  Knows libc only: the thread state in a slot is an opaque pointer.
 *
 * One slot, low addresses left; every slot of a slab is alike:
 *
 *   | red guard 64K | yellow guard 64K | C stack, grows down ....... base | control block | data area ... 16K+ |
 *                                      ^limit      |<-------- one page: the hot page -------->|
 *
 * A parked fiber with a shallow C stack and a few Python frames touches the hot page only.
 *
 * Invariants:
 *   - a slot is in use, pooled (memory warm, thread state kept) or cold (memory given back, no thread state);
 *   - a slot is guarded before it is first handed out and stays guarded, whatever it is later;
 *   - the base may differ by a multiple of 64 bytes from slot to slot (cache colouring): with equal offsets the
 *     fibers compete for fewer cache sets.
 */
#ifndef GREENIO_STACK_H
#define GREENIO_STACK_H

#include <stddef.h>
#include <stdint.h>

#define GREENIO_PAGE_BYTES 4096
#define GREENIO_GUARD_HALF_BYTES (64 * 1024)                 /* red half; the yellow half has as much */
#define GREENIO_GUARD_BYTES (2 * GREENIO_GUARD_HALF_BYTES)
#define GREENIO_DATA_AREA_MIN_BYTES (16 * 1024)              /* readable from the chunk's start: remote unwinders read that much */
#define GREENIO_STACK_DEFAULT_BYTES (256 * 1024)
#define GREENIO_STACK_MAX_BYTES ((size_t)1 << 32)
#define GREENIO_HOT_STACK_DEFAULT_BYTES 2048                 /* the C stack's part of the hot page, at least, */
#define GREENIO_STACK_DEFAULT_COLOURS 16                     /* and up to 15 cache lines more */

enum greenio_guard_kind {
    GREENIO_GUARD_MADVISE,  /* MADV_GUARD_INSTALL, Linux >= 6.13: no VMA per guard */
    GREENIO_GUARD_MPROTECT, /* PROT_NONE: two VMAs a slot, so only while the kernel's limit on them is far */
    GREENIO_GUARD_CANARY,   /* a known word at the limit, looked at when the fiber parks and ends */
};

/* The control block. `limit` to `data_bytes` are set when the slot is made and never change. */
struct greenio_stack {
    char *base;             /* end of the C stack, 64-byte aligned: the block itself, about the middle of the hot page */
    char *limit;            /* lowest usable address; the guard ends here */
    char *data;             /* room for the root of the interpreter's data stack, 16-byte aligned */
    size_t data_bytes;      /* >= GREENIO_DATA_AREA_MIN_BYTES */
    void *thread_state;     /* the slot's PyThreadState, or NULL; kept while pooled, NULL in a cold slot */
    void *owner;            /* the fiber that stands here (borrowed), or NULL; for reports */
    uint8_t guard_kind;     /* enum greenio_guard_kind */
    volatile uint8_t yellow_open; /* pages of the yellow half, from its top, that are usable just now; set by the fault handler */
    uint16_t size_class;    /* index of the pool that it belongs to */
    int32_t taken[2];       /* recursion units taken by the fault handler, to be given back (py, c) */
    struct greenio_stack *next; /* in a pool's list */
    void *slab;             /* private to stack.c */
};

/* Figures for one size class, and for all of them. Counts are slots, the rest bytes. */
struct greenio_stack_stats {
    size_t stack_bytes;      /* usable C stack of one slot */
    size_t slot_bytes;       /* address space of one slot, guard and data area included */
    size_t in_use;
    size_t in_use_peak;
    size_t pooled;
    size_t cold;
    size_t high_water;       /* most slots kept warm in the pool for good */
    size_t slabs;
    size_t reserved_bytes;   /* address space of all slabs */
    size_t acquired_total;   /* slots handed out since the start */
    size_t reused_total;     /* of those, out of the warm pool */
    size_t given_back_total; /* times that pages went back to the kernel */
    size_t guards[3];        /* slots in existence by enum greenio_guard_kind */
};

/* Choose the layout and the guard. `hot_stack_bytes`: the C stack's part of the hot page, at least; a multiple of 64, as large as leaves
 * room for some Python frames. Slots have `colours` different ones, 64 bytes apart.
 * `yellow`: whether the upper half of a guard is a yellow zone (CPython < 3.14).
 * `forced` is -1 (probe: madvise, else mprotect, else canary) or an enum greenio_guard_kind to take
 * (a test, or GREENIO_GUARD in the environment). Returns 0, or -1 with errno when `forced` cannot be had. Before the first slot, but
 * for the guard, which may be chosen again. */
int greenio_stack_init(size_t hot_stack_bytes, size_t colours, int yellow, int forced);

/* What a newly made slot would be guarded with. Slots made before may have another kind. */
enum greenio_guard_kind greenio_stack_guard_kind(void);
int greenio_stack_has_yellow(void);

/* Usable bytes that a request for `stack_bytes` gets: rounded up to the next power of two,
 * at least 64 KiB; 0 if above GREENIO_STACK_MAX_BYTES. */
size_t greenio_stack_round(size_t stack_bytes);

/* A slot with at least `stack_bytes` of usable C stack: from the warm pool (LIFO, with its thread state),
 * else a cold one, else a new one. NULL with errno (ENOMEM, EINVAL). No system call in the warm case. */
struct greenio_stack *greenio_stack_acquire(size_t stack_bytes);

/* Whether a release now should keep the slot warm, for good or as surplus; if not, its thread state must be dropped first
 * and greenio_stack_discard called instead. */
int greenio_stack_pool_has_room(const struct greenio_stack *stack);

/* Give back a slot that nobody stands on any more, keeping its thread state for the next user. Pages below and above
 * the hot page are returned to the kernel if the fiber went deep: of a surplus slot when it goes, the first time by greenio_stack_look. An open yellow
 * half is closed; what was taken of the thread state's recursion is the caller's to give back before. */
void greenio_stack_release(struct greenio_stack *stack);

/* Look at `most` of the slots in the pools that nobody has looked at yet, and return the pages of those that went deep. How many there
 * are: while it is not 0, greenio_stack_look is called now and then. */
void greenio_stack_look(size_t most);
extern size_t greenio_stack_to_look_at;

/* Give back a slot and its memory. Its thread_state must be NULL. May unmap a slab that is wholly cold. The memory of up to 64
 * slots goes in one system call: once there are so many, when no slot of the class is in use or the stack is a large one, before a slot that is not warm
 * is handed out, or at the latest by greenio_stack_give_back, which a scheduler calls before it waits for long. */
void greenio_stack_discard(struct greenio_stack *stack);
void greenio_stack_give_back(void);

/* Take one warm slot out of the pools above `keep` slots in all, out of the largest size class that has one (its thread state must then be dropped and the slot
 * discarded), or NULL when no more than `keep` are left. */
struct greenio_stack *greenio_stack_pool_take(size_t keep);

/* Warm slots kept for each size class: `slots` for good; up to `surplus` more, of the smaller classes, until they have not been needed
 * for a second. Defaults 1024 and 131,072: fibers that come and go by the ten thousand find their stacks again. */
void greenio_stack_set_high_water(size_t slots, size_t surplus);
size_t greenio_stack_high_water(void);

/* Surplus slots, of all classes: while there are any, greenio_stack_take_surplus is called now and then. */
extern size_t greenio_stack_surplus;

/* Take one slot out of the pools that was not needed for a second (its thread state must then be dropped and the slot discarded), or
 * NULL: none is due before `*next_ns`. `now_ns`: CLOCK_MONOTONIC; INT64_MAX takes all, needed or not. */
struct greenio_stack *greenio_stack_take_surplus(int64_t now_ns, int64_t *next_ns);

/* In use: every slot in use, newest slab first; the caller copies what it needs. Stops when `visit` returns nonzero. */
int greenio_stack_visit_in_use(int (*visit)(struct greenio_stack *, void *), void *closure);

/* Figures of size class `index`; 0 when there is no such class. Classes are 0, 1, 2, … in order of size. */
int greenio_stack_stats(size_t index, struct greenio_stack_stats *stats);

/* Whether the canary of an unguarded slot is as it was laid (always, for guarded slots). */
int greenio_stack_canary_intact(const struct greenio_stack *stack);

/* The slot that holds `address`, guard and data area included; in use or pooled, else NULL. Async-signal-safe. */
struct greenio_stack *greenio_stack_find(const void *address);

/* Which part of its slot `address` is in; the control block counts as data. Async-signal-safe. */
enum greenio_stack_part { GREENIO_PART_RED, GREENIO_PART_YELLOW, GREENIO_PART_STACK, GREENIO_PART_DATA };
enum greenio_stack_part greenio_stack_part(const struct greenio_stack *stack, const void *address);

/* Where `address` is, slots without a control block included. 0 if it is in no slab. Async-signal-safe. */
struct greenio_stack_place {
    struct greenio_stack *stack; /* NULL: the slot is cold or was never used, and has no control block */
    enum greenio_stack_part part;
    size_t stack_bytes;          /* usable C stack of such a slot */
};
int greenio_stack_locate(const void *address, struct greenio_stack_place *place);

/* Make the yellow half usable down to the page of `lowest` (at most all of it; what is open stays open), or all of it a guard
 * again (its pages given back). 0, or -1 with errno. greenio_stack_open_yellow is async-signal-safe. */
int greenio_stack_open_yellow(struct greenio_stack *stack, const void *lowest);
int greenio_stack_close_yellow(struct greenio_stack *stack);

/* The end of what is usable just now. Async-signal-safe. */
static inline const char *greenio_stack_open_limit(const struct greenio_stack *stack)
{
    return stack->limit - (size_t)stack->yellow_open * GREENIO_PAGE_BYTES;
}

/* Slots whose yellow half is open now, wholly or in part. Read on every park: nonzero sends the fiber through
 * greenio_overflow_recover (overflow.h). */
extern volatile int greenio_stack_yellow_open_count;

#endif
