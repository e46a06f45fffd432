"""Echo server: a trio task for each connection."""

import trio

from ._server import BACKLOG, HOST, READ_BYTES, announce


async def serve(stream: trio.SocketStream) -> None:
    # trio's streams set TCP_NODELAY themselves.
    while data := await stream.receive_some(READ_BYTES):
        await stream.send_all(data)


async def main() -> None:
    listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=BACKLOG)
    announce(listeners[0].socket.getsockname())
    await trio.serve_listeners(serve, listeners)


if __name__ == "__main__":
    trio.run(main)
