/* thread_locals.h: threading.local on CPython 3.13 to 3.15: a dict, a key and a sentinel in each thread state. */
#ifndef GREENIO_THREAD_LOCALS_H
#define GREENIO_THREAD_LOCALS_H

static inline int greenio_version_has_locals(const PyThreadState *state)
{
    return state->dict != NULL || state->threading_local_key != NULL || state->threading_local_sentinel != NULL;
}

static inline void greenio_version_clear_locals(PyThreadState *state)
{
    Py_CLEAR(state->dict);
    Py_CLEAR(state->threading_local_key);
    Py_CLEAR(state->threading_local_sentinel); /* its callbacks empty every local of this state */
}

#endif
