"""gRPC, whose C core waits inside itself; by the hand-off. A hundred calls share one channel, as programs do it."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from run import raises


def connect(address: dict[str, Any]) -> Any:
    return grpc.insecure_channel(f"{address['host']}:{address['port']}")


def ask(channel: Any, number: int, seconds: float = 0.2, timeout: float | None = None) -> None:
    answer = channel.unary_unary("/greenio/slow")(json.dumps([number, seconds]).encode(), timeout=timeout)
    assert json.loads(answer)[0] == number


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    with connect(address) as channel:
        ask(channel, 0, 0)
        yield lambda number: ask(channel, number)


def errors(address: dict[str, Any]) -> None:
    """The server refuses; no answer in time; nobody listens; the channel goes on."""
    with connect(address) as channel:
        for arguments, code in (
            ((-1, 0), grpc.StatusCode.INVALID_ARGUMENT),
            ((1, 5, 0.2), grpc.StatusCode.DEADLINE_EXCEEDED),
        ):
            with raises(grpc.RpcError) as caught:
                ask(channel, *arguments)
            assert caught.error.code() is code, caught.error
            ask(channel, 2, 0)
    with connect({**address, "port": 1}) as channel, raises(grpc.RpcError) as caught:
        ask(channel, 1, 0)
    assert caught.error.code() is grpc.StatusCode.UNAVAILABLE, caught.error
