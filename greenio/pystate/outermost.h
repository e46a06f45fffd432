/* outermost.h: Python code run as if nothing had called it, the way the interpreter runs its main program.
 *
 * What called us stays on the interpreter's chain of frames, and in its count of the recursion, unless both are put aside:
 * tracebacks would end in it, warnings with a high stack level would name it, recursion would fail that much earlier. Only
 * the calling OS thread's own thread state is touched, between two calls into the interpreter, with the GIL held.
 *
 * One user, greenio/_outermost.pyx. Not part of the contract in pystate.h: fibers have a chain of their own anyway.
 */
#ifndef GREENIO_PYSTATE_OUTERMOST_H
#define GREENIO_PYSTATE_OUTERMOST_H

#include <Python.h>

struct greenio_callers {
    struct _PyInterpreterFrame *frame; /* the innermost of them */
    int depth;                         /* how many recursion levels they use */
};

/* The interpreter's chain starts here. */
static inline struct _PyInterpreterFrame **greenio_outermost_frame(PyThreadState *state)
{
#if PY_VERSION_HEX < 0x030D0000
    return &state->cframe->current_frame; /* CPython 3.11 and 3.12 only. Goes with cpython312.h. */
#else
    return &state->current_frame;
#endif
}

/* What the chain starts with in a thread that runs nothing. */
static inline struct _PyInterpreterFrame *greenio_outermost_base(PyThreadState *state)
{
#if PY_VERSION_HEX < 0x030F0000
    (void)state;
    return NULL;
#else
    return state->base_frame; /* profilers look whether they came to its end */
#endif
}

#if PY_VERSION_HEX < 0x030C0000
#define GREENIO_RECURSION_LEFT(state) ((state)->recursion_remaining) /* CPython 3.11 only. Goes with cpython311.h. */
#define GREENIO_RECURSION_LIMIT(state) ((state)->recursion_limit)
#else
#define GREENIO_RECURSION_LEFT(state) ((state)->py_recursion_remaining)
#define GREENIO_RECURSION_LIMIT(state) ((state)->py_recursion_limit)
#endif

/* `python -c` takes away what all lines are indented by. */
#define GREENIO_COMMAND_IS_DEDENTED (PY_VERSION_HEX >= 0x030E0000)

static inline struct greenio_callers greenio_callers_hide(void)
{
    PyThreadState *state = PyThreadState_Get();
    struct greenio_callers callers = {
        *greenio_outermost_frame(state), GREENIO_RECURSION_LIMIT(state) - GREENIO_RECURSION_LEFT(state)};
    *greenio_outermost_frame(state) = greenio_outermost_base(state);
    GREENIO_RECURSION_LEFT(state) = GREENIO_RECURSION_LIMIT(state);
    return callers;
}

static inline void greenio_callers_show(struct greenio_callers callers)
{
    PyThreadState *state = PyThreadState_Get();
    *greenio_outermost_frame(state) = callers.frame;
    GREENIO_RECURSION_LEFT(state) = GREENIO_RECURSION_LIMIT(state) - callers.depth; /* the program may have set the limit */
}

/* function(*arguments) */
static inline PyObject *greenio_outermost_call(PyObject *function, PyObject *arguments)
{
    struct greenio_callers callers = greenio_callers_hide();
    PyObject *result = PyObject_Call(function, arguments, NULL);
    greenio_callers_show(callers);
    return result;
}

/* The program in an open file, which is closed; its errors, of syntax and encoding too, are those of `python file`. */
static inline PyObject *greenio_outermost_file(FILE *file, const char *name, PyObject *globals)
{
    struct greenio_callers callers = greenio_callers_hide();
    PyCompilerFlags flags = _PyCompilerFlags_INIT;
    PyObject *result = PyRun_FileExFlags(file, name, Py_file_input, globals, globals, file != stdin, &flags);
    greenio_callers_show(callers);
    return result;
}

/* What the interpreter does about an exception that left the main program: hooks, sys.last_exc; SystemExit ends the process. */
static inline PyObject *greenio_outermost_print(PyObject *exception)
{
    struct greenio_callers callers = greenio_callers_hide();
    Py_INCREF(exception);
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
    PyErr_Print();
    greenio_callers_show(callers);
    return Py_NewRef(Py_None);
}

#endif
