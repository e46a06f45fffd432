"""psycopg 3, in C, or in Python with PSYCOPG_IMPL=python in the environment."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from run import in_parallel, interrupted, raises

assert psycopg.pq.__impl__ in (os.environ.get("PSYCOPG_IMPL", "binary"), "c")


def query(connection: Any, number: int, seconds: float = 0.2) -> None:
    row = connection.execute("SELECT pg_sleep(%s), %s::int", (seconds, number)).fetchone()
    assert row[1] == number


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    connections = in_parallel(lambda number: psycopg.connect(**address))
    yield lambda number: query(connections[number], number)
    for connection in connections:
        connection.close()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; nobody listens; a statement's timeout."""
    connection = psycopg.connect(**address)
    for statement, expected in (
        ("SELECT nothing", psycopg.errors.UndefinedColumn),
        ("SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)", psycopg.errors.QueryCanceled),
    ):
        with raises(expected):
            connection.execute(statement)
        connection.rollback()
        query(connection, 1, 0)
    with raises(psycopg.OperationalError) as caught:
        psycopg.connect(**{**address, "port": 1})
    assert "refused" in str(caught.error), caught.error
    connection.close()


def cancelled(address: dict[str, Any]) -> None:
    """A cancelled query is cancelled in the server, too; the connection is usable after a rollback."""
    with psycopg.connect(**address) as connection, psycopg.connect(**address, autocommit=True) as watcher:
        assert interrupted(lambda: query(connection, 1, 30)) == "cancelled"
        row = watcher.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        ).fetchone()
        assert row == (0,), row
        connection.rollback()
        query(connection, 2, 0)


def shared(address: dict[str, Any]) -> None:
    """Threads that use one connection take turns; notifications and COPY park, too."""
    with psycopg.connect(**address) as connection:
        in_parallel(lambda number: query(connection, number, 0.01), range(10))
        connection.execute("CREATE TEMPORARY TABLE numbers (number int)")
        with connection.cursor() as cursor:
            with cursor.copy("COPY numbers FROM STDIN") as copy:
                for number in range(1_000):
                    copy.write_row((number,))
            assert cursor.execute("SELECT sum(number) FROM numbers").fetchone() == (499_500,)
    with psycopg.connect(**address, autocommit=True) as listener, psycopg.connect(**address, autocommit=True) as other:
        listener.execute("LISTEN channel")
        other.execute("NOTIFY channel, 'hello'")
        assert [each.payload for each in listener.notifies(timeout=5, stop_after=1)] == ["hello"]
