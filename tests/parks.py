"""Every kind of blocking call that the patch makes park, in one table; and a program that shows that others run meanwhile.

    python parks.py order [NAME…]       each waits in a thread until a ticker beside it has ticked: prints a line for each
    python parks.py gaps SECONDS        each waits for so long beside a ticker of 1 ms: prints the ticker's longest pause, as JSON

A kind is a generator that makes what it needs and yields two functions: one that blocks, and one that ends that from another
thread (None: it ends by itself, after SHORT seconds at least). What the first one returns is sent back to be checked.
"""

# ruff: noqa: E402 - the patch comes first
import os

STDIN, FEED = os.pipe()
os.dup2(STDIN, 0)

import greenio.monkey

greenio.monkey.patch_all()

import asyncio
import concurrent.futures
import contextlib
import ctypes
import fcntl
import http.client
import io
import json
import multiprocessing
import queue
import select
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

TICK = 0.001
TICKS = 5  # that a kind is made to wait for
SHORT = 0.1  # seconds
PATIENCE = 10.0

Pair = tuple[Callable[[], Any], Callable[[], Any] | None]
Kind = Callable[[], Generator[Pair, Any, None]]
KINDS: dict[str, Kind] = {}
folder = tempfile.mkdtemp(prefix="greenio-")  # taken away at the end


def kind(name: str) -> Callable[[Kind], Kind]:
    def keep(fn: Kind) -> Kind:
        KINDS[name] = fn
        return fn

    return keep


# --- time, threading, queue, concurrent.futures ------------------------------------------------------------------------


@kind("time.sleep")
def _() -> Generator[Pair, Any, None]:
    yield lambda: time.sleep(SHORT), None


@kind("threading.Lock.acquire")
def _() -> Generator[Pair, Any, None]:
    lock = threading.Lock()
    lock.acquire()
    assert (yield lock.acquire, lock.release) is True


@kind("threading.RLock.acquire")
def _() -> Generator[Pair, Any, None]:
    lock = threading.RLock()
    ends = threading.Event()
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            ends.wait()

    threading.Thread(target=hold).start()
    held.wait()
    assert (yield lock.acquire, ends.set) is True


@kind("threading.Event.wait")
def _() -> Generator[Pair, Any, None]:
    event = threading.Event()
    assert (yield event.wait, event.set) is True


@kind("threading.Event.wait, timeout")
def _() -> Generator[Pair, Any, None]:
    assert (yield lambda: threading.Event().wait(SHORT), None) is False


@kind("threading.Condition.wait")
def _() -> Generator[Pair, Any, None]:
    condition = threading.Condition()

    def wait() -> bool:
        with condition:
            return condition.wait()

    def notify() -> None:
        with condition:
            condition.notify()

    assert (yield wait, notify) is True


@kind("threading.Semaphore.acquire")
def _() -> Generator[Pair, Any, None]:
    semaphore = threading.Semaphore(0)
    assert (yield semaphore.acquire, semaphore.release) is True


@kind("threading.Barrier.wait")
def _() -> Generator[Pair, Any, None]:
    barrier = threading.Barrier(2)
    yield barrier.wait, barrier.wait


@kind("threading.Thread.join")
def _() -> Generator[Pair, Any, None]:
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    yield thread.join, event.set


@kind("queue.Queue.get")
def _() -> Generator[Pair, Any, None]:
    items: queue.Queue[int] = queue.Queue()
    assert (yield items.get, lambda: items.put(1)) == 1


@kind("queue.Queue.put")
def _() -> Generator[Pair, Any, None]:
    items: queue.Queue[int] = queue.Queue(1)
    items.put(0)
    yield lambda: items.put(1), items.get
    assert items.get() == 1


@kind("queue.Queue.join")
def _() -> Generator[Pair, Any, None]:
    items: queue.Queue[int] = queue.Queue()
    items.put(0)
    yield items.join, items.task_done


@kind("queue.SimpleQueue.get")
def _() -> Generator[Pair, Any, None]:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    assert (yield items.get, lambda: items.put(1)) == 1


@kind("queue.PriorityQueue.get")
def _() -> Generator[Pair, Any, None]:
    items: queue.PriorityQueue[int] = queue.PriorityQueue()
    assert (yield items.get, lambda: items.put(1)) == 1


@kind("concurrent.futures.Future.result")
def _() -> Generator[Pair, Any, None]:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    assert (yield future.result, lambda: future.set_result(1)) == 1


@kind("concurrent.futures.wait")
def _() -> Generator[Pair, Any, None]:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    yield lambda: concurrent.futures.wait([future]), lambda: future.set_result(1)


