"""sqlite3: waiting for a database that another connection has locked parks, for as long as connect()'s timeout says.

SQLite itself sleeps in its busy handler, inside of a C call. Here a connection has none: a statement that finds the database locked
has not happened, and is tried again after a pause. As SQLite does it, a statement within a transaction that has read or written already
is not waited for, since that could be a deadlock; a commit always is. Connections that were made before the patch, or where no fiber
ran, wait as ever, and so does PRAGMA busy_timeout.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import greenio
from greenio.compat.patches import Patch, stand_in

FIRST_PAUSE = 0.001  # seconds between two tries, half as much again each time, up to
LONGEST_PAUSE = 0.025
_BUSY = (5, 261)  # SQLITE_BUSY, SQLITE_BUSY_RECOVERY. Not SQLITE_BUSY_SNAPSHOT: waiting does not help
_LOCKED = (5, 6)  # what backup waits for
_sleep = time.sleep


def _make(sqlite3: Any) -> tuple[Any, Any, Any]:
    """(connect, Connection, Cursor) that park, on top of the standard's."""
    StandardConnection: Any = sqlite3.Connection
    StandardCursor: Any = sqlite3.Cursor
    standard_connect = sqlite3.connect

    def retry(connection: Any, call: Callable[..., Any], *args: Any) -> Any:
        timeout = connection._greenio_timeout
        deadline = None
        pause = FIRST_PAUSE
        while True:
            try:
                return call(*args)
            except sqlite3.OperationalError as error:
                if timeout is None or error.sqlite_errorcode not in _BUSY:
                    raise
                now = _now()
                if deadline is None:
                    deadline = now + timeout
                if now >= deadline:
                    raise
                left = deadline - now
            if greenio.can_park():
                greenio.sleep(min(pause, left))
            else:
                _sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def statement(cursor: Any, call: Callable[..., Any], sql: Any, *args: Any) -> Any:
        connection = cursor.connection
        if connection._greenio_timeout is None:
            return call(sql, *args)
        if not connection.in_transaction:
            connection._greenio_holds = False
        found = call(sql, *args) if connection._greenio_holds else retry(connection, call, sql, *args)
        words = sql.split(None, 2)[:2] if isinstance(sql, str) else []
        begins = bool(words) and words[0].upper().rstrip(";") == "BEGIN"
        connection._greenio_holds = connection.in_transaction and (
            not begins or words[-1].upper().rstrip(";") in ("IMMEDIATE", "EXCLUSIVE")
        )
        return found

    class ConnectionType(type(StandardConnection)):  # type: ignore[misc]
        # Also what was made before the patch, or is made by the original, is one.
        def __instancecheck__(cls, instance: Any) -> bool:
            return (
                isinstance(instance, StandardConnection) if cls is Connection else super().__instancecheck__(instance)
            )

        def __subclasscheck__(cls, other: Any) -> bool:
            return issubclass(other, StandardConnection) if cls is Connection else super().__subclasscheck__(other)

    class CursorType(type(StandardCursor)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, StandardCursor) if cls is Cursor else super().__instancecheck__(instance)

        def __subclasscheck__(cls, other: Any) -> bool:
            return issubclass(other, StandardCursor) if cls is Cursor else super().__subclasscheck__(other)

    class Cursor(StandardCursor, metaclass=CursorType):  # type: ignore[misc]
        def execute(self, sql: Any, parameters: Any = (), /) -> Any:
            return statement(self, super().execute, sql, parameters)

        def executemany(self, sql: Any, parameters: Any, /) -> Any:
            if self.connection._greenio_timeout is None:
                return super().executemany(sql, parameters)
            taken = _Taken(parameters)

            def go_on(sql: Any) -> Any:
                # The row that found the database locked has not been written; those before it have.
                return super(Cursor, self).executemany(sql, taken.again())

            return statement(self, go_on, sql)

        def executescript(self, sql_script: Any, /) -> Any:
            connection = self.connection
            if connection._greenio_timeout is None or not isinstance(sql_script, str) or "\0" in sql_script:
                return super().executescript(sql_script)
            legacy = getattr(connection, "autocommit", -1) == -1
            if legacy and connection.in_transaction:
                connection.commit()
            level = connection.isolation_level
            scratch = StandardCursor(connection)
            scratch.row_factory = None
            if legacy:
                connection.isolation_level = None  # no BEGIN of its own before a statement
            try:
                for each in _statements(sqlite3, sql_script):
                    statement(scratch, lambda sql: scratch.execute(sql).fetchall(), each)
            finally:
                scratch.close()
                if legacy:
                    connection.isolation_level = level
            return self

    class Connection(StandardConnection, metaclass=ConnectionType):  # type: ignore[misc]
        _greenio_timeout: float | None = None
        _greenio_holds = False  # in a transaction that has a lock

        def __init__(self, database: Any, *args: Any, **keywords: Any) -> None:
            # By place or by name as the program has it: newer versions warn of places, and CPython 3.15 refuses them.
            if greenio.can_park():
                self._greenio_timeout = float(args[0] if args else keywords.get("timeout", 5.0))
                if args:
                    args = (0.0, *args[1:])
                else:
                    keywords["timeout"] = 0.0
            super().__init__(database, *args, **keywords)

        def cursor(self, factory: Any = None) -> Any:
            """A cursor."""
            if factory is None:
                return super().cursor(Cursor)
            return super().cursor(parking(factory, StandardCursor, Cursor))

        def execute(self, *args: Any) -> Any:
            return self.cursor().execute(*args)

        def executemany(self, *args: Any) -> Any:
            return self.cursor().executemany(*args)

        def executescript(self, *args: Any) -> Any:
            return self.cursor().executescript(*args)

        def commit(self) -> None:
            retry(self, super().commit)

        def __exit__(self, exc_type: Any, value: Any, traceback: Any) -> Any:
            if self._greenio_timeout is None or exc_type is not None:
                return super().__exit__(exc_type, value, traceback)
            try:
                self.commit()
            except BaseException:
                self.rollback()
                raise
            return False

        def backup(
            self, target: Any, *, pages: int = -1, progress: Any = None, name: str = "main", sleep: float = 0.25
        ) -> Any:
            if not greenio.can_park() or not (progress is None or callable(progress)):
                return super().backup(target, pages=pages, progress=progress, name=name, sleep=sleep)

            def watched(status: int, remaining: int, total: int) -> None:
                if progress is not None:
                    progress(status, remaining, total)
                if status in _LOCKED:
                    greenio.sleep(sleep)
                else:
                    greenio.yield_now()

            return super().backup(target, pages=pages, progress=watched, name=name, sleep=0)

    @functools.cache
    def parking(kind: Any, standard: Any, ours: Any) -> Any:
        # A subclass that was defined before the patch.
        if not isinstance(kind, type) or not issubclass(kind, standard) or ours in kind.__mro__:
            return kind
        if kind is standard:
            return ours
        return type(ours)(
            kind.__name__,
            (kind, ours),
            {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__},
        )

    for kind, original in ((Connection, StandardConnection), (Cursor, StandardCursor)):
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(kind, name, getattr(original, name))
        for name, value in vars(kind).items():
            if callable(value) and hasattr(original, name) and name != "__init__":
                value.__doc__ = getattr(original, name).__doc__

    @stand_in(standard_connect)
    def connect(*args: Any, **keywords: Any) -> Any:
        if len(args) > 5:
            args = (*args[:5], parking(args[5], StandardConnection, Connection), *args[6:])
        else:
            keywords["factory"] = parking(keywords.get("factory", StandardConnection), StandardConnection, Connection)
        return standard_connect(*args, **keywords)

    return connect, Connection, Cursor


def _now() -> float:
    return greenio.current_time() if greenio.can_park() else time.monotonic()


class _Taken:
    """The rows of executemany, from the one that was taken last on."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = iter(rows)
        self._last: list[Any] = []

    def again(self) -> Iterator[Any]:
        yield from self._last
        for row in self._rows:
            self._last = [row]
            yield row
        self._last = []


def _statements(sqlite3: Any, script: str) -> Iterator[str]:
    *pieces, rest = script.split(";")
    begun = ""
    for piece in pieces:
        begun += piece + ";"
        if sqlite3.complete_statement(begun):
            yield begun
            begun = ""
    if (begun + rest).strip():
        yield begun + rest


def apply(patch: Patch) -> None:
    """Make the replacements."""

    def changed(sqlite3: Any) -> None:
        import _sqlite3
        from sqlite3 import dbapi2

        for name, made in zip(("connect", "Connection", "Cursor"), _make(sqlite3), strict=True):
            for module in (_sqlite3, dbapi2):
                patch.replace(module, name, made)
            patch.replace(sqlite3, name, made, everywhere=True)

    patch.when_imported("sqlite3", changed)
