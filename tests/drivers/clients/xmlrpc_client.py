"""xmlrpc.client."""

import contextlib
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any

from run import in_parallel, interrupted, raises


def connect(address: dict[str, Any]) -> Any:
    return xmlrpc.client.ServerProxy(f"http://{address['host']}:{address['port']}/")


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    proxies = in_parallel(lambda number: connect(address))

    def operation(number: int) -> None:
        assert proxies[number].slow(number) == number

    yield operation
    for proxy in proxies:
        proxy("close")()


def errors(address: dict[str, Any]) -> None:
    """What the server raises arrives; nobody listens; cancelled, after which the proxy connects anew."""
    with connect(address) as proxy:
        with raises(xmlrpc.client.Fault) as caught:
            proxy.refuse()
        assert "refused" in caught.error.faultString
        assert interrupted(lambda: proxy.slow(1)) == "cancelled"
        proxy("close")()
        assert proxy.slow(2) == 2
    with raises(ConnectionRefusedError):
        connect({**address, "port": 1}).slow(1)
