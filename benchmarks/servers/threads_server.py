"""Echo server: a thread for each connection."""

import socket
import threading

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
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
