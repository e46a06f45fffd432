/* pystate.h: what a fiber needs of the interpreter. The contract, and the only ladder of version tests.
 *
 * Five verbs on a fiber's thread state: new, enter, leave, reset, drop. One implementation so far: every fiber has a
 * PyThreadState of its own, made by PyThreadState_New and entered by the public PyThreadState_Swap (another, all fibers
 * of an OS thread sharing one, must fit the same verbs; free-threaded builds will need it).
 * All want the GIL held but where said otherwise. What differs between CPython versions is in cpython<version>.h,
 * one file a version.
 *
 * Invariants:
 *   - a thread state belongs to one slot of stack memory for as long as both live;
 *   - its thread_id is the address of the slot's control block: unique, and readable (faulthandler on 3.14+ hands it
 *     to pthread_getname_np, which reads there);
 *   - the root chunk of its data stack lies in the slot; CPython never frees it, because the first word is skipped;
 *   - a state that will be used again is never PyThreadState_Clear'ed.
 */
#ifndef GREENIO_PYSTATE_H
#define GREENIO_PYSTATE_H

#include <Python.h>
#include "../stack.h"

#ifdef Py_GIL_DISABLED
#  error "greenio: free-threaded CPython builds are not supported yet; use a build with the GIL"
#endif

#if PY_VERSION_HEX >= 0x03100000
#  error "greenio: CPython 3.16 and later have no file in greenio/pystate/ yet; see CONTRIBUTING.md, 'a Python version'"
#elif PY_VERSION_HEX >= 0x030F0000
#  include "cpython315.h"
#elif PY_VERSION_HEX >= 0x030E0000
#  include "cpython314.h"
#elif PY_VERSION_HEX >= 0x030D0000
#  include "cpython313.h"
#elif PY_VERSION_HEX >= 0x030C0000
#  include "cpython312.h"
#elif PY_VERSION_HEX >= 0x030B0000
#  include "cpython311.h"
#else
#  error "greenio: CPython 3.11 to 3.15 are supported; this one is older"
#endif

/* Look up what this interpreter offers. Once, at import, before any other verb. `hide_stack_protection`: behave as on
 * 3.14.0, which lacks the call (tests). 0, or -1 with an ImportError or MemoryError set. */
int greenio_pystate_init(int hide_stack_protection);

/* new: a thread state for the slot, stored in stack->thread_state and ready to be entered.
 * 0, or -1 with MemoryError. Runs no Python code. */
int greenio_pystate_new(struct greenio_stack *stack);

/* enter: make `state` the current one, and `leaving`, which was current, not. From 3.12 on the GIL may be let go and
 * taken again in between, so other OS threads may run Python here. `signals` is the thread state that hears of signals when the
 * caller is its OS thread, else NULL: a pending bit found there goes to `state`, and so do other processes' requests. Runs no Python code here. */
static inline void greenio_pystate_enter(PyThreadState *leaving, PyThreadState *state, PyThreadState *signals)
{
    if (signals != NULL) {
        greenio_version_move_signals(signals, leaving, state);
        greenio_version_bring_requests(signals, state);
    }
    greenio_version_make_current(state);
}

/* Whether the state is as new: nothing of what reset clears is there. */
static inline int greenio_pystate_is_clean(const PyThreadState *state)
{
    return !greenio_version_has_locals(state) && state->async_exc == NULL && state->async_gen_firstiter == NULL &&
           state->async_gen_finalizer == NULL && state->exc_info->exc_value == NULL && state->context == NULL &&
           state->c_tracefunc == NULL && state->c_profilefunc == NULL && state->coroutine_origin_tracking_depth == 0;
}

/* leave: what must be put away before another state is entered. Nothing, where each fiber has its own. */
static inline void greenio_pystate_leave(PyThreadState *state)
{
    (void)state;
}

/* reset: make the current state like new for the next fiber, but for what only drop may clear. Called by the fiber that ends,
 * on its own stack, with no Python frame left. Destructors may run Python code, and park.
 * Also called by a fiber that begins and finds its state not clean. An idle state can be reached: by
 * PyThreadState_SetAsyncExc with an ended fiber's ident, by threading.settrace_all_threads, by a signal
 * handler that runs while an ended fiber hosts the idle loop. */
