"""httpx, its synchronous client."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from run import COUNT, in_parallel, interrupted, raises


def client_of(address: dict[str, Any], **options: Any) -> Any:
    return httpx.Client(base_url=f"http://{address['host']}:{address['port']}", trust_env=False, **options)


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    limits = httpx.Limits(max_connections=COUNT, max_keepalive_connections=COUNT)
    with client_of(address, limits=limits, timeout=20) as client:
        in_parallel(lambda number: client.get(f"/slow/{number}"))

        def operation(number: int) -> None:
            answer = client.get(f"/slow/{number}")
            assert answer.status_code == 200 and answer.text == str(number)

        yield operation


def errors(address: dict[str, Any]) -> None:
    """Nobody listens; cut off; no answer in time; no connection to be had in time; cancelled; the client goes on."""
    with client_of(address, timeout=0.2, limits=httpx.Limits(max_connections=1)) as client:
        for path, expected in (("/never", httpx.ReadTimeout), ("/cut", httpx.RemoteProtocolError)):
            with raises(expected):
                client.get(path)
        assert interrupted(lambda: client.get("/never", timeout=None)) == "cancelled"
        answers = in_parallel(lambda number: client.get(f"/echo/{number}").text, range(5))
        assert answers == [str(number) for number in range(5)]
    with client_of({**address, "port": 1}) as client:
        with raises(httpx.ConnectError):
            client.get("/")
