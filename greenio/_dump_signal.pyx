# _dump_signal.pyx: a signal that makes a process say what its fibers do. Two levels.
#
# The first is a handler in Python: it writes every fiber with its stack and what it waits for. It runs when the interpreter gets
# to it, which a C call that does not come back prevents. So the C handler that stands before Python's arms a timer of the
# kernel's: unless the Python handler has run a second later, the timer sends the same signal again, and then faulthandler's
# own C function writes the stack of every thread state, and each fiber has one. Nothing of that needs the GIL.
#
# One run at a time has it, and its OS thread is the main one, as Python wants it for signal handlers.
#
# Invariants:
#   - while `dumping` is not 0, and nothing here is running, the signal's disposition is on_signal, `python_handler` is Python's own C
#     handler and `write_stacks` is what faulthandler installed for it;
#   - `dumping`, `handler`, `previous` and `owner` tell what `remove` has to undo, also in a child forked by another OS thread in
#     the middle of `install`;
#   - the timer is touched only while there is one: an id that was given back may be another's.
#
# Not taken: faulthandler.register alone (it knows no names and no reasons, and at most 100 threads), and always both (twice the text).
import faulthandler
import os
import signal
import threading

from libc.errno cimport errno

from greenio._explain import format_stacks, signal_name, wait_graph_of
from greenio._scheduler import keep_quiet_handler, live_schedulers, running_scheduler

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <signal.h>
    #include <string.h>
    #include <time.h>

    #define GREENIO_DUMP_PATIENCE_S 1

    static timer_t greenio_dump_timer;
    static volatile sig_atomic_t greenio_dump_has_timer;
    static int greenio_dump_cookie;                    /* its address tells our timer's signals from others' */
    static volatile sig_atomic_t greenio_dump_pending; /* asked for, and the Python handler has not run since */
    static void (*volatile greenio_dump_python_handler)(int);
    static void (*volatile greenio_dump_write_stacks)(int);

    static void greenio_dump_set_timer(int seconds)
    {
        struct itimerspec after;
        if (!greenio_dump_has_timer)
            return;
        memset(&after, 0, sizeof after);
        after.it_value.tv_sec = seconds;
        timer_settime(greenio_dump_timer, 0, &after, NULL);
    }

    /* On any OS thread, at any moment: async-signal-safe, but for faulthandler's writer, which is as safe as can be. */
    static void greenio_dump_on_signal(int number, siginfo_t *info, void *unused)
    {
        int before = errno;
        (void)unused;
        if (info->si_code == SI_TIMER && info->si_value.sival_ptr == &greenio_dump_cookie) {
            if (greenio_dump_pending)
                greenio_dump_write_stacks(number);
        } else {
            greenio_dump_pending = 1;
            greenio_dump_set_timer(GREENIO_DUMP_PATIENCE_S);
            greenio_dump_python_handler(number);
        }
        errno = before;
    }

    static void greenio_dump_answered(void)
    {
        greenio_dump_pending = 0;
        greenio_dump_set_timer(0);
    }

    static int greenio_dump_make_timer(int number)
    {
        struct sigevent event;
        memset(&event, 0, sizeof event);
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = number;
        event.sigev_value.sival_ptr = &greenio_dump_cookie;
        greenio_dump_pending = 0;
        greenio_dump_has_timer = timer_create(CLOCK_MONOTONIC, &event, &greenio_dump_timer) == 0;
        return greenio_dump_has_timer ? 0 : -1;
    }

    static void greenio_dump_drop_timer(void)
    {
        greenio_dump_pending = 0;
        if (!greenio_dump_has_timer)
            return;
        greenio_dump_has_timer = 0;
        timer_delete(greenio_dump_timer);
    }

    /* In a forked child: timers do not come along. */
    static void greenio_dump_forget_timer(void)
    {
        greenio_dump_pending = 0;
        greenio_dump_has_timer = 0;
    }

    /* What C code handles it: SIG_DFL, SIG_IGN or a function. */
    static void *greenio_dump_handler_of(int number)
    {
        struct sigaction action;
        return sigaction(number, NULL, &action) == 0 ? (void *)action.sa_handler : NULL;
    }

    static int greenio_dump_take(int number, void *python_handler, void *write_stacks)
    {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        greenio_dump_python_handler = (void (*)(int))python_handler;
        greenio_dump_write_stacks = (void (*)(int))write_stacks;
        action.sa_sigaction = greenio_dump_on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        return sigaction(number, &action, NULL);
    }
    #define GREENIO_DUMP_DEFAULT ((void *)SIG_DFL)
    #define GREENIO_DUMP_IGNORED ((void *)SIG_IGN)
    """
    void greenio_dump_answered()
    int greenio_dump_make_timer(int number)
    void greenio_dump_drop_timer()
    void greenio_dump_forget_timer()
    void *greenio_dump_handler_of(int number)
    int greenio_dump_take(int number, void *python_handler, void *write_stacks)
    void *GREENIO_DUMP_DEFAULT
    void *GREENIO_DUMP_IGNORED

cdef enum:
    STANDARD_ERROR = 2       # the descriptor: sys.stderr may be in the middle of a write

cdef int dumping = 0         # the signal's number; 0: none
cdef object handler = None   # what we gave to signal.signal
cdef object previous = None  # what was there before
cdef object owner = None     # the Scheduler whose run has it


def parse_signal(str text not None):
    """The number of a signal given as "USR1", "SIGUSR1" or "10". ValueError: there is none."""
    name = text.strip().upper()
    try:
        return int(signal.Signals(int(name)) if name.isdigit() else signal.Signals[name if name.startswith("SIG") else "SIG" + name])
    except (KeyError, ValueError):
        raise ValueError(f"no such signal: {text!r}; say for example USR1, SIGUSR1 or 10") from None


cdef void write_all(bytes text) except *:
    while text:
        text = text[os.write(STANDARD_ERROR, text):]


def _dump(number, frame):
    greenio_dump_answered()
    try:
        graph = wait_graph_of(live_schedulers())
        circles = [" -> ".join(f"fiber {node.fiber.id} ({node.fiber.name})" for node in circle) for circle in graph.cycles()]
        lines = [f"greenio: {len(graph.nodes)} fibers, as {signal_name(number)} found them in process {os.getpid()}"]
        lines.extend(f"in a circle, for ever: {circle} -> the first" for circle in circles)
        lines.extend(graph.remarks)
        text = "\n".join([*lines, format_stacks()])
    except Exception as error:
        text = f"greenio: the dump failed: {error!r}"
    try:
        write_all((text.rstrip("\n") + "\n").encode(errors="backslashreplace"))
    except OSError:
        pass  # nobody to tell
    if callable(previous) and previous is not signal.default_int_handler:
        previous(number, frame)


def install(int number):
    """From now on that signal writes the dump to the standard error, descriptor 2; a handler in Python that was there is called after it.

    Raises:
        RuntimeError: not on the main OS thread; it is installed already; code outside of Python handles that signal.
        ValueError, OSError: that signal cannot be handled.
    """
    global dumping, handler, previous, owner
    cdef void *python_handler
    cdef void *write_stacks
    cdef void *present
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a dump signal is for a run on the main OS thread, where Python handles signals; this is another one")
    if dumping:
        raise RuntimeError(f"{signal_name(dumping)} writes dumps already; one signal at a time")
    if number not in signal.valid_signals():
        raise ValueError(f"no such signal: {number}")
    before = signal.getsignal(number)
    present = greenio_dump_handler_of(number)
    if not callable(before) and present != GREENIO_DUMP_DEFAULT and present != GREENIO_DUMP_IGNORED:
        raise RuntimeError(
            f"{signal_name(number)} is handled outside of Python (faulthandler.register?); choose another signal for dumps")
    # First of all, for the signal may come as soon as there is a handler.
    if greenio_dump_make_timer(number) != 0:
        raise OSError(errno, f"no timer for dumps: {os.strerror(errno)}")
    handler = _dump
    previous = before
    owner = running_scheduler()
    dumping = number
    try:
        signal.signal(number, handler)
        python_handler = greenio_dump_handler_of(number)
        faulthandler.register(number, file=STANDARD_ERROR, all_threads=True, chain=False)
        write_stacks = greenio_dump_handler_of(number)
        greenio_dump_take(number, python_handler, write_stacks)
        if not callable(before) or before is signal.default_int_handler:
            keep_quiet_handler(handler, True)
    except BaseException:
        remove()
        raise


def remove():
    """Put back what was there before `install`, unless the program has installed something else since. Does nothing without it."""
    global dumping, handler, previous, owner
    cdef int number = dumping
    if number == 0:
        return
    greenio_dump_drop_timer()   # one that has just expired is delivered before this returns
    try:
        present = signal.getsignal(number)
        registered = faulthandler.unregister(number)
        if present is handler:
            signal.signal(number, previous)
        elif registered:
            signal.signal(number, present)  # in place of what faulthandler has put back
    finally:
        keep_quiet_handler(handler, False)
        dumping = 0
        handler = None
        previous = None
        owner = None


def _after_fork_in_child():
    greenio_dump_forget_timer()
    if not dumping:
        return
    if owner is running_scheduler():
        greenio_dump_make_timer(dumping)
    else:
        remove()  # the run did not come along


os.register_at_fork(after_in_child=_after_fork_in_child)
