"""What the tests of sockets share: a run around a test, connections, a full buffer, outcomes to compare."""

import contextlib
import fcntl
import functools
import os
import select
import socket as standard
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import greenio
from greenio import socket

LOCALHOST = "127.0.0.1"
FAMILIES = ["ipv4", "ipv6", "unix"]


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords))

    return test


@contextlib.contextmanager
def listening(kind: str, tmp_path: Path, backlog: int = 100) -> Iterator[Any]:
    if kind == "ipv4":
        made = socket.create_server((LOCALHOST, 0), backlog=backlog)
    elif kind == "ipv6":
        made = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=backlog)
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(tmp_path / "listener"))
        made.listen(backlog)
    with made:
        yield made


@contextlib.contextmanager
def connected(kind: str = "ipv4", tmp_path: Path = Path("/nowhere")) -> Iterator[tuple[Any, Any]]:
    """(client, server) of one connection; "pair" is socketpair's."""
    if kind == "pair":
        left, right = socket.socketpair()
    else:
        with listening(kind, tmp_path) as listener:
            left = socket.socket(listener.family)
            left.connect(listener.getsockname())
            right, _ = listener.accept()
    with left, right:
        yield left, right


@contextlib.contextmanager
def never_accepting() -> Iterator[Any]:
    """The address of a TCP listener whose backlog is full: to connect there takes for ever."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(standard.create_server((LOCALHOST, 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(standard.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextlib.contextmanager
def refusing() -> Iterator[Any]:
    """An address at which nobody listens."""
    with standard.socket() as bound:
        bound.bind((LOCALHOST, 0))
        yield bound.getsockname()


def is_nonblocking(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


def fill(sock: Any) -> int:
    """Send until there is no room; returns how many bytes."""
    before = sock.gettimeout()
    sock.settimeout(0)
    sent = 0
    room = select.poll()
    room.register(sock, select.POLLOUT)
    last = -1
    while sent != last:
        last = sent
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += sock.send(b"f" * 65536)
        room.poll(5)  # what is still on its way to the other side's buffer makes room once more when it arrives
    sock.settimeout(before)
    return sent


def receive_exactly(sock: Any, size: int) -> bytes:
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_all(sock: Any) -> bytes:
    return receive_exactly(sock, 1 << 60)


def outcome(fn: Callable[[], Any]) -> Any:
    """What fn() returns, or its exception in a form to compare."""
    try:
        return fn()
    except Exception as error:
        return (type(error), *(error.args if isinstance(error, OSError) else ()))
