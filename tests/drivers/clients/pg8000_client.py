"""pg8000."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pg8000.dbapi
from run import in_parallel, interrupted, raises


def connect(address: dict[str, Any], **options: Any) -> Any:
    names = {"host": "host", "port": "port", "user": "user", "dbname": "database"}
    return pg8000.dbapi.connect(**{names[name]: value for name, value in address.items()}, **options)


def query(connection: Any, number: int, seconds: float = 0.2) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT pg_sleep(%s), cast(%s as int)", (seconds, number))
    assert cursor.fetchone()[1] == number


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    connections = in_parallel(lambda number: connect(address))
    yield lambda number: query(connections[number], number)
    for connection in connections:
        connection.close()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; nobody listens; no answer in time."""
    connection = connect(address)
    with raises(pg8000.dbapi.DatabaseError) as caught:
        connection.cursor().execute("SELECT nothing")
    assert caught.error.args[0]["C"] == "42703", caught.error
    connection.rollback()
    query(connection, 1, 0)
    connection.close()
    with raises(pg8000.dbapi.InterfaceError) as caught:
        connect({**address, "port": 1})
    assert isinstance(caught.error.__cause__, ConnectionRefusedError), caught.error
    hasty = connect(address, timeout=0.1)
    with raises(TimeoutError, pg8000.dbapi.InterfaceError):
        query(hasty, 1, 5)


def cancelled(address: dict[str, Any]) -> None:
    """A cancelled query leaves the connection in the middle of an answer; it can be closed, and another one opened."""
    connection = connect(address)
    assert interrupted(lambda: query(connection, 1, 1)) == "cancelled"
    connection.close()
    connection = connect(address)
    query(connection, 2, 0)
    connection.close()
