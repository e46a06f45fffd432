"""Echo servers on asyncio: `protocol`, `buffered protocol` or `streams`; after it `uvloop` for its event loop, `tls`.

Both event loops set TCP_NODELAY themselves.  What a protocol gets at a time is the event loop's
choice (256 KiB at most in both); streams and the buffered protocol read READ_BYTES.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import cast

from ._server import BACKLOG, HOST, READ_BYTES, announce, tls_context


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by isinstance

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = memoryview(bytearray(READ_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(style: str) -> None:
    context = tls_context() if "tls" in sys.argv else None
    if style == "streams":
        server = await asyncio.start_server(serve, HOST, 0, backlog=BACKLOG, ssl=context)
    else:
        loop = asyncio.get_running_loop()
        protocol = Echo if style == "protocol" else BufferedEcho
        server = await loop.create_server(protocol, HOST, 0, backlog=BACKLOG, ssl=context)
    announce(server.sockets[0].getsockname())
    await server.serve_forever()


if __name__ == "__main__":
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if "uvloop" in sys.argv:
        import uvloop

        new_event_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
