"""Echo server: a gevent greenlet for each connection; over TLS with `tls` as the first argument."""

import sys

import gevent
from gevent import socket, ssl

from ._server import BACKLOG, HOST, READ_BYTES, announce, set_no_delay, tls_context


def serve(connection: socket.socket) -> None:
    with connection:
        set_no_delay(connection)
        while data := connection.recv(READ_BYTES):
            connection.sendall(data)


def serve_tls(connection: socket.socket, context: ssl.SSLContext) -> None:
    with connection:
        serve(context.wrap_socket(connection, server_side=True))


def main() -> None:
    context = tls_context(ssl.SSLContext) if sys.argv[1:] == ["tls"] else None
    # Not create_server: gevent's is the standard library's, and blocks.
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(BACKLOG)
        announce(listener.getsockname())
        while True:
            connection, _ = listener.accept()
            if context is None:
                gevent.spawn(serve, connection)
            else:
                gevent.spawn(serve_tls, connection, context)


if __name__ == "__main__":
    main()
