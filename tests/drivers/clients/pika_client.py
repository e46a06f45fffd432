"""pika against RabbitMQ: messages that become ready after 0.2 s, by a queue whose messages expire into another one."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pika
from run import in_parallel, interrupted, raises


def connect(address: dict[str, Any]) -> Any:
    return pika.BlockingConnection(pika.ConnectionParameters(address["host"], address["port"]))


def wait_for_message(channel: Any, number: int) -> None:
    for method, _, body in channel.consume(f"ready-{number}", inactivity_timeout=10):
        assert body == str(number).encode(), body
        channel.basic_ack(method.delivery_tag)
        return


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    connections = in_parallel(lambda number: connect(address))
    channels = in_parallel(lambda number: connections[number].channel())

    def declare(number: int) -> None:
        channels[number].queue_declare(f"ready-{number}", exclusive=True)
        arguments = {"x-message-ttl": 200, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"ready-{number}"}
        channels[number].queue_declare(f"later-{number}", exclusive=True, arguments=arguments)

    in_parallel(declare)

    def operation(number: int) -> None:
        channels[number].basic_publish("", f"later-{number}", str(number).encode())
        wait_for_message(channels[number], number)

    yield operation
    in_parallel(lambda number: connections[number].close())


def errors(address: dict[str, Any]) -> None:
    """The server closes a channel; nobody listens; no message in time; the connection goes on."""
    connection = connect(address)
    channel = connection.channel()
    with raises(pika.exceptions.ChannelClosedByBroker) as caught:
        channel.queue_declare("nowhere", passive=True)
    assert caught.error.reply_code == 404
    channel = connection.channel()
    channel.queue_declare("errors", exclusive=True)
    assert next(channel.consume("errors", inactivity_timeout=0.05)) == (None, None, None)
    assert interrupted(lambda: next(channel.consume("errors"))) == "cancelled"
    connection.close()
    with raises(pika.exceptions.AMQPConnectionError):
        connect({**address, "port": 1})
