"""kombu on redis."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import kombu
from run import COUNT, in_parallel, raises


def connect(address: dict[str, Any]) -> Any:
    return kombu.Connection(f"redis://{address['host']}:{address['port']}/1")


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    connections = in_parallel(lambda number: connect(address))
    queues = in_parallel(lambda number: connections[number].SimpleQueue(f"queue-{number}"))
    begun = threading.Event()

    def produce() -> None:
        with connect(address) as connection:
            ends = [connection.SimpleQueue(f"queue-{number}") for number in range(COUNT)]
            for number, each in enumerate(ends):  # the connection and the bindings are made
                each.put({"first": number})
            begun.wait()
            time.sleep(0.2)
            for number, each in enumerate(ends):
                each.put({"number": number})

    producer = threading.Thread(target=produce)
    producer.start()
    for number, each in enumerate(in_parallel(lambda number: queues[number].get(timeout=10))):
        assert each.payload == {"first": number}
        each.ack()

    def operation(number: int) -> None:
        begun.set()
        message = queues[number].get(timeout=10)
        assert message.payload == {"number": number}
        message.ack()

    yield operation
    producer.join()
    for connection in connections:
        connection.release()


def errors(address: dict[str, Any]) -> None:
    """Nobody listens; no message in time, after which the connection goes on."""
    with connect(address) as connection:
        queue = connection.SimpleQueue("errors")
        with raises(queue.Empty):
            queue.get(timeout=0.1)
        queue.put("text")
        message = queue.get(timeout=10)
        message.ack()
        assert message.payload == "text"
        queue.close()
    nobody = connect({**address, "port": 1})
    with raises(*nobody.connection_errors) as caught:
        nobody.connect()
    assert "refused" in str(caught.error), caught.error
