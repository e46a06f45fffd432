"""An echo server, one fiber a connection, that ends as a service should: on SIGTERM or Ctrl-C it accepts no more,
lets open connections finish for a grace period (a second Ctrl-C cuts it short), then cancels the rest."""

import argparse
import errno
import signal
import subprocess
import sys
from pathlib import Path

import greenio
from greenio import socket


def echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except ConnectionError:
            pass  # the peer went away


def accept_all(listener: socket.socket, handlers: set[greenio.Fiber]) -> None:
    while True:
        try:
            connection, (host, port, *_) = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                raise
            greenio.sleep(0.05)  # out of descriptors: connections wait in the kernel until some are closed
            continue
        handler = greenio.spawn(echo, connection, name=f"echo {host}:{port}")
        handlers.add(handler)
        handler.add_done_callback(handlers.discard)


def drain(handlers: set[greenio.Fiber], grace: float) -> None:
    waiting = list(handlers)
    deadline = greenio.current_time() + grace
    try:
        print(f"stopping: {len(waiting)} connections open, {grace:g} s for them", flush=True)
        for handler in waiting:
            handler.join(max(0.0, deadline - greenio.current_time()))
    except (TimeoutError, KeyboardInterrupt):
        for handler in waiting:
            handler.cancel("the server stops")
    for handler in waiting:
        handler.join()
    cancelled = sum(handler.cancelled() for handler in waiting)
    print(f"stopped: {len(waiting) - cancelled} connections finished, {cancelled} cancelled", flush=True)


def selftest(port: int) -> int:
    """Clients in a process of their own, then SIGTERM to ourselves."""
    client = subprocess.Popen([sys.executable, Path(__file__).with_name("echo_client.py"), f"--port={port}"])
    while client.poll() is None:
        greenio.sleep(0.02)
    signal.raise_signal(signal.SIGTERM)
    return client.returncode


def main(arguments: argparse.Namespace) -> int:
    handlers: set[greenio.Fiber] = set()
    with socket.create_server((arguments.host, arguments.port), backlog=1024) as listener:
        host, port = listener.getsockname()[:2]
        print(f"listening on {host}:{port}", flush=True)
        acceptor = greenio.spawn(accept_all, listener, handlers, name="accept")

        def stop(number: int, frame: object) -> None:
            acceptor.cancel(signal.Signals(number).name)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        tester = greenio.spawn(selftest, port, name="selftest") if arguments.selftest else None
        acceptor.join()
        if not acceptor.cancelled():
            acceptor.result()  # raises what ended it
    drain(handlers, arguments.grace)
    return tester.result() if tester is not None else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7007, help="0 takes a free one (default: 7007)")
    parser.add_argument("--grace", type=float, default=5.0, metavar="SECONDS", help="for open connections (default: 5)")
    parser.add_argument("--selftest", action="store_true", help="serve clients of our own on a free port, then stop")
    options = parser.parse_args()
    if options.selftest:
        options.port = 0
    sys.exit(greenio.run(main, options))
