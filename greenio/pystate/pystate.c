/* pystate.c: the five verbs, for a thread state per fiber. What differs between versions is in the headers. */
#define _GNU_SOURCE
#include <Python.h>
#define GREENIO_VERSION_IMPLEMENTATION
#include "pystate.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* Destructors of one fiber's thread locals can make new ones; a state that never runs empty is a program's bug. */
#define RESET_ROUNDS 100

/* Writes the traceback of a thread state without allocating; exported by some versions only (3.11, 3.12; 3.15). */
typedef void (*dump_traceback_function)(int fd, PyThreadState *state);
static dump_traceback_function dump_traceback;

/* Where CPython leaves word of signals, for good: a fork from another state frees this one and does not tell the runtime. Its memory is
 * part of the interpreter's and may be used for a later state. */
static PyThreadState *main_state;

static PyObject *do_nothing; /* a Python function: calling it is a check of everything that is pending */

static int make_do_nothing(void)
{
    PyObject *names = PyDict_New();
    if (names == NULL)
        return -1;
    do_nothing = PyRun_String("lambda: None", Py_eval_input, names, names);
    Py_DECREF(names);
    return do_nothing != NULL ? 0 : -1;
}

static PyThreadState *oldest_state(PyInterpreterState *interpreter)
{
    PyThreadState *oldest = PyInterpreterState_ThreadHead(interpreter);
    for (PyThreadState *next = oldest; next != NULL; next = PyThreadState_Next(next))
        oldest = next;
    return oldest;
}

int greenio_pystate_init(int hide_stack_protection)
{
    dump_traceback = (dump_traceback_function)dlsym(RTLD_DEFAULT, "PyUnstable_DumpTraceback");
    if (dump_traceback == NULL)
        dump_traceback = (dump_traceback_function)dlsym(RTLD_DEFAULT, "_Py_DumpTraceback");
    main_state = oldest_state(PyInterpreterState_Main());
    if (make_do_nothing() < 0)
        return -1;
#ifdef GREENIO_VERSION_INIT_NEEDED
    return greenio_version_init(hide_stack_protection);
#else
    (void)hide_stack_protection;
    return 0;
#endif
}

/* Held while a state is freed and while another OS thread, without the GIL, looks at one. */
static pthread_mutex_t states_lock = PTHREAD_MUTEX_INITIALIZER;

static size_t fiber_states; /* made by new and not dropped since */

static int is_fibers(const PyThreadState *state)
{
    return greenio_stack_find((void *)state->thread_id) != NULL;
}

static void set_data_stack(PyThreadState *state, struct greenio_stack *stack)
{
    _PyStackChunk *chunk = (_PyStackChunk *)stack->data;
    chunk->previous = NULL;
    chunk->size = stack->data_bytes;
    chunk->top = 0;
    state->datastack_chunk = chunk;
    state->datastack_top = &chunk->data[1]; /* a chunk whose first word is in use is never freed */
    state->datastack_limit = (PyObject **)(stack->data + stack->data_bytes);
}

static void forget_data_stack(PyThreadState *state)
{
    state->datastack_chunk = NULL;
    state->datastack_top = NULL;
    state->datastack_limit = NULL;
}

int greenio_pystate_new(struct greenio_stack *stack)
{
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Get());
    if (state == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    fiber_states++;
    state->thread_id = (unsigned long)stack;
    set_data_stack(state, stack);
    stack->thread_state = state;
    if (greenio_version_limit_stack(state, stack->limit, stack->base) < 0) {
        greenio_pystate_drop(stack);
        return -1;
    }
    return 0;
}

/* An exception from PyThreadState_SetAsyncExc that came too late. It is raised and dropped, not just forgotten: on CPython 3.11 and 3.12
 * the interpreter would go on looking for it at every check, and with a trace function set never get past one. A signal handler may be
 * what raises instead; then Ctrl-C is not lost. */
static void drop_async_exception(PyThreadState *state)
{
    PyObject *value = PyObject_CallNoArgs(do_nothing);
    Py_XDECREF(value);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) && state->async_exc != NULL)
        PyErr_SetInterrupt();
    PyErr_Clear();
    Py_CLEAR(state->async_exc);
}

void greenio_pystate_reset(PyThreadState *state)
{
    struct greenio_stack *stack = (struct greenio_stack *)state->thread_id;
    for (int round = 0; round < RESET_ROUNDS && !greenio_pystate_is_clean(state); round++) {
        if (state->c_tracefunc != NULL)
            PyEval_SetTrace(NULL, NULL);
        if (state->c_profilefunc != NULL)
            PyEval_SetProfile(NULL, NULL);
        greenio_version_clear_locals(state);
        if (state->async_exc != NULL)
            drop_async_exception(state);
        Py_CLEAR(state->async_gen_firstiter);
        Py_CLEAR(state->async_gen_finalizer);
        Py_CLEAR(state->exc_info->exc_value);
        if (state->context != NULL) { /* made by a destructor that set a context variable */
            state->context_ver++;
            Py_CLEAR(state->context);
        }
        state->coroutine_origin_tracking_depth = 0;
    }
    state->gilstate_counter = 1; /* as PyThreadState_New leaves it */
    greenio_version_settle(state, stack);
}

