"""Every wait of a socket, given up at random: by cancellation, by either kind of timeout, by the socket's end. Under a seed.

Nothing may be lost, doubled or changed: a call that was given up has not happened, or has said how far it had got. How many calls
there are comes from GREENIO_STRESS_OPERATIONS; the default is enough to meet each case some hundred times.
"""

import concurrent.futures
import contextlib
import errno
import functools
import io
import os
import random
import socket as standard
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sockets import LOCALHOST, connected

import greenio
from greenio import socket, spawn, yield_now

OPERATIONS = int(os.environ.get("GREENIO_STRESS_OPERATIONS", "100000"))
ENDS = (errno.EBADF, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ECONNREFUSED)
PERIOD = 65521  # bytes; a prime, so that no buffer's size divides it
PATTERN = random.Random(1).randbytes(PERIOD) * 5


def pattern(position: int, size: int) -> bytes:
    """What stands at *position* of every stream."""
    start = position % PERIOD
    return PATTERN[start : start + size]


def attempt(call: Callable[[], Any], sock: Any, chance: random.Random) -> Any:
    """call() by a fiber that may be given up meanwhile: (what it returned, None) or (None, what it raised)."""
    way = chance.randrange(5)
    if way == 0:
        try:
            return call(), None
        except TimeoutError as error:  # another fiber has set one on a socket that both use
            return None, error
    if way == 1:
        sock.settimeout(chance.choice((1e-6, 1e-5, 1e-4)))
        try:
            return call(), None
        except TimeoutError as error:
            return None, error
        finally:
            with contextlib.suppress(OSError):
                sock.settimeout(None)
    if way == 2:
        try:
            with greenio.timeout(chance.choice((0, 1e-5, 1e-4))):
                return call(), None
        except TimeoutError as error:
            # Of the scope; what the call was ended by, and says how far it got, is behind it.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, greenio.Cancelled):
                cause = cause.__cause__ or cause.__context__
            return None, cause or error
    fiber = spawn(call)
    for _ in range(chance.randrange(4)):
        yield_now()
    if way == 3:
        fiber.cancel()
    try:
        return fiber.result(), None
    except concurrent.futures.CancelledError as error:
        return None, error.__cause__
    except TimeoutError as error:
        return None, error


# --- streams ---------------------------------------------------------------------------------------------------------


def write_stream(sock: Any, chance: random.Random, count: int) -> int:
    """Send the pattern by *count* calls, whole or not; returns how many bytes have gone."""
    sent = 0
    with tempfile.TemporaryFile() as file:
        file.write(PATTERN)
        file.flush()
        for _ in range(count):
            size = int(2 ** chance.uniform(0, 17.5))
            data = pattern(sent, size)
            way = chance.randrange(6)
            call: Callable[[], Any] = [
                lambda data=data: sock.send(data),
                lambda data=data: sock.sendall(data),
                lambda data=data: sock.sendmsg([data[:7], data[7:]]),
                lambda start=sent % PERIOD, data=data: sock.sendfile(file, start, len(data)),
                lambda data=data: sock.sendfile(io.BytesIO(data)),
                lambda data=data: sock.sendall(memoryview(data)),
            ][way]
            found, error = attempt(call, sock, chance)
            if error is not None:
                sent += getattr(error, "bytes_sent", 0)
            else:
                sent += len(data) if found is None else found
    return sent


def read_stream(sock: Any, chance: random.Random) -> int:
    """Receive to the end of the stream and compare; returns how many bytes came."""
    received = 0
    room = bytearray(1 << 18)
    while True:
        size = int(2 ** chance.uniform(0, 17.5))
        way = chance.randrange(7)
        view = memoryview(room)[:size]
        call: Callable[[], Any] = [
            lambda size=size: sock.recv(size),
            lambda view=view: bytes(view[: sock.recv_into(view)]),
            lambda size=size: sock.recvfrom(size)[0],
            lambda view=view: bytes(view[: sock.recvfrom_into(view)[0]]),
            lambda size=size: sock.recvmsg(size, 64)[0],
            lambda view=view: bytes(view[: sock.recvmsg_into([view[:5], view[5:]])[0]]),
            lambda size=size: sock.recv(size, socket.MSG_WAITALL),
        ][way]
        data, error = attempt(call, sock, chance)
        if error is not None:
            data = getattr(error, "received", b"")
        elif not data:
            return received
        assert data == pattern(received, len(data)), f"other bytes after {received}"
        received += len(data)


