"""threading: a Thread is a fiber. Most of it follows from _thread; here is what threads as fibers need besides."""

import functools
import sys
import threading
import weakref
from _thread import allocate_lock as _allocate_lock
from collections.abc import Callable
from typing import Any

import greenio
from greenio import threading as stand_ins
from greenio.compat.patches import Patch, stand_in

_join = threading.Thread.join
_delete: Callable[[threading.Thread], None] = vars(threading.Thread)["_delete"]
_wait = threading.Condition.wait
_notify = threading.Condition.notify
_acquire_restore: Callable[[threading.Condition, Any], None] = vars(threading.Condition)["_acquire_restore"]
_make_invoke_excepthook: Callable[[], Callable[[threading.Thread], None]] = vars(threading)["_make_invoke_excepthook"]
_enumerate: Callable[[], list[threading.Thread]] = threading.enumerate
_active_count: Callable[[], int] = threading.active_count
_dummy_init: Callable[[Any], None] = vars(vars(threading)["_DummyThread"])["__init__"]

# By the thread, while fibers wait for the end of one that is an OS thread.
_endings: weakref.WeakKeyDictionary[threading.Thread, greenio.Event] = weakref.WeakKeyDictionary()


def join(self: threading.Thread, timeout: float | None = None) -> None:
    """As threading.Thread.join; parks the fiber, also for a thread that is an OS thread."""
    if greenio.can_park() and _is_os_thread(self):
        ending = _endings.setdefault(self, greenio.Event())
        active: dict[int | None, threading.Thread] = vars(threading)["_active"]
        # One that is not there any more has done all but leave: that takes no time.
        if active.get(self.ident) is self and not ending.wait(timeout):
            return
    elif (
        greenio.can_park()
        and self is not threading.current_thread()
        and (lock := getattr(self, "_tstate_lock", None)) is not None
    ):
        # The original takes whatever is raised while it waits for the thread's end.
        if not lock.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            return
        lock.release()
    _join(self, timeout)


def delete(self: threading.Thread) -> None:
    """As threading.Thread._delete: the thread's last words."""
    if greenio.can_park():
        with greenio.shield():  # a cancelled one leaves all the same
            _delete(self)
    else:
        _delete(self)
    if (lock := getattr(self, "_tstate_lock", None)) is not None:
        stand_ins.thread_ends(lock)
    if _endings and (ending := _endings.pop(self, None)) is not None:
        ending.set()


def wait(self: Any, timeout: float | None = None) -> bool:
    """As threading.Condition.wait; a notification that meets one who was cancelled a moment before goes to the next."""
    if not greenio.can_park():
        return _wait(self, timeout)
    if not self._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    waiter = _allocate_lock()
    waiter.acquire()
    self._waiters.append(waiter)
    saved_state = self._release_save()
    notified = ended = False
    try:
        if timeout is None:
            waiter.acquire()
            notified = True
        elif timeout <= 0:
            notified = waiter.acquire(False)
        else:
            notified = waiter.acquire(True, timeout)
        ended = True
        return notified
    finally:
        self._acquire_restore(saved_state)
        if not notified:
            try:
                self._waiters.remove(waiter)
            except ValueError:  # notify() has been there
                if not ended:
                    _notify(self)


def acquire_restore(self: threading.Condition, state: Any) -> None:
    """As threading.Condition._acquire_restore: whoever is cancelled has the lock before that is raised."""
    stand_ins.acquire_shielded(vars(self)["_lock"])


def make_invoke_excepthook() -> Callable[[threading.Thread], None]:
    """As threading._make_invoke_excepthook; a fiber that was cancelled has not failed."""
    return functools.partial(_invoke_excepthook, _make_invoke_excepthook())


def _invoke_excepthook(invoke: Callable[[threading.Thread], None], thread: threading.Thread) -> None:
    if not isinstance(sys.exception(), greenio.Cancelled):
        invoke(thread)


@stand_in(_enumerate)
def enumerate() -> list[threading.Thread]:
    """As threading.enumerate, without the OS threads that greenio started for itself; but for the caller."""
    me = stand_ins.get_ident()
    return [each for each in _enumerate() if not isinstance(each, stand_ins.OwnThread) or each.ident == me]


@stand_in(_active_count)
def active_count() -> int:
    """As threading.active_count."""
    return len(enumerate())


def dummy_init(self: Any) -> None:
    """As threading._DummyThread.__init__; of a fiber that is no thread, the object goes when the fiber ends."""
    _dummy_init(self)
    if greenio.can_park() and not stand_ins.runs_thread():  # of those it keeps it, as ever
        fiber = greenio.current_fiber()
        if fiber is not fiber.scheduler.main:
            active: dict[int | None, threading.Thread] = vars(threading)["_active"]
            ident = self.ident
            fiber.add_done_callback(lambda _: active.pop(ident, None) if active.get(ident) is self else None)


def _is_os_thread(thread: threading.Thread) -> bool:
    """Whether it was started, is alive still, and is none of ours."""
    if thread is threading.main_thread() or thread is threading.current_thread():
        return False
    for name in ("_tstate_lock", "_handle", "_os_thread_handle"):
        if (handle := vars(thread).get(name)) is not None:
            return not stand_ins.runs_as_fiber(handle)
    return False


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.keep(threading, "Thread", stand_ins.OSThread)
    patch.replace(threading.Thread, "join", join)
    patch.replace(threading.Thread, "_delete", delete)
    patch.replace(threading.Condition, "wait", wait)
    patch.replace(threading.Condition, "_acquire_restore", acquire_restore)
    patch.replace(threading, "_make_invoke_excepthook", make_invoke_excepthook)
    patch.replace(threading, "enumerate", enumerate, everywhere=True)
    patch.replace(threading, "active_count", active_count, everywhere=True)
    if not hasattr(threading, "_DeleteDummyThreadOnDel"):  # CPython 3.11 and 3.12 keep such an object for ever
        patch.replace(vars(threading)["_DummyThread"], "__init__", dummy_init)
    for thread in list(vars(threading)["_dangling"]):
        if thread.ident is None:  # not started: it has the hook that was there when it was made
            thread._invoke_excepthook = functools.partial(_invoke_excepthook, thread._invoke_excepthook)
        elif (lock := getattr(thread, "_tstate_lock", None)) is not None and thread is not threading.main_thread():
            stand_ins.watch_sentinel(lock)
