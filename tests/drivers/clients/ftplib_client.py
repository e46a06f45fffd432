"""ftplib."""

import contextlib
import ftplib
import io
from collections.abc import Callable, Iterator
from typing import Any

from run import in_parallel, interrupted, raises


def connect(address: dict[str, Any], **options: Any) -> ftplib.FTP:
    client = ftplib.FTP(**options)
    client.connect(address["host"], address["port"])
    client.login("greenio", "secret")
    return client


def fetch(client: ftplib.FTP, number: int) -> None:
    content = io.BytesIO()
    client.retrbinary(f"RETR {number}", content.write)
    assert content.getvalue() == f"content of {number}".encode()


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    clients = in_parallel(lambda number: connect(address))
    yield lambda number: fetch(clients[number], number)
    for client in clients:
        client.close()


def errors(address: dict[str, Any]) -> None:
    """No such file; a wrong password; nobody listens; no answer in time; cancelled."""
    client = connect(address)
    with raises(ftplib.error_perm) as caught:
        client.retrbinary("RETR nothing", print)
    assert str(caught.error).startswith("550")
    fetch(client, 1)
    assert "7" in client.nlst()
    assert interrupted(lambda: fetch(client, 2)) == "cancelled"
    client.close()
    hasty = connect(address, timeout=0.1)
    with raises(TimeoutError):
        fetch(hasty, 3)
    hasty.close()
    for change, expected in (({"port": 1}, ConnectionRefusedError),):
        with raises(expected):
            connect({**address, **change})
