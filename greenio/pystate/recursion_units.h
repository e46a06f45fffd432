/* recursion_units.h: C recursion on CPython 3.12 and 3.13, counted in units. Used by cpython312.h and cpython313.h.
 *
 * c_recursion_remaining falls by one for each C call that may recurse, whatever stack that call takes. A fiber gets
 * one unit for each 512 bytes of its stack: pure C recursion (repr, json, ==) takes 90-180 bytes a unit, an interpreter
 * loop entered from C about 650; for the few that take more (nested sorted: 5 KB) there is the yellow zone.
 */
#ifndef GREENIO_RECURSION_UNITS_H
#define GREENIO_RECURSION_UNITS_H

#define GREENIO_BYTES_PER_RECURSION_UNIT 512
extern int greenio_recursion_unit_limit; /* what an OS thread has; asked of the interpreter, whose build may have its own */

static inline int greenio_recursion_units(const char *limit, const char *base)
{
    size_t units = (size_t)(base - limit) / GREENIO_BYTES_PER_RECURSION_UNIT;
    return units < (size_t)greenio_recursion_unit_limit ? (int)units : greenio_recursion_unit_limit;
}

#define GREENIO_VERSION_INIT_NEEDED 1
#ifdef GREENIO_VERSION_IMPLEMENTATION
int greenio_recursion_unit_limit;

static int greenio_version_init(int hide_stack_protection)
{
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Get());
    (void)hide_stack_protection;
    if (state == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    greenio_recursion_unit_limit = state->c_recursion_remaining;
    PyThreadState_Clear(state);
    PyThreadState_Delete(state);
    return 0;
}
#endif

static inline int greenio_version_limit_stack(PyThreadState *state, char *limit, char *base)
{
    state->c_recursion_remaining = greenio_recursion_units(limit, base);
    return 0;
}

static inline int greenio_version_use_stack(PyThreadState *state, char *limit, char *base, uintptr_t saved[3])
{
    saved[0] = (uintptr_t)state->c_recursion_remaining;
    return greenio_version_limit_stack(state, limit, base);
}

static inline void greenio_version_use_own_stack(PyThreadState *state, const struct greenio_stack *own, const uintptr_t saved[3])
{
    (void)own;
    state->c_recursion_remaining = (int)saved[0];
}

static inline int greenio_version_take_recursion(PyThreadState *state, int32_t taken[2], int (*in_register)(int32_t value))
{
    if (in_register(state->py_recursion_remaining) || in_register(state->c_recursion_remaining))
        return 1;
    taken[0] += state->py_recursion_remaining;
    taken[1] += state->c_recursion_remaining;
    state->py_recursion_remaining = 0;
    state->c_recursion_remaining = 0;
    return 0;
}

static inline void greenio_version_give_back_recursion(PyThreadState *state, int32_t taken[2])
{
    state->py_recursion_remaining += taken[0];
    state->c_recursion_remaining += taken[1];
    taken[0] = taken[1] = 0;
}

static inline void greenio_recursion_settle(PyThreadState *state, const struct greenio_stack *stack)
{
    state->py_recursion_remaining = state->py_recursion_limit;
    state->c_recursion_remaining = greenio_recursion_units(stack->limit, stack->base);
    state->recursion_headroom = 0;
}

#endif
