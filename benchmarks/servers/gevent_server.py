"""Echo server: a gevent greenlet for each connection."""

import gevent
from gevent import socket

from ._server import BACKLOG, HOST, READ_BYTES, announce, set_no_delay


def serve(connection: socket.socket) -> None:
    with connection:
        set_no_delay(connection)
        while data := connection.recv(READ_BYTES):
            connection.sendall(data)


def main() -> None:
    # Not create_server: gevent's is the standard library's, and blocks.
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(BACKLOG)
        announce(listener.getsockname())
        while True:
            connection, _ = listener.accept()
            gevent.spawn(serve, connection)


if __name__ == "__main__":
    main()
