/* cpython313.h: how CPython 3.13 differs from 3.12.
 *
 * - Only the main state hears of signals (signal_bit.h); threading.local has two more fields (thread_locals.h).
 * - The current frame is in the state itself; there is no on_delete.
 */
#ifndef GREENIO_CPYTHON_H
#define GREENIO_CPYTHON_H

#include "recursion_units.h"
#include "signal_bit.h"
#include "thread_locals.h"

#define GREENIO_STACK_MIN_BYTES ((size_t)64 * 1024)
#define GREENIO_YELLOW_ZONE 1
#define GREENIO_HOT_STACK_BYTES ((size_t)2048)
#define GREENIO_STACK_COLOURS ((size_t)16)
#define GREENIO_SWAP_LETS_GIL_GO 1
#define GREENIO_SIGNALS_FROM_OUTSIDE 1

static inline PyObject *greenio_version_take_exception(void)
{
    return PyErr_GetRaisedException();
}

static inline void greenio_version_make_current(PyThreadState *state)
{
    PyThreadState_Swap(state);
}

static inline void greenio_version_bring_requests(PyThreadState *main, PyThreadState *state)
{
    (void)main;
    (void)state;
}

static inline void greenio_version_settle(PyThreadState *state, const struct greenio_stack *stack)
{
    greenio_recursion_settle(state, stack);
    state->tracing = 0;
}

#endif