void greenio_pystate_reset(PyThreadState *state);

/* Between reset and the next fiber's enter: the state waits in a slot that nobody stands on, and tools of other processes must find
 * nothing odd in it. take_out undoes put_away; drop does, too. */
#ifndef GREENIO_VERSION_PUTS_AWAY
static inline void greenio_version_put_away(PyThreadState *state)
{
    (void)state;
}

static inline void greenio_version_take_out(PyThreadState *state)
{
    (void)state;
}
#endif

static inline void greenio_pystate_put_away(PyThreadState *state)
{
    greenio_version_put_away(state);
}

static inline void greenio_pystate_take_out(PyThreadState *state)
{
    greenio_version_take_out(state);
}

/* drop: free the state of a slot that nobody stands on. It must not be current. Python code does not run, if the
 * state was reset. stack->thread_state is NULL afterwards. */
void greenio_pystate_drop(struct greenio_stack *stack);

/* Whether the calling OS thread's Python signal handling is due to `state` (it is the main one's). */
int greenio_pystate_hears_signals(PyThreadState *state);

/* The same from outside, without the GIL: bring a signal that waits at `signals` to the state that runs now. Only 3.13+ has
 * anything to do. No state is freed meanwhile. Nonzero if there was one. */
int greenio_pystate_forward_signals(PyThreadState *signals, PyThreadState *volatile *running);

/* Have `state`, which runs on the OS thread that handles signals, look for them. A state that runs elsewhere may have seen the word of
 * them, and forgotten it. */
static inline void greenio_pystate_remind_of_signals(PyThreadState *state)
{
    greenio_version_remind_of_signals(state);
}

/* Bring what other processes asked of the main state `main`, which may be parked, to the current one, `state`. Runs no Python code
 * here; PyErr_CheckSignals does. */
static inline void greenio_pystate_bring_requests(PyThreadState *main, PyThreadState *state)
{
    greenio_version_bring_requests(main, state);
}

/* The exception being raised, with its traceback, no longer being raised. New reference; NULL if there is none. */
static inline PyObject *greenio_pystate_take_exception(void)
{
    return PyErr_Occurred() != NULL ? greenio_version_take_exception() : NULL;
}

/* Another stack for the same thread state, and back (on_big_stack). `saved` keeps what `use_own_stack`
 * restores; `own` is the slot to go back to, NULL for an OS thread's own stack. */
int greenio_pystate_use_stack(PyThreadState *state, const struct greenio_stack *stack, uintptr_t saved[3]);
void greenio_pystate_use_own_stack(PyThreadState *state, const struct greenio_stack *own, const uintptr_t saved[3]);

/* For the overflow handler: take the slot's remaining recursion; async-signal-safe. Negative: cannot. Positive: the interrupted
 * code may have loaded a counter and be about to store it one less, which would undo the taking; nothing was taken.
 * `in_register` tells whether a value is in one of its registers, or its neighbour. */
int greenio_pystate_take_recursion(struct greenio_stack *stack, int (*in_register)(int32_t value));
/* Give back what was taken. */
void greenio_pystate_give_back_recursion(struct greenio_stack *stack);
/* Have `freed` called each time that a RecursionError was freed, with the GIL held, by whichever code let go of it. Code that
 * catches one and goes on without a park would else meet the open yellow zone with the recursion that unwinding gave back.
 * Where there is no yellow zone: nothing. Once, at import. */
void greenio_pystate_watch_recursion_errors(void (*freed)(void));

/* Write the Python traceback of `state` to a descriptor, newest call first. As the process dies: best effort. */
void greenio_pystate_write_traceback(PyThreadState *state, int fd);

/* Before fork and after it: debug builds of 3.13+ assert that the forking state carries the OS thread's ident. What it
 * carried is returned, and given back afterwards. */
unsigned long greenio_pystate_before_fork(PyThreadState *state);
void greenio_pystate_after_fork(PyThreadState *state, unsigned long thread_id);
/* In the child, whose only state is `state`: what hears of signals there, for `enter` and `forward_signals`. */
PyThreadState *greenio_pystate_after_fork_child(PyThreadState *state);

/* Thread states of this interpreter that are neither fibers' nor `own`: other OS threads that run Python. */
size_t greenio_pystate_foreign_count(PyThreadState *own);

#endif
