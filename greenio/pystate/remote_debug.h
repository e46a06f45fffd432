/* remote_debug.h: sys.remote_exec and `python -m pdb -p` on CPython 3.14 and 3.15. Used by cpython314.h.
 *
 * Another process writes its request (the path of a script) into the main thread state and sets a bit of its eval_breaker.
 * While the main fiber is parked nobody would look there, so the scheduler that stands on the main OS thread brings a request to
 * the state that runs, at a switch and whenever it looks around. A fiber that computes without a park puts it off.
 * The fields are of the public struct; the bit's value is the same in both (pycore_ceval.h).
 */
#ifndef GREENIO_REMOTE_DEBUG_H
#define GREENIO_REMOTE_DEBUG_H

#include <string.h>

#define GREENIO_REMOTE_DEBUG_BIT ((uintptr_t)32) /* _PY_EVAL_PLEASE_STOP_BIT */

static inline void greenio_version_bring_requests(PyThreadState *main, PyThreadState *state)
{
    /* The bit is set when the request is whole. */
    if (main == state || !(__atomic_load_n(&main->eval_breaker, __ATOMIC_ACQUIRE) & GREENIO_REMOTE_DEBUG_BIT)
        || main->remote_debugger_support.debugger_pending_call != 1)
        return;
    memcpy(state->remote_debugger_support.debugger_script_path, main->remote_debugger_support.debugger_script_path,
           sizeof state->remote_debugger_support.debugger_script_path);
    main->remote_debugger_support.debugger_pending_call = 0;
    __atomic_fetch_and(&main->eval_breaker, ~GREENIO_REMOTE_DEBUG_BIT, __ATOMIC_ACQ_REL);
    state->remote_debugger_support.debugger_pending_call = 1;
    __atomic_fetch_or(&state->eval_breaker, GREENIO_REMOTE_DEBUG_BIT, __ATOMIC_ACQ_REL);
}

#endif