@kind("ThreadPoolExecutor.shutdown")
def _() -> Generator[Pair, Any, None]:
    event = threading.Event()
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.submit(event.wait)
    yield executor.shutdown, event.set


# --- socket, ssl, select, selectors -------------------------------------------------------------------------------------


@contextlib.contextmanager
def pair() -> Generator[tuple[socket.socket, socket.socket], None, None]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@kind("socket.recv")
def _() -> Generator[Pair, Any, None]:
    with pair() as (left, right):
        assert (yield lambda: right.recv(1), lambda: left.send(b"x")) == b"x"


@kind("socket.recv, timeout")
def _() -> Generator[Pair, Any, None]:
    def wait() -> str:
        try:
            right.recv(1)
        except TimeoutError:
            return "timed out"
        return ""

    with pair() as (_, right):
        right.settimeout(SHORT)
        assert (yield wait, None) == "timed out"


@kind("socket.recv_into")
def _() -> Generator[Pair, Any, None]:
    with pair() as (left, right):
        assert (yield lambda: right.recv_into(bytearray(1)), lambda: left.send(b"x")) == 1


@kind("socket.recvmsg")
def _() -> Generator[Pair, Any, None]:
    with pair() as (left, right):
        assert (yield lambda: right.recvmsg(1)[0], lambda: left.send(b"x")) == b"x"


@kind("socket.recvfrom")
def _() -> Generator[Pair, Any, None]:
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        address = receiver.getsockname()
        assert (yield lambda: receiver.recvfrom(9)[0], lambda: sender.sendto(b"x", address)) == b"x"


@kind("socket.sendall")
def _() -> Generator[Pair, Any, None]:
    def read() -> None:
        left = len(data)
        while left:
            left -= len(there.recv(1 << 20))

    data = bytes(8 << 20)
    with pair() as (here, there):
        assert (yield lambda: here.sendall(data), read) is None


@kind("socket.accept")
def _() -> Generator[Pair, Any, None]:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        accepted = yield listener.accept, lambda: client.connect(listener.getsockname())
        accepted[0].close()


@kind("socket.connect")
def _() -> Generator[Pair, Any, None]:
    path = os.path.join(folder, "listener")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        client, first = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        first.connect(path)
        yield lambda: client.connect(path), lambda: stack.enter_context(listener.accept()[0])
        stack.enter_context(listener.accept()[0])


@kind("socket.makefile().readline")
def _() -> Generator[Pair, Any, None]:
    with pair() as (left, right), right.makefile("rb") as file:
        assert (yield file.readline, lambda: left.send(b"line\n")) == b"line\n"


@kind("socket.sendfile")
def _() -> Generator[Pair, Any, None]:
    def read() -> None:
        left = 8 << 20
        while left:
            left -= len(there.recv(1 << 20))

    with pair() as (here, there), tempfile.TemporaryFile() as file:
        file.truncate(8 << 20)
        assert (yield lambda: here.sendfile(file), read) == 8 << 20


@kind("ssl handshake")
def _() -> Generator[Pair, Any, None]:
    import ssl

    context = ssl.create_default_context()
    with pair() as (left, right):

        def shake() -> str:
            try:
                context.wrap_socket(right, server_hostname="localhost").close()
            except OSError as error:
                return type(error).__name__
            return ""

        assert (yield shake, lambda: left.sendall(b"not a handshake\r\n")) == "SSLError"


@kind("select.select")
def _() -> Generator[Pair, Any, None]:
    with pair() as (left, right):
        assert (yield lambda: select.select([right], [], [])[0], lambda: left.send(b"x")) == [right]


@kind("select.poll")
def _() -> Generator[Pair, Any, None]:
    with pair() as (left, right):
        poll = select.poll()
        poll.register(right, select.POLLIN)
        assert (yield poll.poll, lambda: left.send(b"x")) == [(right.fileno(), select.POLLIN)]


@kind("select.epoll")
def _() -> Generator[Pair, Any, None]:
    with pair() as (left, right), select.epoll() as epoll:
        epoll.register(right, select.EPOLLIN)
        assert (yield epoll.poll, lambda: left.send(b"x")) == [(right.fileno(), select.EPOLLIN)]


for _class in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):

    @kind(f"selectors.{_class.__name__}")
    def _(selector_class: Any = _class) -> Generator[Pair, Any, None]:
        with pair() as (left, right), selector_class() as selector:
            selector.register(right, selectors.EVENT_READ)
            found = yield selector.select, lambda: left.send(b"x")
            assert [key.fileobj for key, _ in found] == [right]


# --- os, io, subprocess, signal -----------------------------------------------------------------------------------------


