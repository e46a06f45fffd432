/* signal_bit.h: signals on CPython 3.13 to 3.15, where only the main thread state hears of them.
 *
 * A signal sets one bit in the main state's eval_breaker and nowhere else, so a fiber that computes would never
 * see Ctrl-C. The bit is moved to the state that runs: at every switch (here) and by the monitor thread (monitor.c).
 * Moved, not copied: a copy is found again at every switch.
 * eval_breaker is a field of the public struct; the bit's value is the same in all three (pycore_ceval.h).
 */
#ifndef GREENIO_SIGNAL_BIT_H
#define GREENIO_SIGNAL_BIT_H

#define GREENIO_PENDING_SIGNAL_BIT ((uintptr_t)2) /* _PY_SIGNALS_PENDING_BIT */

static inline int greenio_signal_bit_take(PyThreadState *state)
{
    if (!(__atomic_load_n(&state->eval_breaker, __ATOMIC_RELAXED) & GREENIO_PENDING_SIGNAL_BIT))
        return 0;
    return (__atomic_fetch_and(&state->eval_breaker, ~GREENIO_PENDING_SIGNAL_BIT, __ATOMIC_ACQ_REL) &
            GREENIO_PENDING_SIGNAL_BIT) != 0;
}

static inline void greenio_signal_bit_give(PyThreadState *state)
{
    __atomic_fetch_or(&state->eval_breaker, GREENIO_PENDING_SIGNAL_BIT, __ATOMIC_ACQ_REL);
}

static inline void greenio_version_move_signals(PyThreadState *signals, PyThreadState *leaving, PyThreadState *state)
{
    /* The monitor may have moved it to the state that is just leaving. */
    int pending = greenio_signal_bit_take(leaving);
    if (signals != state)
        pending |= greenio_signal_bit_take(signals);
    if (pending)
        greenio_signal_bit_give(state);
}

static inline void greenio_version_remind_of_signals(PyThreadState *state)
{
    greenio_signal_bit_give(state);
}

/* From an OS thread without the GIL: bring a bit that waits at `signals` to the state that runs. It may stop running
 * meanwhile; then the bit is taken back and brought to the next one. */
static inline int greenio_version_forward_signals(PyThreadState *signals, PyThreadState *volatile *running)
{
    PyThreadState *state = *running;
    if (state == NULL || state == signals || !greenio_signal_bit_take(signals))
        return 0;
    for (;;) {
        greenio_signal_bit_give(state);
        PyThreadState *now = __atomic_load_n(running, __ATOMIC_SEQ_CST);
        if (now == state || now == NULL || !greenio_signal_bit_take(state))
            return 1;
        state = now;
    }
}

#endif
