"""psycopg2, by its wait callback."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import psycopg2.extensions
from run import COUNT, in_parallel, interrupted, raises


def query(connection: Any, number: int, seconds: float = 0.2) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s), %s", (seconds, number))
        assert cursor.fetchone()[1] == number


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    connections = in_parallel(lambda number: psycopg2.connect(**address))
    yield lambda number: query(connections[number], number)
    for connection in connections:
        connection.close()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; nobody listens; a statement's timeout; each leaves the connection as it should."""
    connection = psycopg2.connect(**address)
    for statement, code in (
        ("SELECT nothing", "42703"),
        ("SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)", "57014"),
    ):
        with raises(psycopg2.Error) as caught:
            connection.cursor().execute(statement)
        assert caught.error.pgcode == code, caught.error
        connection.rollback()
        query(connection, 1, 0)
    with raises(psycopg2.OperationalError) as caught:
        psycopg2.connect(**{**address, "port": 1})
    assert "refused" in str(caught.error), caught.error
    connection.close()


def cancelled(address: dict[str, Any]) -> None:
    """A cancelled query is cancelled in the server, too; the connection is usable after a rollback. One being made is closed."""
    connection = psycopg2.connect(**address)
    watcher = psycopg2.connect(**address)
    watcher.autocommit = True
    assert interrupted(lambda: query(connection, 1, 30)) == "cancelled"
    with watcher.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()")
        assert cursor.fetchone() == (0,)
    assert not connection.closed
    connection.rollback()
    query(connection, 2, 0)
    connection.close()
    watcher.close()


def shared(address: dict[str, Any]) -> None:
    """Threads that use one connection take turns, also while another one commits."""
    connection = psycopg2.connect(**address)
    in_parallel(lambda number: (query(connection, number, 0.01), connection.commit()), range(20))

    def named(number: int) -> int:
        with connection.cursor(f"named{number}", withhold=True) as cursor:
            cursor.execute("SELECT generate_series(1, 100)")
            return sum(row[0] for row in cursor.fetchall())

    assert in_parallel(named, range(5)) == [5050] * 5
    connection.close()


def other_thread(address: dict[str, Any]) -> None:
    """On an OS thread without fibers it blocks, as ever."""
    import greenio
    import greenio.monkey

    done = []

    def work() -> None:
        assert not greenio.can_park()
        connection = psycopg2.connect(**address)
        query(connection, 3, 0.01)
        connection.close()
        done.append(True)

    thread = greenio.monkey.get_original("_thread", "start_new_thread")
    thread(work, ())
    while not done:
        threading.Event().wait(0.01)


def copies(address: dict[str, Any]) -> None:
    """COPY and large objects, which psycopg2 refuses under a callback, work; they block."""
    import io

    connection = psycopg2.connect(**address)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE numbers (number int)")
        cursor.copy_from(io.StringIO("".join(f"{number}\n" for number in range(10_000))), "numbers")
        cursor.execute("SELECT count(*), sum(number) FROM numbers")
        assert cursor.fetchone() == (10_000, 49_995_000)
        output = io.StringIO()
        cursor.copy_expert("COPY numbers TO STDOUT", output)
        assert len(output.getvalue().split()) == 10_000
    large = connection.lobject(0, "wb")
    large.write(b"a large object")
    large.close()
    assert connection.lobject(large.oid, "rb").read() == b"a large object"
    connection.close()


def unpatched(address: dict[str, Any]) -> None:
    """Unpatched, psycopg2's types and its callback are as they were, and work."""
    import greenio.monkey

    greenio.monkey.unpatch_all()
    assert psycopg2.extensions.get_wait_callback() is None
    assert type(psycopg2.extensions.cursor.execute).__name__ == "method_descriptor"
    assert type(vars(psycopg2.extensions.connection)["autocommit"]).__name__ == "getset_descriptor"
    connection = psycopg2.connect(**address)
    query(connection, 1, 0)
    connection.close()
    assert COUNT == 100
