"""urllib3: one pool for all threads; more threads than connections wait their turn."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from run import COUNT, in_parallel, interrupted, raises


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    with urllib3.HTTPConnectionPool(address["host"], address["port"], maxsize=COUNT, block=True) as pool:
        in_parallel(lambda number: pool.request("GET", f"/slow/{number}"))

        def operation(number: int) -> None:
            answer = pool.request("GET", f"/slow/{number}")
            assert answer.status == 200 and answer.data == str(number).encode()

        yield operation


def errors(address: dict[str, Any]) -> None:
    """Nobody listens; cut off; no answer in time; a pool with one connection serves one thread after the other; cancelled."""
    with urllib3.HTTPConnectionPool(address["host"], address["port"], maxsize=1, block=True, retries=False) as pool:
        for path, expected in (
            ("/never", urllib3.exceptions.ReadTimeoutError),
            ("/cut", urllib3.exceptions.ProtocolError),
        ):
            with raises(expected):
                pool.request("GET", path, timeout=0.2)
        assert interrupted(lambda: pool.request("GET", "/never")) == "cancelled"
        answers = in_parallel(lambda number: pool.request("GET", f"/echo/{number}").data, range(10))
        assert answers == [str(number).encode() for number in range(10)]
    with raises(urllib3.exceptions.NewConnectionError):
        urllib3.HTTPConnectionPool(address["host"], 1, retries=False).request("GET", "/")