def finish(sock: Any, chance: random.Random, count: int) -> int:
    with sock:
        return write_stream(sock, chance, count)


def receive(sock: Any, chance: random.Random) -> int:
    with sock:
        return read_stream(sock, chance)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["ipv4", "pair"])
def test_streams_given_up_at_random(kind: str, threads: int) -> None:
    chance = random.Random(f"{kind} {threads}")
    writers = 8
    count = OPERATIONS // 8 // writers

    def main() -> None:
        with contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(connected(kind)) for _ in range(writers)]
            seeds = [(random.Random(chance.random()), random.Random(chance.random())) for _ in pairs]
            write = functools.partial(write_all, pairs, seeds)
            if threads == 1:
                writing = spawn(write)
                received = read_all(pairs, seeds)
                sent = writing.result()
            else:
                told: list[list[int]] = []
                thread = threading.Thread(target=lambda: told.append(greenio.run(write)))
                thread.start()
                received = read_all(pairs, seeds)
                thread.join()
                sent = told[0]
            assert received == sent

    def write_all(pairs: Any, seeds: Any) -> list[int]:
        jobs = [spawn(finish, pair[0], seed[0], count) for pair, seed in zip(pairs, seeds, strict=True)]
        return [job.result() for job in jobs]

    def read_all(pairs: Any, seeds: Any) -> list[int]:
        jobs = [spawn(receive, pair[1], seed[1]) for pair, seed in zip(pairs, seeds, strict=True)]
        return [job.result() for job in jobs]

    greenio.run(main)


# --- datagrams -------------------------------------------------------------------------------------------------------


def write_datagrams(sock: Any, address: Any, chance: random.Random, count: int) -> int:
    number = 0
    for _ in range(count):
        data = b"%d:" % number + pattern(number, chance.randrange(2000))
        call: Callable[[], Any] = [
            lambda data=data: sock.send(data) if address is None else sock.sendto(data, address),
            lambda data=data: sock.sendmsg([data[:1], data[1:]], [], 0, address),
        ][chance.randrange(2)]
        _, error = attempt(call, sock, chance)
        number += error is None
    ends = b"end %d" % number
    (sock.send if address is None else functools.partial(sock.sendto))(
        *((ends,) if address is None else (ends, address))
    )
    return number


def read_datagrams(sock: Any, chance: random.Random) -> int:
    number = 0
    while True:
        call: Callable[[], Any] = [
            lambda: sock.recv(3000),
            lambda: sock.recvfrom(3000)[0],
            lambda: sock.recvmsg(3000, 100)[0],
        ][chance.randrange(3)]
        data, error = attempt(call, sock, chance)
        if error is not None:
            continue
        if data.startswith(b"end "):
            assert data == b"end %d" % number
            return number
        head, _, rest = data.partition(b":")
        assert int(head) == number, "a datagram is lost or doubled"
        assert rest == pattern(number, len(rest))
        number += 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["connected", "named", "two schedulers"])
def test_unix_datagrams_given_up_at_random(kind: str) -> None:
    chance = random.Random(kind)
    channels = 4
    count = OPERATIONS // 8 // channels

    def main() -> None:
        with contextlib.ExitStack() as stack:
            ends = []
            for index in range(channels):
                if kind == "connected":
                    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                    address = None
                else:
                    left = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    right = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    address = b"\0greenio-stress-%d-%d" % (os.getpid(), index)
                    right.bind(address)
                stack.enter_context(left)
                stack.enter_context(right)
                ends.append((left, address, right, random.Random(chance.random()), random.Random(chance.random())))

            def write() -> list[int]:
                jobs = [spawn(write_datagrams, left, address, seed, count) for left, address, _, seed, _ in ends]
                return [job.result() for job in jobs]

            told: list[list[int]] = []
            if kind == "two schedulers":
                thread = threading.Thread(target=lambda: told.append(greenio.run(write)))
                thread.start()
                stack.callback(thread.join)
            else:
                writing = spawn(lambda: told.append(write()))
                stack.callback(writing.result)
            readers = [spawn(read_datagrams, right, seed) for _, _, right, _, seed in ends]
            received = [job.result() for job in readers]
        assert received == told[0]
        assert sum(received) > 0

    greenio.run(main)


