"""run(main): an OS thread's scheduler from its first fiber to its last."""

import atexit
import contextlib
import contextvars
import logging
import os
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeVar, TypeVarTuple

from greenio import _dump_signal, _select, _slices, _thread_owners, _watch
from greenio._scheduler import Clock, Schedule, Scheduler, running_scheduler, tell_stalls_to
from greenio._scopes import move_on_after, shield
from greenio._switch import SWAP_LETS_GIL_GO
from greenio._time import sleep
from greenio.pollers import Poller

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

# From CPython 3.12 on, a switch lets go of the GIL for a moment, and a computing thread that takes it keeps it for a whole
# switch interval. Figures in ARCHITECTURE.md, "The GIL at a switch".
DEFAULT_SWITCH_INTERVAL = 0.00005 if SWAP_LETS_GIL_GO else None
# With a stuck fiber that computes beside the others, all versions want one.
HAND_OFF_SWITCH_INTERVAL = 0.0005 if DEFAULT_SWITCH_INTERVAL is None else DEFAULT_SWITCH_INTERVAL

# What a run does about a fiber that does not let the others run, and after how many seconds, if it is not told.
STALL_AFTER: dict[str, float] = {"off": 0.0, "warn": 0.1, "handoff": 0.01}
STALL_THREADS = 64

_LOG_PATIENCE = 1.0  # seconds
EXIT_PATIENCE = 5.0  # seconds
EXIT_STATUS_UNKNOWN = 120  # as for whatever else goes wrong at the interpreter's exit

exit_status: int | None = None  # of the program, if `python -m greenio` runs it and it has ended

_interval_lock = threading.Lock()
_intervals: dict[int, float] = {}  # by OS thread: what its run asked for
_interval_before: float | None = None  # what the program had set; None: no run has changed it
_interval_ours = 0.0  # what runs have made of it: another value is somebody else's, and stays


def run(
    main: Callable[[*_Arguments], _Result],
    *args: *_Arguments,
    stack_size: int | None = None,
    clock: Clock | None = None,
    poller: Poller | None = None,
    switch_interval: float | None = DEFAULT_SWITCH_INTERVAL,
    schedule: Schedule | None = None,
    dump_signal: int | None = None,
    stall: Literal["off", "warn", "handoff"] = "warn",
    stall_after: float | None = None,
    stall_threads: int = STALL_THREADS,
    slice: float | None = None,
) -> _Result:
    """Call main(*args) as the main fiber of this OS thread, and let it spawn others; return what it returns.

    Main runs on the OS thread's own stack, in a copy of the current contextvars. When it ends, the fibers that are left are
    cancelled, unwound (their ``finally`` blocks run) and joined; failures that nobody asked for are logged. One
    run at a time on an OS thread; several OS threads may each have one.

    Args:
        main: any callable; keyword arguments by functools.partial.
        stack_size: bytes of C stack for fibers that spawn gives none, rounded up to a power of two; None: 256 KiB,
            or GREENIO_STACK_SIZE of the environment.
        clock: where time comes from; None: CLOCK_MONOTONIC. Tests pass a greenio.testing.VirtualClock.
        poller: what asks the kernel about descriptors; None: epoll.
        switch_interval: seconds for sys.setswitchinterval while the run lasts, if shorter than what is set: how long another OS
            thread that computes may keep the GIL from the fibers. None leaves it alone; the default is 0.00005 on CPython 3.12 and
            later, 0.0005 before with stall="handoff", else None. Put back when the last run ends, unless
            somebody else has changed it meanwhile.
        schedule: which of the ready fibers runs next; None: round robin. Tests pass one of greenio.testing's, made from a seed.
        dump_signal: a signal, for example signal.SIGUSR1, that writes all fibers, what they wait for and their stacks to the standard
            error (descriptor 2); only for a run on the main OS thread. If the program sits in a C call that does not let Python
            handle the signal within a second, faulthandler's plainer dump comes first, of at most 100 fibers. A handler
            in Python that was there before is called after it, and put back when the run ends. None: GREENIO_DUMP_SIGNAL of the
            environment ("USR1"), which runs on other OS threads leave alone.
        stall: what is done when a fiber keeps the others from running, by a call that blocks or a long computation. "off": nothing.
            "warn": a record in the log "greenio" names the fiber, the system call it sits in and its Python stack, from another OS
            thread, as soon as that gets the GIL; it is repeated sparingly, and greenio.debug.stall_stats() counts. "handoff": the
            others go on on another OS thread, until the stuck fiber waits or otherwise uses greenio: then it is one of them again.
            Meanwhile it runs beside them, so that what it shares with them may change between two waits; greenio.atomic() and
            greenio.pin() are for code that minds. It is logged as by "warn". While the run lasts, the locks of the threading
            module know fibers, and sqlite3.connect() checks OS threads only if it is asked to; connections that exist already are for
            any OS thread from then on.
        stall_after: seconds without a switch, while a fiber could run, that make a stall; None: 0.1, and 0.01 for "handoff".
        stall_threads: how many fibers may be stuck at once, with "handoff"; beyond that the run waits.
        slice: seconds, >= 0.001, that a fiber may compute until it is switched out between two bytecodes, for the others to run; None:
            as long as it likes. Only for a run on the main OS thread, where signal handlers run; one long call of C code is not
            interrupted, nor is greenio itself, the import system, a destructor, the garbage collector, or a greenio.atomic()
            block. What fibers share may change anywhere else, as with OS threads; locks of the threading module know fibers
            while the run lasts.
    Returns:
        What main returns.
    Raises:
        RuntimeError: this OS thread runs fibers already; or it is not the main one and was given a dump_signal, or other code
            handles that signal, outside of Python; or it was given a slice and is not the main one.
        TypeError, ValueError: an argument is wrong; nothing was run.
        SystemExit, KeyboardInterrupt: left any fiber's function, or a signal handler's.
        DeadlockError: all fibers wait and nothing could wake one; raised in main.
        BaseException: what main raises.
    """
    if not callable(main):
        raise TypeError(f"run wants a callable and its arguments, not {main!r}")
    entered = _entered_here()
    if entered is not None and all(
        each is None for each in (stack_size, clock, poller, schedule, dump_signal, stall_after, slice)
    ):
        return _run_inside(entered.scheduler, main, args)
    with _opened(
        stack_size, clock, poller, switch_interval, schedule, dump_signal, stall, stall_after, stall_threads, slice
    ) as scheduler:
        return _run_main(scheduler, main, args)


