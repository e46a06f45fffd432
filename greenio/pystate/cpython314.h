/* cpython314.h: how CPython 3.14 differs from 3.13.
 *
 * - C recursion is checked against the stack itself: each thread state holds the bounds of its C stack in three private
 *   words (top, soft limit two margins above the low end, hard limit one margin). 3.14.1 brought a call that
 *   sets them; on 3.14.0 the words are looked for at import. Their place differs within 3.14 (3.14.4 added a field
 *   before them), so it is never compiled in, and the call is looked up at run time: one build serves all of 3.14.
 * - Hence no yellow zone: the guard is all red.
 * - Another process's request to run a script comes to the main state only (remote_debug.h).
 * - A thread_id is handed to pthread functions by faulthandler, and remote unwinders read 16 KB from the data stack's chunk.
 */
#ifndef GREENIO_CPYTHON_H
#define GREENIO_CPYTHON_H

#include "remote_debug.h"
#include "signal_bit.h"
#include "thread_locals.h"

/* Two margins of 16 KiB (32 in debug builds) are the interpreter's own; below 96 KiB little is left. */
#define GREENIO_STACK_MIN_BYTES ((size_t)128 * 1024)
#define GREENIO_YELLOW_ZONE 0
#define GREENIO_HOT_STACK_BYTES ((size_t)2048) /* parked at an event: 2,300 */
#define GREENIO_STACK_COLOURS ((size_t)16)
#define GREENIO_SWAP_LETS_GIL_GO 1
#define GREENIO_SIGNALS_FROM_OUTSIDE 1

/* Set the bounds of the C stack that `state` runs on. 0, or -1 with an exception. */
int greenio_version_limit_stack(PyThreadState *state, char *limit, char *base);

struct greenio_stack_bounds {
    uintptr_t top, soft_limit, hard_limit;
};
struct greenio_stack_bounds *greenio_version_stack_bounds(PyThreadState *state);

int greenio_version_use_stack(PyThreadState *state, char *limit, char *base, uintptr_t saved[3]);
void greenio_version_use_own_stack(PyThreadState *state, const struct greenio_stack *own, const uintptr_t saved[3]);

static inline PyObject *greenio_version_take_exception(void)
{
    return PyErr_GetRaisedException();
}

static inline void greenio_version_make_current(PyThreadState *state)
{
    PyThreadState_Swap(state);
}

static inline int greenio_version_take_recursion(PyThreadState *state, int32_t taken[2], int (*in_register)(int32_t value))
{
    (void)state;
    (void)taken;
    (void)in_register;
    return -1;
}

static inline void greenio_version_give_back_recursion(PyThreadState *state, int32_t taken[2])
{
    (void)state;
    (void)taken;
}

static inline void greenio_version_settle(PyThreadState *state, const struct greenio_stack *stack)
{
    (void)stack;
    state->py_recursion_remaining = state->py_recursion_limit;
    state->recursion_headroom = 0;
    state->tracing = 0;
}

#define GREENIO_VERSION_INIT_NEEDED 1
#ifdef GREENIO_VERSION_IMPLEMENTATION
#include <dlfcn.h>
#include <string.h>

typedef int (*greenio_set_stack_protection)(PyThreadState *, void *, size_t);
typedef void (*greenio_reset_stack_protection)(PyThreadState *);

static greenio_set_stack_protection greenio_version_set_protection;
static greenio_reset_stack_protection greenio_version_reset_protection;
static size_t greenio_version_bounds_offset; /* of struct greenio_stack_bounds in a thread state */
static size_t greenio_version_margin;        /* bytes */

struct greenio_stack_bounds *greenio_version_stack_bounds(PyThreadState *state)
{
    return (struct greenio_stack_bounds *)((char *)state + greenio_version_bounds_offset);
}

/* The words are behind the public struct of whichever 3.14 this is; those of the running state enclose the stack
 * pointer, which no other three neighbours do. */
static int greenio_version_find_bounds(PyThreadState *current)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    size_t end = sizeof(PyThreadState); /* of the public struct that this was compiled with, give or take a few fields */
    for (size_t offset = end - 64; offset <= end + 96; offset += sizeof(void *)) {
        struct greenio_stack_bounds *bounds = (struct greenio_stack_bounds *)((char *)current + offset);
        size_t margin = bounds->soft_limit - bounds->hard_limit;
        if (bounds->top > here && bounds->soft_limit < here && bounds->hard_limit < bounds->soft_limit &&
            (margin == 16 * 1024 || margin == 32 * 1024)) {
            greenio_version_bounds_offset = offset;
            greenio_version_margin = margin;
            return 0;
        }
    }
    PyErr_SetString(PyExc_ImportError, "greenio cannot find where this CPython keeps the bounds of a C stack; "
                                       "use CPython 3.14.1 or later, which has a call to set them");
    return -1;
}

static int greenio_version_init(int hide_stack_protection)
{
    if (!hide_stack_protection) {
        greenio_version_set_protection =
            (greenio_set_stack_protection)dlsym(RTLD_DEFAULT, "PyUnstable_ThreadState_SetStackProtection");
        greenio_version_reset_protection =
            (greenio_reset_stack_protection)dlsym(RTLD_DEFAULT, "PyUnstable_ThreadState_ResetStackProtection");
    }
    if (greenio_version_set_protection == NULL || greenio_version_reset_protection == NULL) {
        greenio_version_set_protection = NULL;
        return greenio_version_find_bounds(PyThreadState_Get());
    }
    return 0;
}

int greenio_version_limit_stack(PyThreadState *state, char *limit, char *base)
{
    if (greenio_version_set_protection != NULL)
        return greenio_version_set_protection(state, limit, (size_t)(base - limit));
    struct greenio_stack_bounds *bounds = greenio_version_stack_bounds(state);
    bounds->top = (uintptr_t)base;
    bounds->hard_limit = (uintptr_t)limit + greenio_version_margin;
    bounds->soft_limit = (uintptr_t)limit + 2 * greenio_version_margin;
    return 0;
}

int greenio_version_use_stack(PyThreadState *state, char *limit, char *base, uintptr_t saved[3])
{
    if (greenio_version_set_protection == NULL)
        memcpy(saved, greenio_version_stack_bounds(state), sizeof(struct greenio_stack_bounds));
    return greenio_version_limit_stack(state, limit, base);
}

void greenio_version_use_own_stack(PyThreadState *state, const struct greenio_stack *own, const uintptr_t saved[3])
{
    if (greenio_version_set_protection == NULL)
        memcpy(greenio_version_stack_bounds(state), saved, sizeof(struct greenio_stack_bounds));
    else if (own != NULL)
        greenio_version_set_protection(state, own->limit, (size_t)(own->base - own->limit));
    else
        greenio_version_reset_protection(state);
}
#endif

#endif
