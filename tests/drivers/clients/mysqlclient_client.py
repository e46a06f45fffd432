"""mysqlclient: MariaDB's C library, which waits inside itself; by the hand-off."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import MySQLdb
from run import in_parallel, raises


def query(connection: Any, number: int, seconds: float = 0.2) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s), %s", (seconds, number))
        assert cursor.fetchone() == (0, number)


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    connections = in_parallel(lambda number: MySQLdb.connect(**address))
    yield lambda number: query(connections[number], number)
    for connection in connections:
        connection.close()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; nobody listens; a wrong password; no answer in time."""
    connection = MySQLdb.connect(**address)
    with raises(MySQLdb.OperationalError) as caught:
        connection.cursor().execute("SELECT nothing")
    assert caught.error.args[0] == 1054, caught.error
    query(connection, 1, 0)
    connection.close()
    for change, code in (({"port": 1}, 2002), ({"password": "wrong"}, 1045)):
        with raises(MySQLdb.OperationalError) as caught:
            MySQLdb.connect(**{**address, **change})
        assert caught.error.args[0] == code, caught.error
    hasty = MySQLdb.connect(**address, read_timeout=1)
    with raises(MySQLdb.OperationalError) as caught:
        query(hasty, 1, 5)
    assert caught.error.args[0] in (2013, 2026), caught.error
