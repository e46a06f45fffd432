"""A chat server: what one client writes, all of them read. Three fibers a client, one bounded buffer each; who does not
read is cut off, and the others never wait for it. Try: python examples/chat_server.py --port 4000, and twice: nc localhost 4000"""

import argparse
import signal

import greenio
from greenio import socket

BACKLOG_LINES = 100  # that a client may be behind
WRITE_SECONDS = 5.0  # that one line may take


def write_lines(connection: socket.socket, lines: greenio.Subscription[bytes]) -> None:
    for line in lines:  # raises ChannelClosed in a client that fell too far behind
        with greenio.timeout(WRITE_SECONDS):
            connection.sendall(line)


def read_lines(connection: socket.socket, room: greenio.Broadcast[bytes], group: greenio.TaskGroup) -> None:
    with connection.makefile("rb") as reader:
        connection.sendall(b"your name? ")
        name = reader.readline(100).strip() or b"somebody"
        room.send(name + b" is here\n")
        while line := reader.readline(1000):
            room.send(name + b": " + line)
    room.send(name + b" has left\n")
    group.cancel("the client has left")


def serve(connection: socket.socket, room: greenio.Broadcast[bytes]) -> None:
    with connection, room.subscribe() as lines:
        try:
            with greenio.TaskGroup() as group:
                group.spawn(write_lines, connection, lines)
                group.spawn(read_lines, connection, room, group)
        except* (greenio.ChannelClosed, TimeoutError, OSError) as errors:
            print("cut off:", *errors.exceptions, flush=True)


def main(arguments: argparse.Namespace) -> None:
    room: greenio.Broadcast[bytes] = greenio.Broadcast(BACKLOG_LINES, policy="disconnect")
    stop = greenio.CancelScope()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.cancel())
    with socket.create_server((arguments.host, arguments.port)) as listener, stop, greenio.TaskGroup() as clients:
        host, port = listener.getsockname()[:2]
        print(f"listening on {host}:{port}", flush=True)
        while True:
            connection, _ = listener.accept()
            clients.spawn(serve, connection, room)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4000)
    greenio.run(main, parser.parse_args())
