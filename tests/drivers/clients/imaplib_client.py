"""imaplib."""

import contextlib
import imaplib
from collections.abc import Callable, Iterator
from typing import Any

from run import in_parallel, interrupted, raises


def connect(address: dict[str, Any], **options: Any) -> imaplib.IMAP4:
    client = imaplib.IMAP4(address["host"], address["port"], **options)
    client.login("greenio", "secret")
    client.select()
    return client


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    clients = in_parallel(lambda number: connect(address))

    def operation(number: int) -> None:
        assert clients[number].search(None, "SUBJECT", str(number)) == ("OK", [str(number).encode()])

    yield operation
    for client in clients:
        client.logout()


def errors(address: dict[str, Any]) -> None:
    """A wrong password; nobody listens; no answer in time; cancelled."""
    with imaplib.IMAP4(address["host"], address["port"]) as stranger:
        with raises(imaplib.IMAP4.error) as caught:
            stranger.login("greenio", "wrong")
        assert "wrong password" in str(caught.error)
    client = connect(address)
    assert interrupted(lambda: client.search(None, "SUBJECT", "1")) == "cancelled"
    client.shutdown()
    hasty = connect(address, timeout=0.1)
    with raises(TimeoutError):
        hasty.search(None, "SUBJECT", "1")
    hasty.shutdown()
    with raises(ConnectionRefusedError):
        imaplib.IMAP4(address["host"], 1)
