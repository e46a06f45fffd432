"""Servers in Python for the tests of clients: `python services.py NAME PORT`, under plain OS threads, without greenio.

Each has something that takes WAIT seconds before it answers.
"""

import contextlib
import http.server
import re
import socketserver
import sys
import time
import xmlrpc.server
from typing import Any

HOST = "127.0.0.1"
WAIT = 0.2
BACKLOG = 512


class HttpHandler(http.server.BaseHTTPRequestHandler):
    """/slow/TEXT answers TEXT after WAIT, /echo/TEXT at once, /status/CODE with that status, /never not; POST gives the body back."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        _, kind, text = (*self.path.split("/", 2), "")[:3]
        if kind == "slow":
            time.sleep(WAIT)
        elif kind == "never":
            time.sleep(30)
        elif kind == "cut":
            self.close_connection = True
            self.connection.close()
            return
        self.answer(int(text) if kind == "status" else 200, text.encode())

    def do_POST(self) -> None:
        self.answer(200, self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


class HttpServer(http.server.ThreadingHTTPServer):
    request_queue_size = BACKLOG

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


def serve_http(port: int) -> None:
    HttpServer((HOST, port), HttpHandler).serve_forever()


class XmlRpcServer(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    daemon_threads = True
    request_queue_size = BACKLOG


def serve_xmlrpc(port: int) -> None:
    server = XmlRpcServer((HOST, port), logRequests=False)

    def slow(number: int) -> int:
        time.sleep(WAIT)
        return number

    def refuse() -> None:
        raise ValueError("refused")

    server.register_function(slow)
    server.register_function(refuse)
    server.serve_forever()


class ImapHandler(socketserver.StreamRequestHandler):
    """As much of IMAP4rev1 as a client needs to log in, select, search and fetch; SEARCH takes WAIT."""

    disable_nagle_algorithm = True

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self) -> None:
        self.say("* OK IMAP4rev1 ready")
        for line in self.rfile:
            tag, command, *rest = line.decode().strip().split(" ", 2)
            argument = rest[0] if rest else ""
            getattr(self, f"do_{command.lower()}", self.unknown)(tag, argument)
            if command.upper() == "LOGOUT":
                return

    def unknown(self, tag: str, argument: str) -> None:
        self.say(f"{tag} BAD what?")

    def do_capability(self, tag: str, argument: str) -> None:
        self.say("* CAPABILITY IMAP4rev1")
        self.say(f"{tag} OK done")

    def do_login(self, tag: str, argument: str) -> None:
        self.say(f"{tag} OK done" if "secret" in argument else f"{tag} NO wrong password")

    def do_select(self, tag: str, argument: str) -> None:
        self.say("* 1 EXISTS")
        self.say(f"{tag} OK [READ-WRITE] done")

    def do_search(self, tag: str, argument: str) -> None:
        time.sleep(WAIT)
        found = re.search(r"\d+", argument)
        self.say(f"* SEARCH {found.group() if found else ''}")
        self.say(f"{tag} OK done")

    def do_noop(self, tag: str, argument: str) -> None:
        self.say(f"{tag} OK done")

    def do_logout(self, tag: str, argument: str) -> None:
        self.say("* BYE")
        self.say(f"{tag} OK done")


class ThreadingServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = BACKLOG


def serve_imap(port: int) -> None:
    ThreadingServer((HOST, port), ImapHandler).serve_forever()


def serve_smtp(port: int) -> None:
    import asyncio

    from aiosmtpd.smtp import SMTP

    class Handler:
        async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
            if address.startswith("nobody"):
                return "550 no such user"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            await asyncio.sleep(WAIT)
            subject = re.search(rb"Subject: (\S+)", envelope.content)
            return f"250 kept {subject.group(1).decode() if subject else ''}"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: SMTP(Handler(), hostname="localhost", loop=loop), HOST, port, backlog=BACKLOG)
        await asyncio.Event().wait()

    asyncio.run(main())


def serve_ftp(port: int) -> None:
    import logging
    import tempfile
    from pathlib import Path

    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import ThreadedFTPServer

    class Handler(FTPHandler):  # type: ignore[misc]
        permit_foreign_addresses = True

        def ftp_RETR(self, file: str) -> Any:
            time.sleep(WAIT)
            return super().ftp_RETR(file)

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(100):
            Path(folder, str(number)).write_text(f"content of {number}")
        Handler.authorizer = DummyAuthorizer()
        Handler.authorizer.add_user("greenio", "secret", folder, perm="elr")
        server = ThreadedFTPServer((HOST, port), Handler, backlog=BACKLOG)
        server.max_cons = BACKLOG
        server.serve_forever(handle_exit=False)


def serve_moto(port: int) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)

    def slowly(environ: Any, start_response: Any) -> Any:
        if "slow" in environ["PATH_INFO"] and environ["REQUEST_METHOD"] == "GET":
            time.sleep(WAIT)
        return application(environ, start_response)

    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(HOST, port, slowly, threaded=True)
    server.socket.listen(BACKLOG)
    server.serve_forever()


def serve_grpc(port: int) -> None:
    """/greenio/slow takes [NUMBER, SECONDS] and answers [NUMBER, when it began, when it ended]; a negative NUMBER is refused."""
    import concurrent.futures
    import json

    import grpc

    def slow(request: bytes, context: Any) -> bytes:
        begun = time.time()
        number, seconds = json.loads(request)
        if number < 0:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        time.sleep(seconds)
        return json.dumps([number, begun, time.time()]).encode()

    workers = concurrent.futures.ThreadPoolExecutor(BACKLOG)
    server = grpc.server(workers)
    handlers = {"slow": grpc.unary_unary_rpc_method_handler(slow)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greenio", handlers),))
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        globals()[f"serve_{sys.argv[1]}"](int(sys.argv[2]))
