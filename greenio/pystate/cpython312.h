/* cpython312.h: how CPython 3.12 differs from 3.11.
 *
 * - PyThreadState_Swap lets go of the GIL and takes it again, and tells the GIL-state API by itself.
 * - C recursion has its own counter (recursion_units.h).
 */
#ifndef GREENIO_CPYTHON_H
#define GREENIO_CPYTHON_H

#include "recursion_units.h"

#define GREENIO_STACK_MIN_BYTES ((size_t)64 * 1024)
#define GREENIO_YELLOW_ZONE 1
/* As in 3.11 but for the web server: its 2,500 bytes of data stack leave no room for the fiber at an event. */
#define GREENIO_HOT_STACK_BYTES ((size_t)2048)
#define GREENIO_STACK_COLOURS ((size_t)16)
#define GREENIO_SWAP_LETS_GIL_GO 1
#define GREENIO_SIGNALS_FROM_OUTSIDE 0

static inline PyObject *greenio_version_take_exception(void)
{
    return PyErr_GetRaisedException();
}

static inline void greenio_version_make_current(PyThreadState *state)
{
    PyThreadState_Swap(state);
}

static inline void greenio_version_move_signals(PyThreadState *signals, PyThreadState *leaving, PyThreadState *state)
{
    (void)signals;
    (void)leaving;
    (void)state;
}

static inline void greenio_version_remind_of_signals(PyThreadState *state)
{
    (void)state;
}

static inline int greenio_version_forward_signals(PyThreadState *signals, PyThreadState *volatile *running)
{
    (void)signals;
    (void)running;
    return 0;
}

static inline int greenio_version_has_locals(const PyThreadState *state)
{
    return state->dict != NULL;
}

static inline void greenio_version_clear_locals(PyThreadState *state)
{
    Py_CLEAR(state->dict);
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
    if (state->on_delete != NULL) {
        state->on_delete(state->on_delete_data);
        state->on_delete = NULL;
        state->on_delete_data = NULL;
    }
}

#endif
