"""Echo server: greenio's streams; over TLS with `tls` as the first argument."""

import sys

import greenio

from ._server import BACKLOG, HOST, READ_BYTES, announce, tls_context


def handle(stream: greenio.Stream) -> None:
    while data := stream.read(READ_BYTES):
        stream.write(data)


def main() -> None:
    context = tls_context() if sys.argv[1:] == ["tls"] else None
    with greenio.serve(handle, HOST, 0, backlog=BACKLOG, tls=context) as server:
        announce((HOST, server.port))
        server.wait()


if __name__ == "__main__":
    greenio.run(main)
