"""Two fibers talk through a pair of sockets; each is written as if it had the thread to itself."""

import greenio
from greenio import socket


def shout(connection: socket.socket) -> None:
    with connection:
        while text := connection.recv(4096):  # parks this fiber; the others go on
            connection.sendall(text.upper())


def main() -> None:
    here, there = socket.socketpair()
    greenio.spawn(shout, there)
    with here:
        for word in (b"hello", b"fibers"):
            here.sendall(word)
            print(here.recv(4096).decode())


if __name__ == "__main__":
    greenio.run(main)
