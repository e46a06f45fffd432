"""PyMySQL."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
from run import in_parallel, interrupted, raises


def query(connection: Any, number: int, seconds: float = 0.2) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s), %s", (seconds, number))
        assert cursor.fetchone() == (0, number)


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    connections = in_parallel(lambda number: pymysql.connect(**address))
    yield lambda number: query(connections[number], number)
    for connection in connections:
        connection.close()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; nobody listens; no answer in time."""
    connection = pymysql.connect(**address)
    with raises(pymysql.OperationalError) as caught:
        query_text = "SELECT nothing"
        connection.cursor().execute(query_text)
    assert caught.error.args[0] == 1054, caught.error
    query(connection, 1, 0)
    connection.close()
    for change, code in (({"port": 1}, 2003), ({"password": "wrong"}, 1045)):
        with raises(pymysql.OperationalError) as caught:
            pymysql.connect(**{**address, **change})
        assert caught.error.args[0] == code, caught.error
    hasty = pymysql.connect(**address, read_timeout=0.1)
    with raises(pymysql.OperationalError) as caught:
        query(hasty, 1, 5)
    assert caught.error.args[0] == 2013, caught.error
    assert not hasty.open


def cancelled(address: dict[str, Any]) -> None:
    """A cancelled query leaves the connection in the middle of an answer, and closed."""
    connection = pymysql.connect(**address)
    assert interrupted(lambda: query(connection, 1, 30)) == "cancelled"
    connection._force_close()  # type: ignore[attr-defined]
    connection.ping(reconnect=True)
    query(connection, 2, 0)
    connection.close()
