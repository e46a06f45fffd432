"""What in the standard library belongs to an OS thread, and must belong to a fiber where fibers change theirs: while runs hand off.

RLocks (and with them Condition and logging's locks), the locks of modules that are being imported, and sqlite3's connections, which
are made for any OS thread then unless their maker says otherwise; those that exist already become so, for good.
"""

import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from typing import Any

from greenio import _standard_threads
from greenio._scheduler import can_park
from greenio._sections import pin

_CHECK_SAME_THREAD = 4  # connect()'s argument, behind the database, while it may still be given by place

_runs = 0
_connects: list[tuple[Any, Any]] = []  # module, what its connect was
_dummies: Any = vars(threading)["_DummyThread"]
_init_dummy = _dummies.__init__


def give_to_fibers() -> None:
    """From now on, until take_back() was called as often, they belong to fibers."""
    global _runs
    _runs += 1
    _standard_threads.change_locks()
    if _runs == 1:
        _change_sqlite()
        _dummies.__init__ = _init_dummy_in_place


def take_back() -> None:
    """The end of one give_to_fibers()."""
    global _runs
    _runs -= 1
    if _runs == 0:
        _dummies.__init__ = _init_dummy
        while _connects:
            module, connect = _connects.pop()
            if getattr(module.connect, "made_here", False):
                module.connect = connect
    _standard_threads.put_locks_back()


def _init_dummy_in_place(self: Any) -> None:
    """What threading.current_thread() makes of an OS thread that it does not know; its locks let the fiber change that meanwhile."""
    if not can_park():
        _init_dummy(self)
        return
    with pin():
        known = vars(threading)["_active"].get(get_ident())
        _init_dummy(self)
        if known is not None:
            vars(threading)["_active"][get_ident()] = known


def _change_sqlite() -> None:
    may_have_connections = "_sqlite3" in sys.modules
    try:
        import sqlite3
        import sqlite3.dbapi2
    except ImportError:
        return
    original: Any = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> Any:
        if can_park() and len(args) <= _CHECK_SAME_THREAD:
            kwargs.setdefault("check_same_thread", False)
        return original(*args, **kwargs)

    connect.__doc__ = original.__doc__
    connect.made_here = True  # type: ignore[attr-defined]
    if may_have_connections:
        _open_connections(original, sqlite3.Connection, sqlite3.ProgrammingError)
    modules: list[Any] = [sqlite3, sqlite3.dbapi2]
    for module in modules:
        if module.connect is original:
            _connects.append((module, original))
            module.connect = connect


def _open_connections(connect: Callable[..., Any], kind: type, error: type[Exception]) -> None:
    """Connections that exist are for any OS thread from now on, whatever they were made with."""
    import gc

    found = [each for each in gc.get_objects() if issubclass(type(each), kind)]
    if found:
        place = _find_check(connect, kind, error)
        if place is not None:
            for each in found:
                _integers(each, kind)[place] = 0


def _find_check(connect: Callable[..., Any], kind: type, error: type[Exception]) -> int | None:
    """Where, among its integers, a connection notes that it checks its OS thread; None: this CPython is not known."""
    import ctypes

    checked, free = connect(":memory:"), connect(":memory:", check_same_thread=False)
    here = ctypes.pythonapi.PyThread_get_thread_ident
    here.restype = ctypes.c_ulong
    owners = (ctypes.c_ulong * (kind.__basicsize__ // ctypes.sizeof(ctypes.c_ulong))).from_address(id(checked))
    flags, free_flags = _integers(checked, kind), _integers(free, kind)
    owner = [index for index, value in enumerate(owners) if value == here()]
    places = [index for index in range(len(flags)) if (flags[index], free_flags[index]) == (1, 0)]
    found = None
    if len(owner) == 1:
        owners[owner[0]] += 1  # as if it had been made on another OS thread
        for place in places:
            before = _is_refused(checked, error)
            flags[place] = 0
            if before and not _is_refused(checked, error):
                found = place
            flags[place] = 1
        owners[owner[0]] -= 1
    checked.close()
    free.close()
    return found


def _integers(connection: Any, kind: type) -> Any:
    import ctypes  # not at the start of each program

    return (ctypes.c_int * (kind.__basicsize__ // ctypes.sizeof(ctypes.c_int))).from_address(id(connection))


def _is_refused(connection: Any, error: type[Exception]) -> bool:
    try:
        connection.execute("select 1").close()
    except error:
        return True
    return False