@kind("os.read")
def _() -> Generator[Pair, Any, None]:
    read_end, write_end = os.pipe()
    assert (yield lambda: os.read(read_end, 1), lambda: os.write(write_end, b"x")) == b"x"
    os.close(read_end)
    os.close(write_end)


@kind("os.write")
def _() -> Generator[Pair, Any, None]:
    def drain() -> None:
        left = len(data)
        while left:
            left -= len(os.read(read_end, 1 << 20))

    data = bytes(1 << 20)
    read_end, write_end = os.pipe()
    assert (yield lambda: os.write(write_end, data), drain) == len(data)
    os.close(read_end)
    os.close(write_end)


@kind("os.waitpid")
def _() -> Generator[Pair, Any, None]:
    child = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    assert (yield lambda: os.waitpid(child, 0)[0], lambda: os.kill(child, signal.SIGTERM)) == child


@kind("os.wait")
def _() -> Generator[Pair, Any, None]:
    child = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    assert (yield lambda: os.wait()[0], lambda: os.kill(child, signal.SIGTERM)) == child


@kind("os.wait4")
def _() -> Generator[Pair, Any, None]:
    child = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    assert (yield lambda: os.wait4(child, 0)[0], lambda: os.kill(child, signal.SIGTERM)) == child


@kind("os.system")
def _() -> Generator[Pair, Any, None]:
    assert (yield lambda: os.system(f"sleep {SHORT}; exit 3"), None) == 3 << 8


@kind("os.popen().read")
def _() -> Generator[Pair, Any, None]:
    with os.popen(f"sleep {SHORT}; echo text") as file:
        assert (yield file.read, None) == "text\n"


@kind("os.sendfile")
def _() -> Generator[Pair, Any, None]:
    def send() -> int:
        sent = 0
        while sent < 8 << 20:
            sent += os.sendfile(here.fileno(), file.fileno(), sent, (8 << 20) - sent)
        return sent

    def read() -> None:
        left = 8 << 20
        while left:
            left -= len(there.recv(1 << 20))

    with pair() as (here, there), tempfile.TemporaryFile() as file:
        file.truncate(8 << 20)
        assert (yield send, read) == 8 << 20


@kind("subprocess.run")
def _() -> Generator[Pair, Any, None]:
    command = ["sh", "-c", f"sleep {SHORT}; echo text"]
    done = yield lambda: subprocess.run(command, capture_output=True, check=True), None
    assert done.stdout == b"text\n"


@kind("subprocess.Popen.wait")
def _() -> Generator[Pair, Any, None]:
    child = subprocess.Popen(["sleep", "100"])
    assert (yield child.wait, child.terminate) == -signal.SIGTERM


@kind("subprocess.Popen.communicate")
def _() -> Generator[Pair, Any, None]:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other = subprocess.Popen(["sleep", "100"], stdout=child.stdin)  # keeps cat's input open

    def end() -> None:
        other.terminate()
        other.wait()

    assert (yield lambda: child.communicate(b"text")[0], end) == b"text"


@kind("subprocess.Popen.stdout.readline")
def _() -> Generator[Pair, Any, None]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin is not None and child.stdout is not None
        assert (yield child.stdout.readline, lambda: child.stdin.write(b"line\n")) == b"line\n"
        child.stdin.close()


@kind("open() of a pipe, read")
def _() -> Generator[Pair, Any, None]:
    read_end, write_end = os.pipe()
    with open(read_end, encoding="utf-8") as file:
        assert (yield file.read, lambda: (os.write(write_end, b"text"), os.close(write_end))) == "text"


@kind("open() of a FIFO")
def _() -> Generator[Pair, Any, None]:
    path = os.path.join(folder, "fifo")
    os.mkfifo(path)
    opened: list[Any] = []
    file = yield lambda: open(path, "rb"), lambda: opened.append(open(path, "wb"))  # noqa: SIM115
    file.close()
    opened[0].close()


@kind("input()")
def _() -> Generator[Pair, Any, None]:
    assert (yield input, lambda: os.write(FEED, b"line\n")) == "line"


@kind("fcntl.flock")
def _() -> Generator[Pair, Any, None]:
    path = os.path.join(folder, "locked")
    with open(path, "w") as holder, open(path, "w") as other:
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(other, fcntl.LOCK_EX), lambda: fcntl.flock(holder, fcntl.LOCK_UN)


@kind("signal.sigwait")
def _() -> Generator[Pair, Any, None]:
    assert (yield lambda: signal.sigwait({signal.SIGUSR1}), lambda: os.kill(os.getpid(), signal.SIGUSR1)) == 10


@kind("signal.sigtimedwait")
def _() -> Generator[Pair, Any, None]:
    assert (yield lambda: signal.sigtimedwait({signal.SIGUSR1}, SHORT), None) is None


