/* cpython311.h: what CPython 3.11 wants. The versions after it tell how they differ from this one.
 *
 * Carried by the fiber's own thread state, nothing to do: cframe, exc_info, context, data stack, recursion_remaining,
 * trashcan, tracing, dict (threading.local).
 * - PyThreadState_Swap does not touch the GIL, and does not tell the GIL-state API either: PyGILState_Ensure
 *   in a fiber would find another fiber's state. So the key that it looks in is set first. Goes with this file.
 * - Signals are noticed by whatever state runs (the breaker is the interpreter's).
 * - One counter, recursion_remaining, for Python and C calls alike; C depth is not checked against any stack.
 */
#ifndef GREENIO_CPYTHON_H
#define GREENIO_CPYTHON_H

#include <pthread.h>

#define GREENIO_STACK_MIN_BYTES ((size_t)64 * 1024)
#define GREENIO_YELLOW_ZONE 1
/* A fiber parked at an event, two Python frames deep, has 1,720 bytes of C stack. The handler of a web server of the standard library
 * has had 2,360 of data stack and 4,800 of C stack: two pages. More colours made each of them one more, and no switch faster. */
#define GREENIO_HOT_STACK_BYTES ((size_t)1728)
#define GREENIO_STACK_COLOURS ((size_t)1)
#define GREENIO_SWAP_LETS_GIL_GO 0
#define GREENIO_SIGNALS_FROM_OUTSIDE 0

extern pthread_key_t greenio_version_gilstate_key; /* found by greenio_version_init */

static inline void greenio_version_make_current(PyThreadState *state)
{
    pthread_setspecific(greenio_version_gilstate_key, state);
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

static inline int greenio_version_limit_stack(PyThreadState *state, char *limit, char *base)
{
    (void)state;
    (void)limit;
    (void)base;
    return 0;
}

static inline int greenio_version_use_stack(PyThreadState *state, char *limit, char *base, uintptr_t saved[3])
{
    (void)saved;
    return greenio_version_limit_stack(state, limit, base);
}

static inline void greenio_version_use_own_stack(PyThreadState *state, const struct greenio_stack *own, const uintptr_t saved[3])
{
    (void)state;
    (void)own;
    (void)saved;
}

static inline int greenio_version_take_recursion(PyThreadState *state, int32_t taken[2], int (*in_register)(int32_t value))
{
    if (in_register(state->recursion_remaining))
        return 1;
    taken[0] += state->recursion_remaining;
    state->recursion_remaining = 0;
    return 0;
}

static inline void greenio_version_give_back_recursion(PyThreadState *state, int32_t taken[2])
{
    state->recursion_remaining += taken[0];
    taken[0] = 0;
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
    (void)stack;
    state->recursion_remaining = state->recursion_limit;
    state->recursion_headroom = 0;
    state->tracing = 0;
    if (state->on_delete != NULL) {
        state->on_delete(state->on_delete_data);
        state->on_delete = NULL;
        state->on_delete_data = NULL;
    }
}

/* The exception being raised, its traceback attached, no longer being raised. New reference. */
static inline PyObject *greenio_version_take_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

/* PyGILState_GetThisThreadState reads one pthread key: the one that holds the current state and whose change it sees. */
#define GREENIO_VERSION_INIT_NEEDED 1
#ifdef GREENIO_VERSION_IMPLEMENTATION
pthread_key_t greenio_version_gilstate_key;

static int greenio_version_init(int hide_stack_protection)
{
    PyThreadState *current = PyThreadState_Get();
    static char marker;
    (void)hide_stack_protection;
    for (pthread_key_t key = 0; key < 1024; key++) { /* PTHREAD_KEYS_MAX on Linux */
        if (pthread_getspecific(key) != (void *)current)
            continue;
        pthread_setspecific(key, &marker);
        int seen = PyGILState_GetThisThreadState() == (PyThreadState *)&marker;
        pthread_setspecific(key, current);
        if (seen) {
            greenio_version_gilstate_key = key;
            return 0;
        }
    }
    PyErr_SetString(PyExc_ImportError, "greenio cannot find where this CPython 3.11 keeps the GIL-state of an OS thread; "
                                       "supported are unmodified CPython builds on Linux x86-64");
    return -1;
}
#endif

#endif