def enter_run(
    *,
    stack_size: int | None = None,
    clock: Clock | None = None,
    poller: Poller | None = None,
    switch_interval: float | None = DEFAULT_SWITCH_INTERVAL,
    schedule: Schedule | None = None,
    dump_signal: int | None = None,
    stall: Literal["off", "warn", "handoff"] = "warn",
    stall_after: float | None = None,
    stall_threads: int = STALL_THREADS,
    slice: float | None = None,
) -> None:
    """Make the caller the main fiber of this OS thread, as run() makes its main, until leave_run() or the interpreter's exit.

    For programs that have no function to give to run(): scripts, the interactive interpreter, greenio.monkey. A run() inside calls
    its main in the fiber that is there, if it asks for nothing else, and at its end ends the fibers that were spawned in it.

    Args:
        all: as run's.
    Raises:
        RuntimeError, TypeError, ValueError: as run's.
    """
    manager = _opened(
        stack_size, clock, poller, switch_interval, schedule, dump_signal, stall, stall_after, stall_threads, slice
    )
    scheduler = manager.__enter__()
    _entered[scheduler] = _Entered(scheduler, manager)


def leave_run() -> None:
    """The end of the run that enter_run() began on this OS thread: other fibers are cancelled, unwound and joined.

    Raises:
        RuntimeError: there is none, or the caller is not its main fiber; nothing was ended.
        SystemExit, KeyboardInterrupt: left a fiber's function.
    """
    entered = _entered_here()
    if entered is None:
        raise RuntimeError("leave_run() without enter_run() on this OS thread")
    if entered.scheduler.current_fiber is not entered.scheduler.main:
        raise RuntimeError(f"leave_run() is for the main fiber; this is {entered.scheduler.current_fiber!r}")
    _leave(entered, at_exit=False)


class _Entered(NamedTuple):
    scheduler: Scheduler
    manager: contextlib.AbstractContextManager[Scheduler]


_entered: dict[Scheduler, _Entered] = {}
_end_with_the_process: list[_Entered] = []