# --- above them ---------------------------------------------------------------------------------------------------------


@kind("multiprocessing.Process.join")
def _() -> Generator[Pair, Any, None]:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
    process.start()
    yield process.join, process.terminate
    process.close()


@kind("multiprocessing.Connection.recv")
def _() -> Generator[Pair, Any, None]:
    left, right = multiprocessing.Pipe()
    with left, right:
        assert (yield right.recv, lambda: left.send([1])) == [1]


@kind("multiprocessing.Queue.get")
def _() -> Generator[Pair, Any, None]:
    items = multiprocessing.Queue()
    assert (yield items.get, lambda: items.put(1)) == 1
    items.close()
    items.join_thread()


@kind("multiprocessing.Lock.acquire")
def _() -> Generator[Pair, Any, None]:
    lock = multiprocessing.Lock()
    lock.acquire()
    assert (yield lock.acquire, lock.release) is True


@kind("asyncio.run")
def _() -> Generator[Pair, Any, None]:
    yield lambda: asyncio.run(asyncio.sleep(SHORT)), None


@kind("sqlite3, locked")
def _() -> Generator[Pair, Any, None]:
    path = os.path.join(folder, "database")
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=PATIENCE)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN EXCLUSIVE")
    yield lambda: other.execute("INSERT INTO t VALUES (1)"), lambda: holder.execute("COMMIT")
    holder.close()
    other.close()


@contextlib.contextmanager
def web_server() -> Generator[tuple[socket.socket, str, int], None, None]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, *listener.getsockname()


def answer(listener: socket.socket) -> None:
    connection = listener.accept()[0]
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ntext")


@kind("http.client")
def _() -> Generator[Pair, Any, None]:
    with web_server() as (listener, host, port):

        def ask() -> bytes:
            connection = http.client.HTTPConnection(host, port)
            connection.request("GET", "/")
            with contextlib.closing(connection), connection.getresponse() as response:
                return response.read()

        assert (yield ask, lambda: answer(listener)) == b"text"


@kind("urllib.request.urlopen")
def _() -> Generator[Pair, Any, None]:
    with web_server() as (listener, host, port):

        def ask() -> bytes:
            with urllib.request.urlopen(f"http://{host}:{port}/") as response:
                content: bytes = response.read()
                return content

        assert (yield ask, lambda: answer(listener)) == b"text"


def not_parking() -> Generator[Pair, Any, None]:
    """What no patch reaches, to see that it would be seen."""
    yield lambda: ctypes.CDLL(None).usleep(int(SHORT * 1e6)), None


# --- the program --------------------------------------------------------------------------------------------------------


def wait_beside_ticker(make: Kind, ticks_wanted: int, seconds: float) -> tuple[int, float]:
    """Let one kind block in a thread, until the ticker has ticked so often and so long.

    Returns:
        (ticks while it blocked, before it was ended; the longest pause between two of them, or before the first, in seconds)
    """
    running = make()
    block, end = next(running)
    outcome: dict[str, Any] = {}

    def call() -> None:
        try:
            outcome["result"] = block()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=call)
    ended: threading.Thread | None = None
    ticks, gap = 0, 0.0
    began = last = time.monotonic()
    thread.start()
    while True:
        time.sleep(TICK)
        now = time.monotonic()
        waits = "result" not in outcome and "error" not in outcome
        if ended is None:
            gap = max(gap, now - last)
            ticks += waits
        last = now
        if not waits:
            break
        if end is not None and ended is None and ticks >= ticks_wanted and now - began >= seconds:
            ended = threading.Thread(target=end)
            ended.start()
        assert now - began < PATIENCE, "it does not end"
    thread.join()
    if ended is not None:
        ended.join()
    if "error" in outcome:
        raise outcome["error"]
    with contextlib.suppress(StopIteration):
        running.send(outcome["result"])
    assert end is None or ended is not None, "it did not wait"
    return ticks, gap


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    mode, *rest = sys.argv[1:]
    if mode == "order":
        for name in rest or KINDS:
            try:
                ticks, _ = wait_beside_ticker(KINDS.get(name, not_parking), TICKS, 0)
                print(f"{name}: {'parks' if ticks >= TICKS else f'blocks, {ticks} ticks'}", flush=True)
            except Exception as error:
                print(f"{name}: {error!r}", flush=True)
    else:
        gaps = {name: wait_beside_ticker(make, 1, float(rest[0]))[1] for name, make in KINDS.items()}
        print(json.dumps(gaps))
    for each in Path(folder).iterdir():
        each.unlink()
    os.rmdir(folder)
    assert isinstance(sys.stdout, io.TextIOBase)


if __name__ == "__main__":
    main()
