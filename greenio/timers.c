/* timers.c: see timers.h. */
#include "timers.h"

#include <stdlib.h>
#include <string.h>

#define CACHE_LINE_BYTES 64
#define FIRST_ROOM 64

static inline int earlier(const struct greenio_timer *one, const struct greenio_timer *other)
{
    return one->deadline_ns < other->deadline_ns
           || (one->deadline_ns == other->deadline_ns && (int32_t)(one->sequence - other->sequence) < 0);
}

static inline void place(struct greenio_timers *timers, uint32_t index, struct greenio_timer timer)
{
    timers->heap[index] = timer;
    timers->places[timer.id] = index;
}

static void sift_up(struct greenio_timers *timers, uint32_t index, struct greenio_timer timer)
{
    while (index > 0) {
        uint32_t parent = (index - 1) / 4;
        if (!earlier(&timer, &timers->heap[parent]))
            break;
        place(timers, index, timers->heap[parent]);
        index = parent;
    }
    place(timers, index, timer);
}

static void sift_down(struct greenio_timers *timers, uint32_t index, struct greenio_timer timer)
{
    for (;;) {
        uint64_t first = 4 * (uint64_t)index + 1;
        if (first >= timers->count)
            break;
        uint32_t last = (uint32_t)(first + 4 < timers->count ? first + 4 : timers->count);
        uint32_t best = (uint32_t)first;
        for (uint32_t child = best + 1; child < last; child++)
            if (earlier(&timers->heap[child], &timers->heap[best]))
                best = child;
        if (!earlier(&timers->heap[best], &timer))
            break;
        place(timers, index, timers->heap[best]);
        index = best;
    }
    place(timers, index, timer);
}

/* 0, or -1 without memory. */
static int grow(struct greenio_timers *timers)
{
    size_t room = timers->room != 0 ? (size_t)timers->room * 2 : FIRST_ROOM;
    size_t lead = CACHE_LINE_BYTES - sizeof(struct greenio_timer);
    void *memory = NULL;
    if (room > UINT32_MAX / 2
        || posix_memalign(&memory, CACHE_LINE_BYTES, lead + room * sizeof(struct greenio_timer)) != 0)
        return -1;
    uint32_t *places = realloc(timers->places, room * sizeof *places);
    if (places != NULL)
        timers->places = places;
    void **owners = realloc(timers->owners, room * sizeof *owners);
    if (owners != NULL)
        timers->owners = owners;
    if (places == NULL || owners == NULL) {
        free(memory);
        return -1;
    }
    struct greenio_timer *heap = (struct greenio_timer *)((char *)memory + lead);
    if (timers->count != 0)
        memcpy(heap, timers->heap, timers->count * sizeof *heap);
    free(timers->memory);
    timers->memory = memory;
    timers->heap = heap;
    timers->room = (uint32_t)room;
    return 0;
}

uint32_t greenio_timers_add(struct greenio_timers *timers, int64_t deadline_ns, void *owner)
{
    if (timers->count == timers->room && grow(timers) != 0)
        return GREENIO_TIMER_NONE;
    uint32_t id;
    if (timers->free_id != 0) {
        id = timers->free_id - 1;
        timers->free_id = timers->places[id];
    }
    else {
        id = timers->used_ids++;
    }
    timers->owners[id] = owner;
    struct greenio_timer timer = {deadline_ns, timers->sequence++, id};
    sift_up(timers, timers->count++, timer);
    return id;
}

void greenio_timers_remove(struct greenio_timers *timers, uint32_t id)
{
    uint32_t index = timers->places[id];
    timers->places[id] = timers->free_id;
    timers->free_id = id + 1;
    timers->count--;
    if (index == timers->count)
        return;
    struct greenio_timer last = timers->heap[timers->count];
    if (index > 0 && earlier(&last, &timers->heap[(index - 1) / 4]))
        sift_up(timers, index, last);
    else
        sift_down(timers, index, last);
}

void greenio_timers_clear(struct greenio_timers *timers)
{
    timers->count = 0;
    timers->used_ids = 0;
    timers->free_id = 0;
}

void greenio_timers_drop(struct greenio_timers *timers)
{
    free(timers->memory);
    free(timers->places);
    free(timers->owners);
    memset(timers, 0, sizeof *timers);
}
