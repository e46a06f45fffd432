"""What in the standard library belongs to an OS thread, and must belong to a fiber where fibers change theirs: while runs hand off.

RLocks (and with them Condition and logging's locks), the locks of modules that are being imported, and sqlite3's connections, which
are made for any OS thread then unless their maker says otherwise.
"""

from typing import Any

from greenio import _standard_threads
from greenio._scheduler import can_park

_CHECK_SAME_THREAD = 4  # connect()'s argument, behind the database, while it may still be given by place

_runs = 0
_connects: list[tuple[Any, Any]] = []  # module, what its connect was


def give_to_fibers() -> None:
    """From now on, until take_back() was called as often, they belong to fibers."""
    global _runs
    _runs += 1
    _standard_threads.change_locks()
    if _runs == 1:
        _change_sqlite()


def take_back() -> None:
    """The end of one give_to_fibers()."""
    global _runs
    _runs -= 1
    if _runs == 0:
        while _connects:
            module, connect = _connects.pop()
            if getattr(module.connect, "made_here", False):
                module.connect = connect
    _standard_threads.put_locks_back()


def _change_sqlite() -> None:
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
    modules: list[Any] = [sqlite3, sqlite3.dbapi2]
    for module in modules:
        if module.connect is original:
            _connects.append((module, original))
            module.connect = connect
