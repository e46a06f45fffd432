# _slices.pyx: run(slice=…): a fiber that computes for long is switched out between two bytecodes.
#
# The monitor thread sees that there was no switch for a slice, and asks by PyErr_SetInterruptEx for the handler of a signal that nobody
# else sends. Until CPython 3.12, code that computes does not hear of that from another OS thread: the main one is sent the signal, unless it
# sits in a system call, which the signal could cut short. The interpreter calls it between two bytecodes of whatever computes on the main OS thread, and from C code that asks for
# signals in its loops (a regular expression); it gives way as yield_now does, but raises nothing. Handlers nest: one that is switched out
# keeps nothing that the others' need, so there may be any number.
#
# Where handlers run, any Python code may, and the GIL may go to another OS thread. So a switch there does to C code nothing that OS
# threads do not, but for one: what an OS thread holds to keep others out, it does not keep out other fibers of its own with. Hence:
#   - the standard library's locks are changed for fibers, as by greenio.monkey, while the run lasts;
#   - nobody is switched in greenio's own Python code, which counts on nothing changing between two parks, nor in the import system's,
#     which takes a lock of OS threads now and then, nor in what those call of the standard library; below a destructor; in the
#     garbage collector, which would do nothing for the others meanwhile; while the scheduler itself is at work, or in an atomic block.
# Then it is asked again, a quarter of a slice later.
#
# Not taken: pending calls, which do not nest (one that is switched out keeps all others from running, of every fiber); a trace
# function or sys.monitoring, which cost something at each line; asynchronous exceptions, which are no switch.
import _signal
import gc
import os
import threading


cimport libc.errno
from libc.stdint cimport int64_t

from greenio._scheduler cimport RUNNING, Fiber, Scheduler, carried_here, set_slice
from greenio._switch cimport PyThreadState

from greenio._scheduler import keep_quiet_handler
from greenio._standard_threads import change_locks, put_locks_back

cdef extern from "Python.h":
    PyThreadState *PyThreadState_Get()

cdef enum:
    LOOK_FRAMES = 100          # outwards from the innermost

cdef enum Code:                # whose code a frame runs
    PROGRAM
    STANDARD                   # the standard library's: as who called it
    HELD_OFF                   # greenio's, or the import system's

cdef dict codes = {}           # Code by file name
cdef str own_folder = os.path.join(os.path.dirname(__file__), "")
cdef str standard_folder = os.path.join(os.path.dirname(os.__file__), "")
cdef tuple installed = (os.path.join(standard_folder, "site-packages", ""), os.path.join(standard_folder, "dist-packages", ""))
cdef object number = None      # of the signal, while a run has slices
cdef unsigned long long switched = 0
cdef unsigned long long held = 0


cdef int code_of(str file) except -1:
    cdef int code = PROGRAM
    if file.startswith((own_folder, "greenio/", "<frozen importlib._bootstrap")):
        code = HELD_OFF
    elif file.startswith("<frozen ") or (file.startswith(standard_folder) and not file.startswith(installed)):
        code = STANDARD
    codes[file] = code
    return code


cdef bint may_switch(object frame) except -1:
    cdef int looked = 0
    cdef int code
    cdef bint in_program = False
    while frame is not None and looked < LOOK_FRAMES:
        looked += 1
        code_object = frame.f_code
        if code_object.co_name == "__del__":
            return False
        found = codes.get(code_object.co_filename)
        code = code_of(code_object.co_filename) if found is None else found
        if code == HELD_OFF and not in_program:
            return False
        if code == PROGRAM:
            in_program = True
        frame = frame.f_back
    return True


cdef Fiber running_here(Scheduler scheduler):
    # The fiber that runs on this OS thread, or None.
    if scheduler is None or scheduler.current is NULL:
        return None
    if (<Fiber>scheduler.current).core.thread_state is not PyThreadState_Get():
        return None
    return <Fiber>scheduler.current


def _slice_is_over(signal_number, frame):
    """The signal handler: let the others run, if it may be done here."""
    global switched, held
    cdef Scheduler scheduler = carried_here()
    cdef Fiber fiber = running_here(scheduler)
    cdef int error = libc.errno.errno
    if fiber is None or scheduler.watched.slice_switches != scheduler.watched.switches:
        return  # it is another one's turn by now
    if fiber.atomic_depth:
        fiber.slice_due = True
        held += 1
    elif scheduler.hosting or fiber.run_state != RUNNING or fiber.collecting or not may_switch(frame):
        held += 1
    else:
        switched += 1
        scheduler.give_way()
        libc.errno.errno = error


def _collects(phase, information):
    """One of gc.callbacks."""
    cdef Fiber fiber = running_here(carried_here())
    if fiber is not None:
        fiber.collecting = phase == "start"


def check(seconds):
    """Raises what begin would raise of an argument, and on an OS thread where it cannot be done."""
    if not 0.001 <= seconds <= 1e6:
        raise ValueError(f"slice must be 0.001 to 1,000,000 seconds or None, not {seconds!r}")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "slice=… is for a run on the main OS thread: fibers are switched out by signal handlers, which Python runs nowhere else; "
            'stall="handoff" works on every OS thread')


def begin(Scheduler scheduler not None, seconds):
    """From now on, until end(), fibers of *scheduler* are switched out after that time.

    Raises:
        RuntimeError: every real-time signal has a handler.
    """
    global number
    number = free_signal()
    _signal.signal(number, _slice_is_over)
    _signal.siginterrupt(number, False)
    keep_quiet_handler(_slice_is_over, True)
    gc.callbacks.insert(0, _collects)
    change_locks()
    set_slice(scheduler, <int64_t>(seconds * 1e9), number)


def end(Scheduler scheduler not None):
    """No more slices."""
    global number
    if number is None:
        return
    set_slice(scheduler, 0, 0)
    mine, number = number, None
    put_locks_back()
    gc.callbacks.remove(_collects)
    keep_quiet_handler(_slice_is_over, False)
    _signal.signal(mine, _signal.SIG_DFL)


cdef object free_signal():
    # From the last one down: the first ones are what programs take.
    for candidate in range(_signal.SIGRTMAX, _signal.SIGRTMIN - 1, -1):
        if _signal.getsignal(candidate) is _signal.SIG_DFL:
            return candidate
    raise RuntimeError("slice=… needs a real-time signal that has no handler")


def statistics():
    """(how often a fiber was asked and gave way, how often that was held off), in this process."""
    return switched, held
