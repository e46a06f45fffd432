"""http.server's ThreadingHTTPServer, with http.client."""

import contextlib
import http.server
import time
from collections.abc import Callable, Iterator
from typing import Any

from serving import operations_on


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(0.2)
        body = self.path.rpartition("/")[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 100


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    with operations_on(Server(("127.0.0.1", 0), Handler)) as operation:
        yield operation