void greenio_pystate_drop(struct greenio_stack *stack)
{
    PyThreadState *state = stack->thread_state;
    stack->thread_state = NULL;
    greenio_pystate_take_out(state);
    forget_data_stack(state);
    PyThreadState_Clear(state);
    forget_data_stack(state);
    pthread_mutex_lock(&states_lock);
    PyThreadState_Delete(state);
    pthread_mutex_unlock(&states_lock);
    fiber_states--;
}

int greenio_pystate_forward_signals(PyThreadState *signals, PyThreadState *volatile *running)
{
    pthread_mutex_lock(&states_lock);
    int forwarded = greenio_version_forward_signals(signals, running);
    pthread_mutex_unlock(&states_lock);
    return forwarded;
}

int greenio_pystate_hears_signals(PyThreadState *state)
{
    /* The main state is the oldest of the interpreter: the last in its list. */
    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(state);
    return interpreter == PyInterpreterState_Main() && oldest_state(interpreter) == state;
}

int greenio_pystate_use_stack(PyThreadState *state, const struct greenio_stack *stack, uintptr_t saved[3])
{
    return greenio_version_use_stack(state, stack->limit, stack->base, saved);
}

void greenio_pystate_use_own_stack(PyThreadState *state, const struct greenio_stack *own, const uintptr_t saved[3])
{
    greenio_version_use_own_stack(state, own, saved);
}

int greenio_pystate_take_recursion(struct greenio_stack *stack, int (*in_register)(int32_t value))
{
    PyThreadState *state = stack->thread_state;
    /* Not the running one: a large frame has jumped over a whole guard, into a neighbour's. */
    if (state == NULL || !GREENIO_YELLOW_ZONE || state != PyGILState_GetThisThreadState())
        return -1;
    return greenio_version_take_recursion(state, stack->taken, in_register);
}

void greenio_pystate_give_back_recursion(struct greenio_stack *stack)
{
    greenio_version_give_back_recursion(stack->thread_state, stack->taken);
}

#if GREENIO_YELLOW_ZONE
static destructor free_recursion_error; /* the type's own */
static void (*recursion_error_freed)(void);

static void recursion_error_dealloc(PyObject *error)
{
    /* The type's own asks whether it is the type's, and uses the trashcan only then: so it is used here. Long chains are made by
     * code that recurses again in its except clause. */
    PyObject_GC_UnTrack(error);
    Py_TRASHCAN_BEGIN(error, recursion_error_dealloc)
    free_recursion_error(error);
    Py_TRASHCAN_END
    recursion_error_freed();
}
#endif

/* The type's slot is the one place that is passed after every overflow that was handled, on the way and not in a signal
 * handler. Subclasses call it, too. */
void greenio_pystate_watch_recursion_errors(void (*freed)(void))
{
#if GREENIO_YELLOW_ZONE
    PyTypeObject *type = (PyTypeObject *)PyExc_RecursionError;
    recursion_error_freed = freed;
    if (type->tp_dealloc != recursion_error_dealloc) {
        free_recursion_error = type->tp_dealloc;
        type->tp_dealloc = recursion_error_dealloc;
    }
#else
    (void)freed;
#endif
}

static void write_text(int fd, const char *text)
{
    ssize_t ignored = write(fd, text, strlen(text));
    (void)ignored;
}

static void write_object(int fd, PyObject *unicode)
{
    const char *text = unicode != NULL && PyUnicode_Check(unicode) ? PyUnicode_AsUTF8(unicode) : NULL;
    write_text(fd, text != NULL ? text : "?");
}

/* Where the interpreter exports no writer of its own: frame objects are made, which may fail in a process whose
 * memory is damaged. It is dying anyway. */
static void write_frames(PyThreadState *state, int fd)
{
    PyFrameObject *frame = PyThreadState_GetFrame(state);
    for (int depth = 0; frame != NULL && depth < 100; depth++) {
        char number[16];
        PyCodeObject *code = PyFrame_GetCode(frame);
        snprintf(number, sizeof number, "%d", PyFrame_GetLineNumber(frame));
        write_text(fd, "  File \"");
        write_object(fd, code->co_filename);
        write_text(fd, "\", line ");
        write_text(fd, number);
        write_text(fd, " in ");
        write_object(fd, code->co_name);
        write_text(fd, "\n");
        frame = PyFrame_GetBack(frame); /* references are let go with the process */
    }
    if (frame != NULL)
        write_text(fd, "  ...\n");
}

void greenio_pystate_write_traceback(PyThreadState *state, int fd)
{
    if (dump_traceback != NULL) {
        dump_traceback(fd, state);
        return;
    }
    write_text(fd, "Stack (most recent call first):\n");
    write_frames(state, fd);
}

unsigned long greenio_pystate_before_fork(PyThreadState *state)
{
    unsigned long thread_id = state->thread_id;
    state->thread_id = PyThread_get_thread_ident();
    return thread_id;
}

void greenio_pystate_after_fork(PyThreadState *state, unsigned long thread_id)
{
    state->thread_id = thread_id;
}

PyThreadState *greenio_pystate_after_fork_child(PyThreadState *state)
{
    pthread_mutex_init(&states_lock, NULL);
    fiber_states = is_fibers(state);
    return main_state != NULL ? main_state : state;
}

size_t greenio_pystate_foreign_count(PyThreadState *own)
{
    size_t count = 0;
    PyThreadState *state = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(own));
    for (; state != NULL; state = PyThreadState_Next(state))
        count++;
    return count - fiber_states - !is_fibers(own);
}
