"""smtplib."""

import contextlib
import smtplib
from collections.abc import Callable, Iterator
from typing import Any

from run import in_parallel, interrupted, raises


def connect(address: dict[str, Any], **options: Any) -> smtplib.SMTP:
    client = smtplib.SMTP(address["host"], address["port"], local_hostname="localhost", **options)
    client.ehlo()
    return client


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    clients = in_parallel(lambda number: connect(address))

    def operation(number: int) -> None:
        client = clients[number]
        client.mail("sender@localhost")
        client.rcpt("receiver@localhost")
        assert client.data(f"Subject: {number}\r\n\r\ntext\r\n") == (250, f"kept {number}".encode())

    yield operation
    for client in clients:
        client.quit()


def errors(address: dict[str, Any]) -> None:
    """Refused receivers; nobody listens; no answer in time; cancelled: the connection is then out of step, and is closed."""
    client = connect(address)
    with raises(smtplib.SMTPRecipientsRefused) as caught:
        client.sendmail("sender@localhost", ["nobody@localhost"], "text")
    assert caught.error.recipients["nobody@localhost"][0] == 550
    assert client.sendmail("sender@localhost", ["receiver@localhost"], "Subject: 1\r\n\r\n") == {}
    assert (
        interrupted(lambda: client.sendmail("sender@localhost", ["receiver@localhost"], "Subject: 1\r\n\r\n"))
        == "cancelled"
    )
    client.close()
    hasty = connect(address, timeout=0.1)
    with raises(smtplib.SMTPServerDisconnected):
        hasty.sendmail("sender@localhost", ["receiver@localhost"], "Subject: 1\r\n\r\n")
    hasty.close()
    with raises(ConnectionRefusedError):
        connect({**address, "port": 1})
