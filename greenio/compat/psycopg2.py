"""psycopg2: waiting for the server parks, by its own means: a wait callback.

The callback is one for the whole process. On an OS thread without fibers it blocks, as psycopg2 does without one.

Without a callback, threads that use one connection at the same time are served one after the other. With one, psycopg2 raises a
ProgrammingError, or, if one of them commits, its OS thread waits for itself for ever. So the methods that talk to the server take
turns here, by a lock for each connection. They are methods of C types that cannot be set from Python, so they are set in the
types' own dictionaries, and apply to every subclass and to what exists.

A fiber that is cancelled in a query leaves its connection as Ctrl-C does where psycopg2's documentation shows a callback: the server is
asked to cancel, and the connection can be used once the transaction is rolled back. If that takes longer than SECONDS_TO_CANCEL, or
the connection is only being made, it is closed (`connection.closed`), as psycopg2 does whenever a callback raises.

What psycopg2 refuses with a callback, COPY (copy_from, copy_to, copy_expert) and large objects is called without it and blocks.
"""

import contextlib
import functools
import gc
import select
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import greenio
from greenio.compat.imports import when_imported
from greenio.compat.patches import Patch

SECONDS_TO_CANCEL = 5.0

# What takes the connection's lock, or sends something; a name that a version does not have is left out.
_CURSOR_METHODS = ("callproc", "close", "execute", "executemany", "fetchall", "fetchmany", "fetchone", "scroll")
_CONNECTION_METHODS = (
    *("close", "commit", "reset", "rollback", "set_client_encoding", "set_isolation_level", "set_session"),
    *("tpc_begin", "tpc_commit", "tpc_prepare", "tpc_recover", "tpc_rollback"),
)
_CONNECTION_ATTRIBUTES = ("autocommit", "deferrable", "isolation_level", "readonly")
_REFUSED_WITH_CALLBACK = ("copy_expert", "copy_from", "copy_to")

_poll: Callable[[], Any] = select.poll


class _Turn:
    """Whose turn it is on one connection, and what a wait was interrupted with."""

    def __init__(self) -> None:
        self.lock = greenio.RLock()
        self.depth = 0
        self.interrupted: BaseException | None = None


_turns: "WeakKeyDictionary[Any, _Turn]" = WeakKeyDictionary()


def apply(patch: Patch) -> None:
    """Make the replacements, now or when psycopg2 is imported."""
    when_imported(patch, "psycopg2.extensions", lambda module: _patch_extensions(patch, module))


def _patch_extensions(patch: Patch, extensions: ModuleType) -> None:
    before = extensions.get_wait_callback()
    if before is not None:
        return  # the program has its own, which parks by what is patched
    put_back: list[Callable[[], None]] = []
    try:
        for name in _CURSOR_METHODS:
            _replace(put_back, extensions.cursor, name, lambda method: _in_turn(method, _connection_of))
        for name in _REFUSED_WITH_CALLBACK:
            _replace(put_back, extensions.cursor, name, lambda method: _blocking(extensions, method, _connection_of))
        for name in _CONNECTION_METHODS:
            _replace(put_back, extensions.connection, name, lambda method: _in_turn(method, _itself))
        _replace(put_back, extensions.connection, "lobject", lambda method: _blocking(extensions, method, _itself))
        for name in _CONNECTION_ATTRIBUTES:
            _replace(put_back, extensions.connection, name, _set_in_turn)
        if lobject := getattr(sys.modules.get("psycopg2._psycopg"), "lobject", None):
            for name in ("close", "export", "read", "seek", "tell", "truncate", "unlink", "write"):
                _replace(put_back, lobject, name, lambda method: _blocking(extensions, method, None))
        extensions.set_wait_callback(wait)
    finally:
        patch.undo_with(lambda: _undo(put_back, extensions))


def _undo(put_back: list[Callable[[], None]], extensions: ModuleType) -> None:
    if extensions.get_wait_callback() is wait:
        extensions.set_wait_callback(None)
    for each in reversed(put_back):
        each()


def wait(connection: Any) -> None:
    """psycopg2's wait callback: returns when the connection has done what it is at.

    Parks the fiber where there is one. Cancelled, the query is cancelled, too, see above.
    """
    try:
        _wait(connection)
    except BaseException as error:
        turn = _turns.get(connection)
        # STATUS_READY and above: it is made. Who is called by nobody of ours cannot be told afterwards.
        if turn is None or not turn.depth or connection.status < 1 or isinstance(error, Exception):
            raise
        with greenio.shield():
            connection.cancel()
            with greenio.timeout(SECONDS_TO_CANCEL):
                _wait(connection)
        turn.interrupted = error  # raised once psycopg2 has put the connection in order


def _wait(connection: Any) -> None:
    while state := connection.poll():
        # POLL_READ 1, POLL_WRITE 2; poll raises for everything else
        if not greenio.can_park():
            poll = _poll()
            poll.register(connection.fileno(), select.POLLIN if state == 1 else select.POLLOUT)
            poll.poll()
        elif state == 1:
            greenio.wait_readable(connection.fileno())
        else:
            greenio.wait_writable(connection.fileno())


# --- one after the other ---------------------------------------------------------------------------------------------


def _itself(connection: Any) -> Any:
    return connection


def _connection_of(cursor: Any) -> Any:
    return cursor.connection


@contextlib.contextmanager
def _taking_turns(connection: Any) -> Iterator[None]:
    turn = _turns.get(connection)
    if turn is None:
        turn = _turns.setdefault(connection, _Turn())
    with turn.lock:
        turn.depth += 1
        try:
            yield
        finally:
            turn.depth -= 1
            if not turn.depth and turn.interrupted is not None:
                interrupted, turn.interrupted = turn.interrupted, None
                raise interrupted


def _in_turn(method: Any, connection_of: Callable[[Any], Any]) -> Any:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        connection = connection_of(self)
        if connection is None:
            return method(self, *args, **keywords)  # an error of its own
        with _taking_turns(connection):
            return method(self, *args, **keywords)

    return call


def _set_in_turn(attribute: Any) -> Any:
    def assign(self: Any, value: Any) -> None:
        with _taking_turns(self):
            attribute.__set__(self, value)

    return property(attribute.__get__, assign, doc=attribute.__doc__)


def _blocking(extensions: ModuleType, method: Any, connection_of: Callable[[Any], Any] | None) -> Any:
    """As it is without a callback. The callback is the process's, so what begins meanwhile on other OS threads blocks, too."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        connection = connection_of(self) if connection_of is not None else None
        with contextlib.nullcontext() if connection is None else _taking_turns(connection):
            callback = extensions.get_wait_callback()
            extensions.set_wait_callback(None)
            try:
                return method(self, *args, **keywords)
            finally:
                extensions.set_wait_callback(callback)

    return call


def _replace(put_back: list[Callable[[], None]], owner: type, name: str, make: Callable[[Any], Any]) -> None:
    import ctypes  # a part of the interpreter that costs 10 ms, which only psycopg2's users pay

    if name not in vars(owner):
        return
    (attributes,) = gc.get_referents(vars(owner))  # the dictionary behind the read-only view
    modified = ctypes.pythonapi.PyType_Modified

    def assign(value: Any) -> None:
        attributes[name] = value
        modified(ctypes.py_object(owner))  # caches of attributes forget the type

    original = attributes[name]
    assign(make(original))
    put_back.append(lambda: assign(original))
