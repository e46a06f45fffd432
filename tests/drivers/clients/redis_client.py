"""redis-py."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import redis
from run import COUNT, in_parallel, interrupted, raises


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    client = redis.Redis(**address, max_connections=COUNT)
    in_parallel(lambda number: client.wait(1, 50))  # a connection for each is in the pool

    def operation(number: int) -> None:
        assert client.blpop([f"empty:{number}"], timeout=0.2) is None
        assert client.echo(str(number)) == str(number).encode()

    yield operation
    client.close()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; nobody listens; no answer in time, after which the client goes on."""
    client = redis.Redis(**address, socket_timeout=0.1, retry=None)
    client.set("text", "text")
    with raises(redis.ResponseError):
        client.incr("text")
    with raises(redis.TimeoutError):
        client.blpop(["empty"], timeout=5)
    assert client.echo("x") == b"x"
    with raises(redis.ConnectionError) as caught:
        redis.Redis(host=address["host"], port=1, retry=None).ping()
    assert "refused" in str(caught.error), caught.error
    client.close()


def cancelled(address: dict[str, Any]) -> None:
    """A cancelled command's connection is not used for the next one; a subscriber gets what is published; threads share a client."""
    client = redis.Redis(**address)
    assert interrupted(lambda: client.blpop(["empty"], timeout=30)) == "cancelled"
    assert [client.echo(text) for text in ("a", "b")] == [b"a", b"b"]
    subscriber = client.pubsub()
    subscriber.subscribe("channel")
    threading.Timer(0.05, lambda: client.publish("channel", "hello")).start()
    assert [next(subscriber.listen())["type"], next(subscriber.listen())["data"]] == ["subscribe", b"hello"]
    subscriber.close()
    lock = client.lock("lock", timeout=5)
    counted = []

    def count(number: int) -> None:
        with client.lock("lock", timeout=5, sleep=0.005):
            counted.append(number)

    in_parallel(count, range(10))
    assert sorted(counted) == list(range(10)) and not lock.locked()
    client.close()