# --- connections, and the end of sockets -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ipv4", "unix"])
def test_connections_given_up_at_random(kind: str) -> None:
    chance = random.Random(kind)
    served = [0]

    def listen() -> Any:
        if kind == "ipv4":
            return socket.create_server((LOCALHOST, 0), backlog=20)
        made = socket.socket(socket.AF_UNIX)
        made.bind(b"\0greenio-stress-accept-%d" % os.getpid())
        made.listen(3)
        return made

    def serve(listener: Any, chance: random.Random) -> None:
        while True:
            found, error = attempt(listener.accept, listener, chance)
            if error is None:
                with found[0] as sock, contextlib.suppress(ConnectionError):
                    if sock.recv(10) == b"hello":
                        sock.sendall(b"welcome")

    def connect(address: Any, chance: random.Random, count: int) -> None:
        for _ in range(count):
            with socket.socket(socket.AF_INET if kind == "ipv4" else socket.AF_UNIX) as sock:
                _, error = attempt(lambda sock=sock: sock.connect(address), sock, chance)
                if error is None:
                    sock.sendall(b"hello")
                    assert sock.recv(10) == b"welcome"
                    served[0] += 1

    def main() -> None:
        with listen() as listener:
            servers = [spawn(serve, listener, random.Random(chance.random())) for _ in range(3)]
            clients = [
                spawn(connect, listener.getsockname(), random.Random(chance.random()), OPERATIONS // 16 // 8)
                for _ in range(8)
            ]
            for client in clients:
                client.result()
            for server in servers:
                assert not server.done(), server.exception()
                server.cancel()
                server.join()

    greenio.run(main)
    assert served[0] > OPERATIONS // 16 // 4


@contextlib.contextmanager
def any_pair(chance: random.Random) -> Iterator[tuple[Any, Any]]:
    if chance.random() < 0.3:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with left, right:
            yield left, right
    else:
        with connected(chance.choice(("ipv4", "pair"))) as pair:
            yield pair


@pytest.mark.slow
@pytest.mark.parametrize("who", ["a fiber", "an OS thread"])
def test_sockets_closed_under_their_waiters(who: str) -> None:
    # Descriptors are used again at once: whoever is woken must not touch the new one.
    chance = random.Random(who)
    rounds = OPERATIONS // 8 // 20

    def call(sock: Any, way: int) -> str:
        try:
            [
                lambda: sock.recv(10),
                lambda: sock.recv_into(bytearray(10)),
                lambda: sock.recvfrom(10),
                lambda: sock.recvmsg(10, 10),
                lambda: sock.recvmsg_into([bytearray(10)]),
                lambda: sock.sendall(bytes(5_000_000 if sock.type == standard.SOCK_STREAM else 50_000)),
                lambda: sock.send(bytes(50_000)),
                lambda: sock.sendmsg([bytes(50_000)]),
                lambda: sock.recv(10, socket.MSG_WAITALL),
            ][way]()
        except OSError as error:
            if error.errno not in ENDS:
                raise
            return "ended"
        return "done"

    def main() -> None:
        for _ in range(rounds):
            with any_pair(chance) as (left, right):
                jobs = [spawn(call, sock, chance.randrange(9)) for sock in (left, right) for _ in range(5)]
                for _ in range(chance.randrange(5)):
                    yield_now()
                for job in jobs[: chance.randrange(3)]:
                    job.cancel()
                one, other = chance.sample((left, right), 2)
                if who == "a fiber":
                    one.close()
                else:
                    thread = threading.Thread(target=one.close)
                    thread.start()
                # The number goes to somebody else while the waiters have not run yet.
                with socket.socket() as fresh:
                    assert fresh.fileno() >= 0
                    yield_now()
                    other.close()
                    if who != "a fiber":
                        thread.join()
                    for job in jobs:
                        job.join(30)

    greenio.run(main)