def _entered_here() -> _Entered | None:
    scheduler = running_scheduler()
    return None if scheduler is None else _entered.get(scheduler)


def _go_home_at_exit() -> None:
    # The interpreter ends on the OS thread that it began on. Before atexit's functions, which may ask.
    entered = _entered_here()
    if entered is None or entered.scheduler.current_fiber is not entered.scheduler.main:
        return
    scheduler = entered.scheduler
    until = time.monotonic() + EXIT_PATIENCE
    while scheduler.clock is None and (stuck := scheduler._stuck_at_home()) is not None:
        thread = vars(threading)["_active"].get(stuck.ident)
        if time.monotonic() >= until and (thread is None or thread.daemon):
            atexit.register(_end_away_from_home)
            return
        sleep(0.01)
    scheduler._go_home()


def _end_away_from_home() -> None:
    # First of atexit's functions: what is stuck at home would keep the interpreter from its end for ever, or, on main's own OS
    # thread and beside its end, break it. All that runs Python code is done; the kernel ends the rest.
    atexit.unregister(_end_away_from_home)
    atexit._run_exitfuncs()
    status = exit_status
    if status is None:
        status = 1 if hasattr(sys, "last_value") else EXIT_STATUS_UNKNOWN
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:
            status = 120  # as the interpreter says it
    os._exit(status)


def _leave(entered: _Entered, at_exit: bool) -> None:
    del _entered[entered.scheduler]
    try:
        entered.scheduler._settle(None, None)
        try:
            entered.scheduler._unwind(at_exit)
        finally:
            _log_abandoned(entered.scheduler)
    finally:
        if entered.scheduler._stuck_at_home() is None:
            entered.manager.__exit__(None, None, None)
        else:
            _end_with_the_process.append(entered)


def _log_abandoned(scheduler: Scheduler) -> None:
    names = [fiber.name for fiber in scheduler.fibers() if fiber.state == "abandoned"]
    if names:
        # What they hold they hold for ever: a handler's lock, which logging.shutdown() wants, or a file's.
        for reference in list(vars(logging)["_handlerList"]):
            handler = reference()
            if handler is not None and handler.lock is not None:
                if handler.lock.acquire(False):
                    handler.lock.release()
                else:
                    handler.createLock()
        with move_on_after(_LOG_PATIENCE):
            logging.getLogger("greenio").warning(
                "the interpreter exits although %d fibers (daemon threads) have not ended when they were cancelled: %s",
                len(names),
                ", ".join(names[:10]),
            )


def _leave_at_exit() -> None:
    entered = _entered_here()
    # In a forked child whose main fiber stayed behind, there is nothing to leave.
    if entered is not None and entered.scheduler.current_fiber is entered.scheduler.main:
        _leave(entered, at_exit=True)


@contextlib.contextmanager
def _opened(
    stack_size: int | None,
    clock: Clock | None,
    poller: Poller | None,
    switch_interval: float | None,
    schedule: Schedule | None,
    dump_signal: int | None,
    stall: Literal["off", "warn", "handoff"],
    stall_after: float | None,
    stall_threads: int,
    slice: float | None,
) -> Iterator[Scheduler]:
    """This OS thread has a scheduler, its caller is the main fiber; the scheduler is set up as run() was asked to."""
    if switch_interval is not None and not switch_interval > 0:
        raise ValueError(f"switch_interval must be > 0 seconds or None, not {switch_interval!r}")
    if stall == "handoff" and switch_interval == DEFAULT_SWITCH_INTERVAL:
        switch_interval = HAND_OFF_SWITCH_INTERVAL
    dump_signal = _dump_signal_wanted(dump_signal)
    seconds = _stall_seconds(stall, stall_after)
    scheduler = Scheduler(clock, poller, stack_size, schedule)
    if stall_threads < 1:
        raise ValueError(f"stall_threads must be >= 1, not {stall_threads}")
    if stall == "handoff" and schedule is not None:
        raise ValueError('stall="handoff" is not for a run with a schedule: fibers that run at once have no order')
    scheduler._watch_stalls(seconds, stall_threads if stall == "handoff" else 0)
    if slice is not None:
        _slices.check(slice)
        if not all(each is None for each in (clock, poller, schedule)):
            raise ValueError(
                "slice goes by real time: it is not for a run with a clock, a poller or a schedule of its own"
            )
    with contextlib.ExitStack() as undo:
        if schedule is not None:
            schedule.begin()
        scheduler._open()
        undo.callback(scheduler._close)
        if schedule is not None:
            undo.callback(_select.seed_select, None)
            _select.seed_select(schedule.seed)
        if dump_signal is not None:
            _dump_signal.install(dump_signal)
            undo.callback(_dump_signal.remove)
        if stall == "handoff":
            undo.callback(_thread_owners.take_back)
            _thread_owners.give_to_fibers()
        if slice is not None:
            undo.callback(_slices.end, scheduler)
            _slices.begin(scheduler, slice)
        undo.callback(_restore_switch_interval, switch_interval)
        _shorten_switch_interval(switch_interval)
        yield scheduler


