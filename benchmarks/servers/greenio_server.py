"""Echo server: a greenio fiber for each connection."""

import greenio
from greenio import socket

from ._server import BACKLOG, HOST, READ_BYTES, announce, set_no_delay


def serve(connection: socket.socket) -> None:
    with connection:
        set_no_delay(connection)
        while data := connection.recv(READ_BYTES):
            connection.sendall(data)


def main() -> None:
    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        announce(listener.getsockname())
        while True:
            connection, _ = listener.accept()
            greenio.spawn(serve, connection)


if __name__ == "__main__":
    greenio.run(main)
