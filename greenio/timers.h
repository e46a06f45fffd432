/* timers.h: a heap of deadlines, each with an owner; four children a node. libc only.
 *
 * With 100,000 timers what counts is memory. A node is 16 bytes and its children are one cache line; where a timer stands
 * in the heap is kept in an array of its own, so that moving a node does not touch its owner, which is cold.
 * (With the place in the owner each of nine levels cost a miss.)
 *
 * Callers hold the GIL. Zeroed memory is an empty heap.
 */
#ifndef GREENIO_TIMERS_H
#define GREENIO_TIMERS_H

#include <stddef.h>
#include <stdint.h>

#define GREENIO_TIMER_NONE UINT32_MAX

struct greenio_timer {      /* a node */
    int64_t deadline_ns;
    uint32_t sequence;      /* equal deadlines come in the order they were added; wraps */
    uint32_t id;
};

struct greenio_timers {
    struct greenio_timer *heap; /* its children of 0, at 1 to 4, begin a cache line */
    uint32_t *places;       /* by id: index in the heap, or the next free id */
    void **owners;          /* by id */
    void *memory;           /* what `heap` lies in */
    uint32_t count, room;
    uint32_t used_ids;      /* ids from here on were never given out */
    uint32_t free_id;       /* + 1; 0: none */
    uint32_t sequence;
};

/* The new timer's id, or GREENIO_TIMER_NONE: no memory, and nothing has changed. */
uint32_t greenio_timers_add(struct greenio_timers *timers, int64_t deadline_ns, void *owner);
void greenio_timers_remove(struct greenio_timers *timers, uint32_t id);
/* Forget all of them. */
void greenio_timers_clear(struct greenio_timers *timers);
/* Free the memory. */
void greenio_timers_drop(struct greenio_timers *timers);

/* The earliest, where count > 0. */
static inline int64_t greenio_timers_deadline(const struct greenio_timers *timers)
{
    return timers->heap[0].deadline_ns;
}

/* The one that comes next, where count > 4. */
static inline int64_t greenio_timers_second_deadline(const struct greenio_timers *timers)
{
    int64_t second_ns = timers->heap[1].deadline_ns;
    for (int i = 2; i <= 4; i++) {
        if (timers->heap[i].deadline_ns < second_ns)
            second_ns = timers->heap[i].deadline_ns;
    }
    return second_ns;
}

static inline void *greenio_timers_owner(const struct greenio_timers *timers)
{
    return timers->owners[timers->heap[0].id];
}

/* Owner of the node at `index`; NULL if there is none. */
static inline void *greenio_timers_owner_at(const struct greenio_timers *timers, uint32_t index)
{
    return index < timers->count ? timers->owners[timers->heap[index].id] : NULL;
}

#endif
