/* A life of random timers beside a plain model: an array of what is armed, searched from end to end.
 *
 *   timers_probe SEED STEPS FIRST_SEQUENCE
 *
 * Ends with 1 and a line on stderr at the first difference.
 */
#include "timers.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 4096 };

static struct { int64_t deadline_ns; uint64_t order; uint32_t id; } armed[MOST];
static size_t count;
static uint64_t state;

static uint64_t next_random(uint64_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
}

static size_t first(void)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (armed[i].deadline_ns < armed[best].deadline_ns
            || (armed[i].deadline_ns == armed[best].deadline_ns && armed[i].order < armed[best].order))
            best = i;
    return best;
}

static int fail(const char *what, uint64_t step)
{
    fprintf(stderr, "%s at step %llu\n", what, (unsigned long long)step);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    state = strtoull(argv[1], NULL, 10);
    uint64_t steps = strtoull(argv[2], NULL, 10);
    struct greenio_timers timers = {.sequence = (uint32_t)strtoull(argv[3], NULL, 10)};
    static char owners[MOST];
    for (uint64_t step = 0; step < steps; step++) {
        uint64_t limit = step / 1000 % 2 ? 20 : MOST - 1; /* waxes and wanes */
        if (count == 0 || (count < limit && next_random(10) < 6)) {
            armed[count].deadline_ns = (int64_t)next_random(500); /* many are equal */
            armed[count].order = step;
            armed[count].id = greenio_timers_add(&timers, armed[count].deadline_ns, &owners[step % MOST]);
            if (armed[count].id == GREENIO_TIMER_NONE || timers.owners[armed[count].id] != &owners[step % MOST])
                return fail("a wrong owner", step);
            for (size_t i = 0; i < count; i++)
                if (armed[i].id == armed[count].id)
                    return fail("an id given out twice", step);
            count++;
        }
        else {
            size_t which = next_random(3) ? first() : next_random(count);
            greenio_timers_remove(&timers, armed[which].id);
            armed[which] = armed[--count];
        }
        if (timers.count != count)
            return fail("a wrong count", step);
        if (count == 0)
            continue;
        size_t best = first();
        if (greenio_timers_deadline(&timers) != armed[best].deadline_ns || timers.heap[0].id != armed[best].id)
            return fail("another timer comes first", step);
        if (count > 4) {
            int64_t second_ns = INT64_MAX;
            for (size_t i = 0; i < count; i++)
                if (i != best && armed[i].deadline_ns < second_ns)
                    second_ns = armed[i].deadline_ns;
            if (greenio_timers_second_deadline(&timers) != second_ns)
                return fail("another timer comes second", step);
        }
        if (((uintptr_t)&timers.heap[1] & 63) != 0)
            return fail("children that share a cache line with others", step);
        if (next_random(5000) == 0) {
            greenio_timers_clear(&timers);
            count = 0;
        }
    }
    greenio_timers_drop(&timers);
    return 0;
}
