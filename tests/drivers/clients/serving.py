"""What the clients of servers in the same process share: a server in a thread, asked by 100 http.clients."""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from typing import Any

from run import in_parallel


@contextlib.contextmanager
def operations_on(server: Any) -> Iterator[Callable[[int], None]]:
    """*server* is a socketserver that answers /slow/TEXT with TEXT."""
    host, port = server.server_address[:2]
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    connections = [http.client.HTTPConnection(host, port, timeout=20) for _ in range(100)]

    def operation(number: int) -> None:
        connections[number].request("GET", f"/slow/{number}")
        with connections[number].getresponse() as answer:
            assert answer.status == 200 and answer.read() == str(number).encode()

    try:
        in_parallel(lambda number: connections[number].connect())
        yield operation
    finally:
        for connection in connections:
            connection.close()
        server.shutdown()
        serving.join()
        server.server_close()
