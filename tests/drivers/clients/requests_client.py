"""requests: one session for all threads."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import requests
import requests.adapters
from run import COUNT, in_parallel, interrupted, raises


def url(address: dict[str, Any], path: str) -> str:
    return f"http://{address['host']}:{address['port']}/{path}"


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=COUNT))
        in_parallel(lambda number: session.get(url(address, f"slow/{number}")))

        def operation(number: int) -> None:
            answer = session.get(url(address, f"slow/{number}"))
            assert answer.status_code == 200 and answer.text == str(number)

        yield operation


def errors(address: dict[str, Any]) -> None:
    """A status; nobody listens; cut off; no answer in time; cancelled; the session goes on."""
    with requests.Session() as session:
        with raises(requests.HTTPError) as caught:
            session.get(url(address, "status/503")).raise_for_status()
        assert caught.error.response.status_code == 503
        for path, port, expected in (
            ("never", address["port"], requests.ReadTimeout),
            ("cut", address["port"], requests.ConnectionError),
            ("echo/x", 1, requests.ConnectionError),
        ):
            with raises(expected):
                session.get(url({**address, "port": port}, path), timeout=0.2)
        assert interrupted(lambda: session.get(url(address, "never"))) == "cancelled"
        assert session.post(url(address, "echo"), data=b"x" * 1_000_000).content == b"x" * 1_000_000