def _run_inside(scheduler: Scheduler, main: Callable[[*_Arguments], _Result], args: tuple[*_Arguments]) -> _Result:
    """A run inside one that was entered: main and its fibers, and nobody else's, begin and end."""
    if scheduler.current_fiber is not scheduler.main:
        raise RuntimeError(
            "greenio.run() inside greenio.run(): this OS thread runs fibers already; call the function directly, spawn it, or run "
            "it on another OS thread"
        )
    before = set(scheduler.fibers())
    try:
        return contextvars.copy_context().run(main, *args)
    finally:
        with shield():
            while left := [fiber for fiber in scheduler.fibers() if fiber not in before]:
                for fiber in left:
                    fiber.cancel("the run has ended")
                for fiber in left:
                    fiber.join()


def _stall_seconds(stall: str, stall_after: float | None) -> float:
    if stall not in STALL_AFTER:
        raise ValueError(f"stall must be one of {', '.join(map(repr, STALL_AFTER))}, not {stall!r}")
    if stall_after is None:
        return STALL_AFTER[stall]
    if not 0.001 <= stall_after <= 1e6:
        raise ValueError(f"stall_after must be 0.001 to 1,000,000 seconds or None, not {stall_after!r}")
    return stall_after if stall != "off" else 0.0


def _dump_signal_wanted(given: int | None) -> int | None:
    if given is not None:
        return int(given)
    text = os.environ.get("GREENIO_DUMP_SIGNAL")
    if not text or threading.current_thread() is not threading.main_thread():
        return None
    try:
        return _dump_signal.parse_signal(text)
    except ValueError as error:
        raise ValueError(f"GREENIO_DUMP_SIGNAL: {error}") from None


def _run_main(scheduler: Scheduler, main: Callable[[*_Arguments], _Result], args: tuple[*_Arguments]) -> _Result:
    result = error = None
    try:
        result = contextvars.copy_context().run(main, *args)
        return result
    except BaseException as raised:
        error = raised
        raise
    finally:
        scheduler._settle(result, error)
        del error
        scheduler._unwind()


def _shorten_switch_interval(wanted: float | None) -> None:
    global _interval_before
    if wanted is None:
        return
    with _interval_lock:
        present = sys.getswitchinterval()
        if _interval_before is None or present != _interval_ours:
            _interval_before = present
        _intervals[get_ident()] = wanted
        _set_switch_interval(_interval_before)


def _restore_switch_interval(wanted: float | None) -> None:
    if wanted is None:
        return
    with _interval_lock:
        _intervals.pop(get_ident(), None)
        _settle_switch_interval()


def _set_switch_interval(most: float) -> None:
    global _interval_ours
    sys.setswitchinterval(min([most, *_intervals.values()]))
    _interval_ours = sys.getswitchinterval()


def _settle_switch_interval() -> None:
    global _interval_before
    if _interval_before is not None and sys.getswitchinterval() == _interval_ours:
        _set_switch_interval(_interval_before)
    if not _intervals:
        _interval_before = None


def _after_fork_in_child() -> None:
    # The runs of other OS threads did not come along; one of them may have held the lock, anywhere in the functions above.
    global _interval_lock
    _interval_lock = threading.Lock()
    for ident in set(_intervals) - {get_ident()}:
        del _intervals[ident]
    _settle_switch_interval()


os.register_at_fork(after_in_child=_after_fork_in_child)
threading._register_atexit(_go_home_at_exit)  # type: ignore[attr-defined]
atexit.register(_leave_at_exit)
tell_stalls_to(_watch.tell)
