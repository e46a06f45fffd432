"""HTTP servers as their users write them, `web_server.py MODE http|flask`: /quick and /slow answer "text", /slow after 0.2 s."""

import sys

if sys.argv[1] == "fibers":
    import greenio.monkey

    greenio.monkey.patch_all()

import http.server
import logging
import resource
import time
from typing import Any

BODY = b"text"
WAIT = 0.2
BACKLOG = 4096  # else 5 and 128: then what is measured is the kernel's pause of 1 s before it sends a handshake again


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(WAIT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *arguments: Any) -> None:
        pass


def flask_server() -> Any:
    import flask
    import werkzeug.serving

    app = flask.Flask(__name__)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    def quick() -> bytes:
        return BODY

    def slow() -> bytes:
        time.sleep(WAIT)
        return BODY

    app.add_url_rule("/quick", view_func=quick)
    app.add_url_rule("/slow", view_func=slow)

    class KeepsAlive(werkzeug.serving.WSGIRequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"

    return werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=KeepsAlive)


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = flask_server() if sys.argv[2] == "flask" else http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket.listen(BACKLOG)
    print(server.server_address[1], flush=True)
    server.serve_forever()
