"""Every public operation that can wait: it parks, is cancelled, obeys timeouts, ends with its run, and loses nothing by that.

A row of `waits` makes what the operation needs and says how another fiber lets it go on. What has no row is named in NEVER_WAIT, or
in COVERED with the row that shows it; a public name in none of the three fails the first test.
"""

import contextlib
import faulthandler
import fcntl
import functools
import importlib
import io
import os
import signal
import socket as standard
import ssl as standard_ssl
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from sockets import LOCALHOST, fill, never_accepting, receive_exactly
from waiters import until

import greenio
from greenio import _dns, from_thread, select, selectors, socket, ssl, subprocess
from greenio import os as fiber_os
from greenio.debug import thread_stats
from greenio.testing import wait_all_parked

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:ssl\..* is deprecated:DeprecationWarning"),
    # faulthandler's thread, which watches the test.
    pytest.mark.filterwarnings(r"ignore:This process .* is multi-threaded:DeprecationWarning"),
]
PATIENCE = 5.0  # seconds: far above what anything here needs
LOOKS = 3  # at a fiber that is parked, before it counts as one that stays there
FUNDAMENTAL = b"x" * 10


class Wait(NamedTuple):
    """An operation of a row.

    call: parks, until release() was called by another fiber, and then returns `result` (or what `result` says is right).
    held: what interrupts it is held back until release(), which may be called in any OS thread.
    again: after an interruption it can be called again as if nothing had been.
    """

    call: Callable[[], Any]
    release: Callable[[], Any] | None
    result: Any = None
    held: bool = False
    again: bool = True


Row = Callable[[ExitStack], Wait]
ROWS: dict[str, Row] = {}


def waits(*names: str) -> Callable[[Any], Any]:
    """The function makes the Wait of each of *names*; it is given the name, too, if it wants one."""

    def register(make: Any) -> Any:
        for name in names:
            assert name not in ROWS, name
            ROWS[name] = functools.partial(make, name=name) if "name" in make.__code__.co_varnames[:2] else make
        return make

    return register


def last(name: str) -> str:
    return name.rpartition(".")[2]


# --- fibers, time and order ------------------------------------------------------------------------------------------


@waits("greenio.sleep")
def _(stack: ExitStack) -> Wait:
    return Wait(lambda: greenio.sleep(1000), None)


@waits("greenio.sleep_until")
def _(stack: ExitStack) -> Wait:
    return Wait(lambda: greenio.sleep_until(greenio.current_time() + 1000), None)


@waits("testing.wait_all_parked", "Scheduler.wait_all_parked")
def _(stack: ExitStack, name: str) -> Wait:
    stop = []

    def go_round() -> None:
        while not stop:
            greenio.yield_now()

    greenio.spawn(go_round)
    stack.callback(stop.append, True)
    function = wait_all_parked if name.startswith("testing") else greenio.current_scheduler().wait_all_parked
    return Wait(function, lambda: stop.append(True))


@waits("Fiber.join", "Fiber.result", "Fiber.exception")
def _(stack: ExitStack, name: str) -> Wait:
    done = greenio.Event()
    awaited = greenio.spawn(done.wait)
    stack.callback(awaited.cancel)
    return Wait(getattr(awaited, last(name)), done.set, {"result": True}.get(last(name)))


@waits("greenio.wait")
def _(stack: ExitStack) -> Wait:
    done = greenio.Event()
    awaited = greenio.spawn(done.wait)
    stack.callback(awaited.cancel)
    return Wait(lambda: greenio.wait([awaited]).done, done.set, {awaited})


@waits("greenio.as_completed")
def _(stack: ExitStack) -> Wait:
    done = greenio.Event()
    awaited = greenio.spawn(done.wait)
    stack.callback(awaited.cancel)
    return Wait(lambda: list(greenio.as_completed([awaited])), done.set, [awaited])


@waits("TaskGroup.__exit__")
def _(stack: ExitStack) -> Wait:
    done = greenio.Event()

    def call() -> str:
        with greenio.TaskGroup() as group:
            group.spawn(done.wait)
        return "left"

    return Wait(call, done.set, "left")


@waits("TaskGroup.start")
def _(stack: ExitStack) -> Wait:
    begun = greenio.Event()

    def begin(*, task_status: Any) -> None:
        begun.wait()
        task_status.started("begun")

    def call() -> Any:
        with greenio.TaskGroup() as group:
            return group.start(begin)

    return Wait(call, begun.set, "begun")


@waits("Results.__next__")
def _(stack: ExitStack) -> Wait:
    done = greenio.Event()

    def call() -> Any:
        with greenio.TaskGroup() as group:
            group.spawn(done.wait)
            return list(group.results())

    return Wait(call, done.set, [True])


@waits("FiberPoolExecutor.shutdown")
def _(stack: ExitStack) -> Wait:
    done = greenio.Event()
    executor = greenio.FiberPoolExecutor(1)
    executor.submit(done.wait)
    stack.callback(executor.shutdown, cancel_futures=True)
    stack.callback(done.set)
    return Wait(executor.shutdown, done.set)


@waits("FiberPoolExecutor.map")
def _(stack: ExitStack) -> Wait:
    done = greenio.Event()
    executor = greenio.FiberPoolExecutor(1)
    stack.callback(executor.shutdown, cancel_futures=True)
    stack.callback(done.set)
    # The call that has begun goes on, as the standard's.
    return Wait(lambda: list(executor.map(lambda _: done.wait(), [0])), done.set, [True], again=False)


@waits("FiberFuture.result", "FiberFuture.exception")
def _(stack: ExitStack, name: str) -> Wait:
    done = greenio.Event()
    executor = greenio.FiberPoolExecutor(1)
    future = executor.submit(done.wait)
    stack.callback(executor.shutdown, cancel_futures=True)
    stack.callback(done.set)
    return Wait(getattr(future, last(name)), done.set, {"result": True}.get(last(name)))


# --- locks, channels, queues -----------------------------------------------------------------------------------------


@waits("Event.wait")
def _(stack: ExitStack) -> Wait:
    event = greenio.Event()
    return Wait(event.wait, event.set, True)


@waits("Lock.acquire", "Lock.__enter__", "RLock.acquire", "RLock.__enter__", "Condition.acquire", "Condition.__enter__")
def _(stack: ExitStack, name: str) -> Wait:
    lock = getattr(greenio, name.partition(".")[0])()
    let = greenio.Event()
    holder = greenio.spawn(lambda: lock.acquire() and let.wait() and lock.release())
    greenio.yield_now()
    stack.callback(holder.cancel)

    def call() -> Any:
        taken = getattr(lock, last(name))()
        lock.release()
        return taken

    return Wait(call, let.set, True)


@waits("Semaphore.acquire", "Semaphore.__enter__")
def _(stack: ExitStack, name: str) -> Wait:
    semaphore = greenio.Semaphore(0)
    return Wait(getattr(semaphore, last(name)), semaphore.release, True)


@waits("Condition.wait", "Condition.wait_for")
def _(stack: ExitStack, name: str) -> Wait:
    condition = greenio.Condition()
    come = []

    def call() -> Any:
        with condition:
            return condition.wait() if last(name) == "wait" else condition.wait_for(lambda: bool(come))

    def release() -> None:
        with condition:
            come.append(1)
            condition.notify()

    return Wait(call, release, True)


@waits("Barrier.wait")
def _(stack: ExitStack) -> Wait:
    barrier = greenio.Barrier(2)
    return Wait(barrier.wait, barrier.wait, 0, again=False)  # it is broken, as threading's


@waits("Channel.receive", "Channel.__next__")
def _(stack: ExitStack, name: str) -> Wait:
    channel: Any = greenio.Channel()
    return Wait(getattr(channel, last(name)), lambda: channel.send("item"), "item")


@waits("Channel.send")
def _(stack: ExitStack) -> Wait:
    channel: Any = greenio.Channel()

    def release() -> None:
        assert channel.receive() == "item"
        with pytest.raises(greenio.WouldBlock):
            channel.receive_nowait()

    return Wait(lambda: channel.send("item"), release)


@waits("Broadcast.send")
def _(stack: ExitStack) -> Wait:
    broadcast: Any = greenio.Broadcast(1)
    subscription = stack.enter_context(broadcast.subscribe())
    broadcast.send("first")

    def release() -> None:
        assert [subscription.receive(), subscription.receive()] == ["first", "item"]
        assert not len(subscription)

    return Wait(lambda: broadcast.send("item"), release)


@waits("Subscription.receive", "Subscription.__next__")
def _(stack: ExitStack, name: str) -> Wait:
    broadcast: Any = greenio.Broadcast(1)
    subscription = stack.enter_context(broadcast.subscribe())
    return Wait(getattr(subscription, last(name)), lambda: broadcast.send("item"), "item")


@waits("SimpleQueue.get", "Queue.get")
def _(stack: ExitStack, name: str) -> Wait:
    queue = getattr(greenio, name.partition(".")[0])()
    return Wait(queue.get, lambda: queue.put("item"), "item")


@waits("Queue.put")
def _(stack: ExitStack) -> Wait:
    queue: Any = greenio.Queue(1)
    queue.put("first")

    def release() -> None:
        assert [queue.get(), queue.get(timeout=PATIENCE)] == ["first", "item"]
        assert queue.empty()

    return Wait(lambda: queue.put("item"), release)


@waits("Queue.join")
def _(stack: ExitStack) -> Wait:
    queue: Any = greenio.Queue()
    queue.put(1)
    return Wait(queue.join, queue.task_done)


@waits("SelectModule.__call__")
def _(stack: ExitStack) -> Wait:
    channel: Any = greenio.Channel()
    event = greenio.Event()
    return Wait(lambda: greenio.select(channel, event).value, lambda: channel.send("item"), "item")


# --- descriptors and files -------------------------------------------------------------------------------------------


def pipe(stack: ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        stack.callback(close_if_open, fd)
    return ends


def close_if_open(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


def filled_pipe(stack: ExitStack) -> tuple[int, int, int]:
    reading, writing = pipe(stack)
    os.set_blocking(writing, False)
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += os.write(writing, b"f" * 4096)
    os.set_blocking(writing, True)
    return reading, writing, size


def drain(reading: int, size: int) -> bytes:
    """That many bytes and no more."""
    found = b""
    deadline = time.monotonic() + PATIENCE
    os.set_blocking(reading, False)
    while len(found) < size and time.monotonic() < deadline:
        try:
            found += os.read(reading, size - len(found))
        except BlockingIOError:
            greenio.sleep(0.001)
    greenio.sleep(0.01)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    assert len(found) == size
    return found


@waits("greenio.wait_readable")
def _(stack: ExitStack) -> Wait:
    reading, writing = pipe(stack)
    return Wait(lambda: greenio.wait_readable(reading), lambda: os.write(writing, b"x"))


@waits("greenio.wait_writable")
def _(stack: ExitStack) -> Wait:
    reading, writing, size = filled_pipe(stack)
    return Wait(lambda: greenio.wait_writable(writing), lambda: os.read(reading, size))


@waits("greenio.wait_priority")
def _(stack: ExitStack) -> Wait:
    one, other = tcp_pair(stack)
    return Wait(lambda: greenio.wait_priority(one), lambda: other.send(b"!", socket.MSG_OOB))


@waits("FdIO.read", "FdIO.readinto", "os.read", "os.readv")
def _(stack: ExitStack, name: str) -> Wait:
    reading, writing = pipe(stack)
    raw = stack.enter_context(greenio.FdIO(reading, "rb", closefd=False))
    call: dict[str, tuple[Callable[[], Any], Any]] = {
        "FdIO.read": (lambda: raw.read(10), b"x"),
        "FdIO.readinto": (lambda: raw.readinto(bytearray(10)), 1),
        "os.read": (lambda: fiber_os.read(reading, 10), b"x"),
        "os.readv": (lambda: fiber_os.readv(reading, [bytearray(10)]), 1),
    }
    return Wait(call[name][0], lambda: os.write(writing, b"x"), call[name][1])


@waits("FdIO.readall")
def _(stack: ExitStack) -> Wait:
    reading, writing = pipe(stack)
    raw = stack.enter_context(greenio.FdIO(reading, "rb", closefd=False))
    return Wait(raw.readall, lambda: (os.write(writing, b"x"), os.close(writing)), b"x")


@waits("FdIO.write", "os.write", "os.writev")
def _(stack: ExitStack, name: str) -> Wait:
    reading, writing, size = filled_pipe(stack)
    raw = stack.enter_context(greenio.FdIO(writing, "wb", closefd=False))
    call: dict[str, Callable[[], Any]] = {
        "FdIO.write": lambda: raw.write(FUNDAMENTAL),
        "os.write": lambda: fiber_os.write(writing, FUNDAMENTAL),
        "os.writev": lambda: fiber_os.writev(writing, [FUNDAMENTAL[:5], FUNDAMENTAL[5:]]),
    }

    def release() -> None:
        assert drain(reading, size + 10) == b"f" * size + FUNDAMENTAL

    return Wait(call[name], release, 10)


BUFFERED = {
    "read": (lambda file: file.read(3), b"abc"),
    "read1": (lambda file: file.read1(3), b"abc"),
    "readinto": (lambda file: file.readinto(bytearray(3)), 3),
    "readinto1": (lambda file: file.readinto1(bytearray(3)), 3),
    "peek": (lambda file: file.peek(1)[:3], b"abc"),
    "readline": (lambda file: file.readline(), b"abc\n"),
    "__next__": (lambda file: next(file), b"abc\n"),
}


@waits(*(f"_Reading.{each}" for each in BUFFERED))
def _(stack: ExitStack, name: str) -> Wait:
    reading, writing = pipe(stack)
    file = stack.enter_context(greenio.open(reading, "rb", closefd=False))
    call, result = BUFFERED[last(name)]
    return Wait(lambda: call(file), lambda: os.write(writing, b"abc\n"), result)


@waits("_Writing.write", "_Buffered.flush")
def _(stack: ExitStack, name: str) -> Wait:
    reading, writing, size = filled_pipe(stack)
    file = greenio.open(writing, "wb", 16, closefd=False)

    @stack.callback
    def close() -> None:
        with greenio.move_on_after(0.001), contextlib.suppress(BlockingIOError):
            file.close()

    big = b"y" * 40
    if last(name) == "flush":
        file.write(FUNDAMENTAL)
        return Wait(file.flush, lambda: drain(reading, size + 10))
    return Wait(lambda: file.write(big) and file.flush(), lambda: drain(reading, size + 40), again=False)


@waits("TextIOWrapper.read", "TextIOWrapper.readline", "TextIOWrapper.__next__")
def _(stack: ExitStack, name: str) -> Wait:
    reading, writing = pipe(stack)
    file = stack.enter_context(greenio.open(reading, "r", closefd=False))
    call = {"read": lambda: file.read(3), "readline": file.readline, "__next__": lambda: next(file)}[last(name)]
    return Wait(call, lambda: os.write(writing, b"abc\n"), "abc" if last(name) == "read" else "abc\n")


@waits("TextIOWrapper.write", "TextIOWrapper.flush")
def _(stack: ExitStack, name: str) -> Wait:
    reading, writing, size = filled_pipe(stack)
    file = greenio.open(writing, "w", 1, closefd=False)

    @stack.callback
    def close() -> None:
        with greenio.move_on_after(0.001), contextlib.suppress(BlockingIOError):
            file.close()

    if last(name) == "flush":
        file.write("abc")
        return Wait(file.flush, lambda: drain(reading, size + 3))
    return Wait(lambda: file.write("abc\n"), lambda: drain(reading, size + 4), 4, again=False)


@waits("greenio.open")
def _(stack: ExitStack) -> Wait:
    path = fifo(stack)

    def call() -> str:
        with greenio.open(path) as file:
            return file.read()

    return Wait(call, lambda: give(path), "x")


def full_threads(stack: ExitStack) -> Callable[[], None]:
    """No OS thread is to be had for to_thread, until the function returned is called."""
    limiter = greenio.current_default_limiter()
    before = limiter.total
    limiter.total = 1
    gate = threading.Event()
    stack.callback(lambda: setattr(limiter, "total", before))
    stack.callback(until, lambda: thread_stats()["busy"] == 0)
    stack.callback(gate.set)
    greenio.spawn(functools.partial(greenio.to_thread, gate.wait, PATIENCE, cancellable=True))
    greenio.yield_now()
    return gate.set


@waits("greenio.open of a regular file")
def _(stack: ExitStack) -> Wait:
    release = full_threads(stack)

    def call() -> bytes:
        with greenio.open(__file__, "rb") as file:
            return file.read(3)

    return Wait(call, release, b'"""')


@waits("FdIO.truncate", "_Buffered.truncate", "DiskText.truncate")
def _(stack: ExitStack, name: str) -> Wait:
    path = os.path.join(scratch(stack), "file")
    mode, buffering = {"FdIO": ("wb", 0), "_Buffered": ("wb", -1), "DiskText": ("w+", -1)}[name.partition(".")[0]]
    file = stack.enter_context(greenio.open(path, mode, buffering))
    release = full_threads(stack)
    # A text file's calls are the standard class's, which must not be left in the middle.
    return Wait(lambda: file.truncate(3), release, 3, held=name == "DiskText.truncate")


@waits(
    "select.select", "poll.poll", "epoll.poll", "SelectSelector.select", "PollSelector.select", "EpollSelector.select"
)
def _(stack: ExitStack, name: str) -> Wait:
    reading, writing = pipe(stack)
    if name == "select.select":
        return Wait(lambda: select.select([reading], [], []), lambda: os.write(writing, b"x"), ([reading], [], []))
    if name == "poll.poll":
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        return Wait(poll.poll, lambda: os.write(writing, b"x"), [(reading, select.POLLIN)])
    if name == "epoll.poll":
        epoll = stack.enter_context(select.epoll())
        epoll.register(reading, select.EPOLLIN)
        return Wait(epoll.poll, lambda: os.write(writing, b"x"), [(reading, select.EPOLLIN)])
    selector = stack.enter_context(getattr(selectors, name.partition(".")[0])())
    key = selector.register(reading, selectors.EVENT_READ)
    return Wait(selector.select, lambda: os.write(writing, b"x"), [(key, selectors.EVENT_READ)])


# --- sockets ---------------------------------------------------------------------------------------------------------


def socket_pair(stack: ExitStack, kind: int = standard.SOCK_STREAM) -> tuple[Any, Any]:
    one, other = socket.socketpair(type=kind)
    return stack.enter_context(one), stack.enter_context(other)


def tcp_pair(stack: ExitStack) -> tuple[Any, Any]:
    with socket.create_server((LOCALHOST, 0)) as listener:
        one = stack.enter_context(socket.create_connection(listener.getsockname()))
        return one, stack.enter_context(listener.accept()[0])


def first(expected: Any) -> Callable[[Any], bool]:
    return lambda result: result[0] == expected


RECEIVE: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "SocketCore.recv": (lambda sock: sock.recv(10), b"x"),
    "SocketCore.recv_into": (lambda sock: sock.recv_into(bytearray(10)), 1),
    "MessageCore.recvfrom": (lambda sock: sock.recvfrom(10), first(b"x")),
    "MessageCore.recvfrom_into": (lambda sock: sock.recvfrom_into(bytearray(10)), first(1)),
    "MessageCore.recvmsg": (lambda sock: sock.recvmsg(10), first(b"x")),
    "MessageCore.recvmsg_into": (lambda sock: sock.recvmsg_into([bytearray(10)]), first(1)),
    "socket.makefile().read": (lambda sock: sock.makefile("rb", 0).read(10), b"x"),
}


@waits(*RECEIVE)
def _(stack: ExitStack, name: str) -> Wait:
    one, other = socket_pair(stack)
    call, result = RECEIVE[name]
    return Wait(lambda: call(one), lambda: other.send(b"x"), result)


@waits("socket.makefile().readline", "socket.makefile() with text")
def _(stack: ExitStack, name: str) -> Wait:
    one, other = socket_pair(stack)
    file = stack.enter_context(one.makefile("r" if "text" in name else "rwb"))
    return Wait(file.readline, lambda: other.send(b"abc\n"), "abc\n" if "text" in name else b"abc\n")


@waits("socket.makefile().flush")
def _(stack: ExitStack, name: str) -> Wait:
    one, release = filled_pair(stack, FUNDAMENTAL)
    file = one.makefile("wb")

    def give_up() -> None:
        one.shutdown(standard.SHUT_RDWR)
        with contextlib.suppress(OSError):
            file.close()

    stack.callback(give_up)
    file.write(FUNDAMENTAL)
    return Wait(file.flush, release)


def filled_pair(stack: ExitStack, expected: bytes) -> tuple[Any, Callable[[], None]]:
    one, other = socket_pair(stack)
    size = fill(one)

    def release() -> None:
        found = receive_exactly(other, size + len(expected))
        assert found[size:] == expected
        other.settimeout(0)
        greenio.sleep(0.005)
        with contextlib.suppress(BlockingIOError):
            assert other.recv(1) == b""

    return one, release


SEND: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "SocketCore.send": (lambda sock: sock.send(FUNDAMENTAL), 10),
    "SocketCore.sendall": (lambda sock: sock.sendall(FUNDAMENTAL), None),
    "MessageCore.sendmsg": (lambda sock: sock.sendmsg([FUNDAMENTAL]), 10),
}


@waits(*SEND)
def _(stack: ExitStack, name: str) -> Wait:
    one, release = filled_pair(stack, FUNDAMENTAL)
    call, result = SEND[name]
    return Wait(lambda: call(one), release, result)


@waits("MessageCore.sendfile", "MessageCore.sendfile of a file in memory")
def _(stack: ExitStack, name: str) -> Wait:
    if name == "MessageCore.sendfile":
        path = os.path.join(scratch(stack), "file")
        with open(path, "wb") as plain:
            plain.write(FUNDAMENTAL)
        file: Any = stack.enter_context(open(path, "rb"))  # noqa: SIM115
    else:
        file = io.BytesIO(FUNDAMENTAL)
    one, release = filled_pair(stack, FUNDAMENTAL)
    return Wait(lambda: one.sendfile(file), release, 10)


@waits("MessageCore.sendto")
def _(stack: ExitStack) -> Wait:
    receiver = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    receiver.bind("")
    sender = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    sender.settimeout(0)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.sendto(b"f", receiver.getsockname())
            count += 1
    sender.settimeout(None)

    def release() -> None:
        assert [receiver.recv(10) for _ in range(count + 1)] == [b"f"] * count + [FUNDAMENTAL]
        receiver.settimeout(0)
        with pytest.raises(BlockingIOError):
            receiver.recv(10)

    return Wait(lambda: sender.sendto(FUNDAMENTAL, receiver.getsockname()), release, 10)


@waits("SocketCore.accept", "Listener.accept", "Listener.accept of two addresses")
def _(stack: ExitStack, name: str) -> Wait:
    if name == "SocketCore.accept":
        listener: Any = stack.enter_context(socket.create_server((LOCALHOST, 0)))
        address = listener.getsockname()
    else:
        hosts = [LOCALHOST] if name == "Listener.accept" else [LOCALHOST, "127.0.0.2"]
        listener = stack.enter_context(greenio.listen_tcp(hosts))
        address = listener.addresses[0]
    client = stack.enter_context(standard.socket())

    def call() -> bool:
        accepted = listener.accept()
        with accepted[0] if name == "SocketCore.accept" else accepted:
            return True

    return Wait(call, lambda: client.connect(address), True)


@waits(
    "socket.connect", "socket.connect_ex", "socket.create_connection", "greenio.connect_tcp", "ssl.create_connection"
)
def _(stack: ExitStack, name: str) -> Wait:
    address = stack.enter_context(never_accepting())
    if name in ("socket.connect", "socket.connect_ex"):
        sock = stack.enter_context(socket.socket())
        return Wait(lambda: getattr(sock, last(name))(address), None)
    call: dict[str, Callable[[], Any]] = {
        "socket.create_connection": lambda: socket.create_connection(address),
        "ssl.create_connection": lambda: ssl.create_connection(address),
        "greenio.connect_tcp": lambda: greenio.connect_tcp(*address),
    }
    return Wait(call[name], None)


@waits("greenio.connect_unix", "socket.connect to a Unix socket")
def _(stack: ExitStack, name: str) -> Wait:
    listener = stack.enter_context(standard.socket(standard.AF_UNIX))
    listener.bind("")
    listener.listen(0)
    stack.enter_context(standard.socket(standard.AF_UNIX)).connect(listener.getsockname())

    def call() -> bool:
        if name == "greenio.connect_unix":
            greenio.connect_unix(listener.getsockname()).close()
        else:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(listener.getsockname())
        return True

    return Wait(call, lambda: listener.accept()[0].close(), True)


def scripted(stack: ExitStack, function: str, found: Any) -> Callable[[], None]:
    """The C library's *function* finds nothing until the one returned is called."""
    gate = threading.Event()
    stack.callback(until, lambda: thread_stats()["busy"] == 0)
    stack.callback(setattr, _dns, function, getattr(_dns, function))
    stack.callback(gate.set)

    def find(*args: Any) -> Any:
        assert gate.wait(PATIENCE)
        return found

    setattr(_dns, function, find)
    return gate.set


FOUND = [(standard.AF_INET, standard.SOCK_STREAM, 6, "", (LOCALHOST, 0))]
LOOKUPS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "getaddrinfo": (("name.example", 0), FOUND),
    "gethostbyname": (("name.example",), LOCALHOST),
    "gethostbyname_ex": (("name.example",), ("name", [], [])),
    "gethostbyaddr": ((LOCALHOST,), ("name", [], [])),
    "getfqdn": (("name.example",), "name"),
    "getnameinfo": (((LOCALHOST, 0), 0), ("name", "0")),
}


@waits(*(f"socket.{each}" for each in LOOKUPS))
def _(stack: ExitStack, name: str) -> Wait:
    arguments, found = LOOKUPS[last(name)]
    release = scripted(stack, "_" + last(name), found)
    return Wait(lambda: getattr(socket, last(name))(*arguments), release, found)


@waits("socket.bind", "socket.create_server", "greenio.listen_tcp", "greenio.serve", "greenio.connect_tcp to a name")
def _(stack: ExitStack, name: str) -> Wait:
    release = scripted(stack, "_getaddrinfo", FOUND)
    stack.callback(setattr, _dns, "_gethostbyname", _dns._gethostbyname)
    if name == "greenio.connect_tcp to a name":
        with standard.create_server((LOCALHOST, 0)) as closed:
            port = closed.getsockname()[1]

        def refused() -> bool:
            with pytest.raises(OSError):
                greenio.connect_tcp("name.example", port)
            return True

        return Wait(refused, release, True)

    def call() -> bool:
        if name == "socket.bind":
            with socket.socket() as sock:
                sock.bind(("name.example", 0))
        elif name == "socket.create_server":
            socket.create_server(("name.example", 0)).close()
        elif name == "greenio.listen_tcp":
            greenio.listen_tcp("name.example").close()
        else:
            greenio.serve(print, "name.example").close()
        return True

    return Wait(call, release, True)


@waits("greenio.listen_unix")
def _(stack: ExitStack) -> Wait:
    folder = scratch(stack)
    locked = os.open(folder, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    stack.callback(close_if_open, locked)

    def call() -> bool:
        greenio.listen_unix(os.path.join(folder, "socket")).close()
        return True

    return Wait(call, lambda: fcntl.flock(locked, fcntl.LOCK_UN), True)


# --- streams and servers ---------------------------------------------------------------------------------------------

STREAM_READ: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "read": (lambda stream: stream.read(10), b"abc\n"),
    "read_exactly": (lambda stream: stream.read_exactly(4), b"abc\n"),
    "read_until": (lambda stream: stream.read_until(b"\n"), b"abc\n"),
    "readline": (lambda stream: stream.readline(), b"abc\n"),
    "read_into": (lambda stream: stream.read_into(bytearray(10)), 4),
    "__next__": (lambda stream: next(stream), b"abc\n"),
}


@waits(*(f"Stream.{each}" for each in STREAM_READ))
def _(stack: ExitStack, name: str) -> Wait:
    one, other = socket_pair(stack)
    stream = stack.enter_context(greenio.Stream(one))
    call, result = STREAM_READ[last(name)]
    if last(name) not in ("read", "read_into"):
        other.send(b"ab")  # what has come stays
        greenio.yield_now()
        return Wait(lambda: call(stream), lambda: other.send(b"c\n"), result)
    return Wait(lambda: call(stream), lambda: other.send(b"abc\n"), result)


@waits("Stream.write", "Stream.writelines", "Stream.flush", "Stream.half_close", "Stream.close", "Cork.__exit__")
def _(stack: ExitStack, name: str) -> Wait:
    one, release = filled_pair(stack, FUNDAMENTAL)
    stream = greenio.Stream(one)
    stack.callback(stream.abort)
    if name in ("Stream.write", "Stream.writelines"):
        data = FUNDAMENTAL if name == "Stream.write" else [FUNDAMENTAL[:3], FUNDAMENTAL[3:]]
        return Wait(lambda: getattr(stream, last(name))(data), release)
    if name == "Cork.__exit__":

        def corked() -> None:
            with stream.corked():
                stream.write(FUNDAMENTAL)

        return Wait(corked, release, again=False)  # what was gathered stays gathered
    cork = stream.corked()
    cork.__enter__()
    stream.write(FUNDAMENTAL)
    return Wait(getattr(stream, last(name)), release, again=last(name) != "close")


@waits("Stream.start_tls", "ssl.start_tls", "ssl.wrap_socket", "TLSCore.do_handshake", "SSLContext.wrap_socket")
def _(stack: ExitStack, name: str) -> Wait:
    server, client = contexts()
    one, other = socket_pair(stack)
    if name == "Stream.start_tls":
        stream = greenio.Stream(one)
        stack.callback(stream.abort)
        call: Callable[[], Any] = lambda: stream.start_tls(client, server_hostname="localhost")  # noqa: E731
    elif name == "ssl.start_tls":
        call = lambda: ssl.start_tls(one, client, server_hostname="localhost").close()  # noqa: E731
    elif name == "ssl.wrap_socket":
        if not hasattr(ssl, "wrap_socket"):
            pytest.skip("this interpreter's ssl module has no wrap_socket")
        call = lambda: ssl.wrap_socket(one).close()  # noqa: E731
    elif name == "SSLContext.wrap_socket":
        call = lambda: client.wrap_socket(one, server_hostname="localhost").close()  # noqa: E731
    else:
        wrapped = stack.enter_context(
            client.wrap_socket(one, server_hostname="localhost", do_handshake_on_connect=False)
        )
        call = wrapped.do_handshake

    def release() -> None:
        with contextlib.suppress(OSError):  # who closes at once
            stack.enter_context(ssl.start_tls(other, server, server_side=True))

    return Wait(call, release, lambda _: True, again=name == "TLSCore.do_handshake")


@waits("Server.wait")
def _(stack: ExitStack) -> Wait:
    server = stack.enter_context(greenio.serve(print, LOCALHOST))
    return Wait(server.wait, server.close)


@waits("Server.drain", "Server.__exit__")
def _(stack: ExitStack, name: str) -> Wait:
    done = greenio.Event()
    server = greenio.serve(lambda stream: done.wait(), LOCALHOST, grace=PATIENCE)
    client = stack.enter_context(standard.create_connection((LOCALHOST, server.port)))
    stack.callback(server.close)
    while not server.connections:
        greenio.sleep(0.001)
    del client
    if name == "Server.drain":
        return Wait(server.drain, done.set, first(1), again=False)
    return Wait(lambda: server.__exit__(None, None, None), done.set, held=True)


# --- TLS -------------------------------------------------------------------------------------------------------------


@functools.cache
def contexts() -> tuple[Any, Any]:
    trustme = pytest.importorskip("trustme", reason="certificates for tests: pip install trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(standard_ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", LOCALHOST).configure_cert(server)
    client = ssl.SSLContext(standard_ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


def tls_pair(stack: ExitStack) -> tuple[Any, Any]:
    server, client = contexts()
    one, other = socket_pair(stack)
    accepting = greenio.spawn(functools.partial(ssl.start_tls, other, server, server_side=True))
    left = stack.enter_context(ssl.start_tls(one, client, server_hostname="localhost"))
    right = stack.enter_context(accepting.result())
    right.send(b"a")  # with it come the tickets
    assert left.recv(10) == b"a"
    return left, right


@waits("TLSCore.recv", "TLSCore.recv_into", "TLSCore.read")
def _(stack: ExitStack, name: str) -> Wait:
    one, other = tls_pair(stack)
    call = {
        "recv": lambda: one.recv(10),
        "recv_into": lambda: one.recv_into(bytearray(10)),
        "read": lambda: one.read(10),
    }
    return Wait(call[last(name)], lambda: other.send(b"x"), 1 if last(name) == "recv_into" else b"x")


@waits("TLSCore.unwrap")
def _(stack: ExitStack) -> Wait:
    one, other = tls_pair(stack)
    return Wait(one.unwrap, other.close_notify, lambda _: True)


@waits("TLSCore.send", "TLSCore.sendall", "TLSCore.write", "SSLSocket.sendfile")
def _(stack: ExitStack, name: str) -> Wait:
    one, other = tls_pair(stack)
    big = b"b" * 4_000_000
    call: Callable[[], Any] = {
        "send": lambda: one.send(big),
        "sendall": lambda: one.sendall(big),
        "write": lambda: one.write(big),
        "sendfile": lambda: send_file(io.BytesIO(big)),
    }[last(name)]

    def send_file(file: Any) -> None:
        try:
            one.sendfile(file)
        except BaseException as error:
            assert file.tell() == error.bytes_sent  # noqa: PT017
            raise

    if last(name) != "sendall":
        one.settimeout(0)
        with contextlib.suppress(standard_ssl.SSLWantWriteError):
            while True:
                one.send(big)
        one.settimeout(None)

    def release() -> None:
        other.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                other.settimeout(0.1)
                other.recv(1 << 20)

    return Wait(call, release, lambda _: True, again=False)


@waits("TLSCore.close_notify")
def _(stack: ExitStack) -> Wait:
    one, other = tls_pair(stack)
    one.settimeout(0)
    with contextlib.suppress(standard_ssl.SSLWantWriteError):
        while True:
            one.send(b"b" * 100_000)
    one.settimeout(None)

    def release() -> None:
        while other.recv(1 << 20):
            pass

    return Wait(one.close_notify, release)


@waits("SSLSocket.connect", "SSLSocket.connect_ex")
def _(stack: ExitStack, name: str) -> Wait:
    _, client = contexts()
    listener = stack.enter_context(socket.create_server((LOCALHOST, 0)))
    sock = stack.enter_context(client.wrap_socket(socket.socket(), server_hostname="localhost"))
    return Wait(lambda: getattr(sock, last(name))(listener.getsockname()), None, again=False)


@waits("SSLSocket.accept")
def _(stack: ExitStack) -> Wait:
    server, client = contexts()
    listener = stack.enter_context(server.wrap_socket(socket.create_server((LOCALHOST, 0)), server_side=True))

    def call() -> bool:
        listener.accept()[0].close()
        return True

    def release() -> None:
        stack.enter_context(
            client.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="localhost")
        )

    return Wait(call, release, True)


@waits("ssl.get_server_certificate")
def _(stack: ExitStack) -> Wait:
    listener = stack.enter_context(socket.create_server((LOCALHOST, 0)))
    return Wait(lambda: ssl.get_server_certificate(listener.getsockname()), None)


# --- processes and signals -------------------------------------------------------------------------------------------


def scratch(stack: ExitStack) -> str:
    import tempfile

    return stack.enter_context(tempfile.TemporaryDirectory())


def fifo(stack: ExitStack) -> str:
    path = os.path.join(scratch(stack), "fifo")
    os.mkfifo(path)
    return path


def give(path: str) -> None:
    """To who reads the FIFO: "x", and its end."""
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            greenio.sleep(0.001)
    os.write(fd, b"x")
    os.close(fd)


@waits("os.waitpid", "os.wait", "os.wait3", "os.wait4", "os.waitid")
def _(stack: ExitStack, name: str) -> Wait:
    path = fifo(stack)
    silent = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    pid = os.posix_spawn("/bin/cat", ["cat", path], os.environ, file_actions=silent)

    @stack.callback
    def reap() -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    call: dict[str, tuple[Callable[[], Any], Any]] = {
        "waitpid": (lambda: fiber_os.waitpid(pid, 0), (pid, 0)),
        "wait": (fiber_os.wait, (pid, 0)),
        "wait3": (lambda: fiber_os.wait3(0)[:2], (pid, 0)),
        "wait4": (lambda: fiber_os.wait4(pid, 0)[:2], (pid, 0)),
        "waitid": (lambda: fiber_os.waitid(os.P_PID, pid, os.WEXITED), lambda found: found.si_pid == pid),
    }
    return Wait(call[last(name)][0], lambda: give(path), call[last(name)][1])


SPAWNED = ["spawnv", "spawnve", "spawnvp", "spawnvpe", "spawnl", "spawnle", "spawnlp", "spawnlpe"]


@waits("os.system", *(f"os.{each}" for each in SPAWNED))
def _(stack: ExitStack, name: str) -> Wait:
    path = fifo(stack)
    if name == "os.system":
        return Wait(lambda: fiber_os.system(f"exec cat {path} >/dev/null"), lambda: give(path), 0)
    arguments: list[Any] = ["sh", "-c", f"exec cat {path} >/dev/null"]
    given = [arguments] if last(name).startswith("spawnv") else arguments
    if name.endswith("e"):
        given = [*given, dict(os.environ)]
    file = "sh" if "p" in last(name)[5:] else "/bin/sh"
    return Wait(lambda: getattr(fiber_os, last(name))(os.P_WAIT, file, *given), lambda: give(path), 0)


@waits("os.popen().close")
def _(stack: ExitStack) -> Wait:
    path = fifo(stack)
    file = fiber_os.popen(f"exec cat {path} >/dev/null")

    @stack.callback
    def end() -> None:
        file._proc.kill()
        file._proc.wait()

    return Wait(file.close, lambda: give(path), again=False)


@waits("Popen.wait", "Popen.communicate", "Popen.__exit__", "Popen.__select__")
def _(stack: ExitStack, name: str) -> Wait:
    path = fifo(stack)
    process = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)

    @stack.callback
    def end() -> None:
        process.kill()
        with process:
            pass

    call: dict[str, tuple[Callable[[], Any], Any]] = {
        "Popen.wait": (process.wait, 0),
        "Popen.communicate": (process.communicate, (b"x", None)),
        "Popen.__exit__": (lambda: process.__exit__(None, None, None), None),
        "Popen.__select__": (lambda: greenio.select(process).value, 0),
    }
    return Wait(call[name][0], lambda: give(path), call[name][1], again=name != "Popen.__exit__")  # it closes the pipe


RUN: dict[str, tuple[Callable[[str], Any], Any]] = {
    "run": (lambda path: subprocess.run(["cat", path], stdout=subprocess.PIPE, check=True).stdout, b"x"),
    "call": (lambda path: subprocess.call(["cat", path], stdout=subprocess.DEVNULL), 0),
    "check_call": (lambda path: subprocess.check_call(["cat", path], stdout=subprocess.DEVNULL), 0),
    "check_output": (lambda path: subprocess.check_output(["cat", path]), b"x"),
    "getoutput": (lambda path: subprocess.getoutput(f"exec cat {path}"), "x"),
    "getstatusoutput": (lambda path: subprocess.getstatusoutput(f"exec cat {path}"), (0, "x")),
}


@waits(*(f"subprocess.{each}" for each in RUN))
def _(stack: ExitStack, name: str) -> Wait:
    path = fifo(stack)
    call, result = RUN[last(name)]
    return Wait(lambda: call(path), lambda: give(path), result)


@waits("SignalSubscription.wait", "SignalSubscription.__next__", "SignalSubscription.__select__")
def _(stack: ExitStack, name: str) -> Wait:
    received = stack.enter_context(greenio.signals(signal.SIGUSR1))
    call: Callable[[], Any] = getattr(received, last(name))
    if name == "SignalSubscription.__select__":
        call = lambda: greenio.select(received).value  # noqa: E731
    return Wait(call, lambda: os.kill(os.getpid(), signal.SIGUSR1), signal.SIGUSR1)


# --- OS threads ------------------------------------------------------------------------------------------------------


@waits("greenio.to_thread", "greenio.to_thread that is cancellable")
def _(stack: ExitStack, name: str) -> Wait:
    gate = threading.Event()
    stack.callback(until, lambda: thread_stats()["busy"] == 0)
    stack.callback(gate.set)
    held = name == "greenio.to_thread"
    return Wait(lambda: greenio.to_thread(gate.wait, PATIENCE, cancellable=not held), gate.set, True, held=held)


@waits("greenio.to_thread for a place")
def _(stack: ExitStack) -> Wait:
    release = full_threads(stack)
    return Wait(lambda: greenio.to_thread(int), release, 0)


@waits("from_thread.run", "from_thread.run_sync", "from_thread.check_cancelled")
def _(stack: ExitStack, name: str) -> Wait:
    event = greenio.Event()
    if name != "from_thread.check_cancelled":
        function = getattr(from_thread, last(name))
        return Wait(lambda: greenio.to_thread(function, event.wait), event.set, True)
    gate = threading.Event()

    def look() -> bool:
        while not gate.wait(0.001):
            from_thread.check_cancelled()
        return True

    stack.callback(gate.set)
    return Wait(lambda: greenio.to_thread(look), gate.set, True)


# --- the list of names -----------------------------------------------------------------------------------------------

MIRRORS = ["socket", "ssl", "select", "selectors", "subprocess", "os"]
MODULES = [
    "greenio",
    "greenio.from_thread",
    "greenio.debug",
    "greenio.testing",
    *(f"greenio.{each}" for each in MIRRORS),
]
# What public functions return, and whose classes have no public name.
RETURNED = [
    "_buffers.BufferedRandom",
    "_buffers.BufferedRWPair",
    "_file_text.TextIOWrapper",
    "_file_text.DiskText",
    "_groups.FiberFuture",
    "_streams.Cork",
    "_task_groups.Results",
    "_task_groups.TaskStatus",
    "_select_module.SelectModule",
]
CALLED_BY_THE_LANGUAGE = {"__enter__", "__exit__", "__next__", "__call__", "__select__"}


def public_operations() -> set[str]:
    """Function names as module.name, method names as Class.name, the class being the one that defines it."""
    found = set()

    def add_class(cls: type) -> None:
        for base in cls.__mro__:
            if base.__module__.split(".")[0] != "greenio":
                continue
            for name, value in vars(base).items():
                if base is greenio.socket.socket and isinstance(value, types.MethodDescriptorType):
                    continue  # a copy of what it inherits
                is_public = not name.startswith("_") or name in CALLED_BY_THE_LANGUAGE
                if is_public and (callable(value) or isinstance(value, (classmethod, staticmethod))):
                    found.add(f"{base.__name__}.{name}")

    for module_name in MODULES:
        module = importlib.import_module(module_name)
        short = module_name.removeprefix("greenio.")
        theirs = importlib.import_module(short) if short in MIRRORS else None
        for name in getattr(module, "__all__", None) or [each for each in vars(module) if not each.startswith("_")]:
            value = getattr(module, name)
            if isinstance(value, types.ModuleType) or (theirs is not None and getattr(theirs, name, None) is value):
                continue
            if isinstance(value, type):
                add_class(value)
            elif callable(value):
                found.add(f"{short}.{name}")
    for path in RETURNED:
        module_name, _, name = path.rpartition(".")
        add_class(getattr(importlib.import_module(f"greenio.{module_name}"), name))
    return found


# These only look, set, make or end something, call what they are given, or let the others run once.
_NEVER_WAIT = """
Barrier.abort Barrier.reset Broadcast.close Broadcast.send_nowait Broadcast.subscribe CancelScope.__enter__
CancelScope.__exit__ CancelScope.cancel Channel.close Channel.receive_nowait Channel.send_nowait Channel.statistics
Clock.now_ns Clock.wait_ns Condition.__exit__ Condition.locked Condition.notify Condition.notify_all Condition.release
Cork.__enter__ Event.clear Event.is_set Event.set FdIO.close FdIO.fileno FdIO.isatty FdIO.readable FdIO.seek
FdIO.seekable FdIO.tell FdIO.writable FdIO.write_now Fiber.add_done_callback Fiber.cancel
Fiber.cancelled Fiber.done Fiber.remove_done_callback FiberPoolExecutor.submit Listener.__enter__ Listener.__exit__
Listener.close Lock.__exit__ Lock.release OwnedLock.locked PctSchedule.begin PctSchedule.choose Popen.poll
Popen.send_signal Queue.empty Queue.full Queue.get_nowait Queue.put_nowait Queue.qsize Queue.shutdown Queue.statistics
Queue.task_done RLock.__exit__ RLock.release RandomSchedule.choose SSLContext.sslsocket_class SSLSocket.cipher
SSLSocket.client_sigalg SSLSocket.group SSLSocket.server_sigalg SSLSocket.compression
SSLSocket.dup SSLSocket.fileno SSLSocket.get_channel_binding SSLSocket.get_unverified_chain
SSLSocket.get_verified_chain SSLSocket.getpeercert SSLSocket.getpeername SSLSocket.getsockname SSLSocket.getsockopt
SSLSocket.recvmsg SSLSocket.recvmsg_into SSLSocket.selected_alpn_protocol SSLSocket.selected_npn_protocol
SSLSocket.sendmsg SSLSocket.setsockopt SSLSocket.shared_ciphers SSLSocket.verify_client_post_handshake
SSLSocket.version Schedule.begin Schedule.choose Scheduler.fibers Scheduler.outlook Scheduler.outside_call
Scheduler.spawn Scheduler.time SeededSchedule.begin Semaphore.__exit__ Semaphore.release Server.__enter__
Server.statistics SignalSubscription.__enter__ SignalSubscription.__exit__ SimpleQueue.empty SimpleQueue.get_nowait
SimpleQueue.put SimpleQueue.put_nowait SimpleQueue.qsize SocketCore.__enter__ SocketCore.__exit__ SocketCore.bind
SocketCore.close SocketCore.detach SocketCore.fileno SocketCore.get_inheritable SocketCore.getblocking
SocketCore.getpeername SocketCore.getsockname SocketCore.getsockopt SocketCore.gettimeout SocketCore.listen
SocketCore.set_inheritable SocketCore.setblocking SocketCore.setsockopt SocketCore.settimeout SocketCore.shutdown
Stream.__enter__ Stream.abort Stream.at_eof Stream.corked Stream.fileno Stream.statistics Subscription.__enter__
Subscription.__exit__ Subscription.close Subscription.receive_nowait TLSCore.detach TLSCore.pending
TLSCore.settimeout TLSCore.shutdown TaskGroup.__enter__ TaskGroup.cancel TaskGroup.fibers TaskGroup.results
TaskGroup.spawn TaskStatus.started TextIOWrapper.reconfigure DiskText.reconfigure Timeout.__exit__ Timeout.expired
Timeout.reschedule Timeout.when VirtualClock.advance VirtualClock.now_ns VirtualClock.wait_ns WaitGraph.cycles
BufferedRWPair.isatty BufferedRWPair.readable BufferedRWPair.writable
WaitGraph.format WaitGraph.node _Buffered.tell _Reading.unread debug.dump debug.fibers debug.format_stacks debug.lookup_stats
debug.set_stack_pool debug.stack_stats debug.stall_stats debug.thread_stats debug.wait_graph epoll.__enter__ epoll.__exit__ epoll.close
epoll.fileno epoll.fromfd epoll.modify epoll.register epoll.unregister from_thread.spawn greenio.after greenio.at
greenio.atomic greenio.can_park greenio.checkpoint greenio.configure_lookups greenio.configure_threads greenio.current_deadline
greenio.current_default_limiter greenio.current_fiber greenio.current_scheduler greenio.current_time
greenio.enter_run greenio.leave_run
greenio.move_on_after greenio.move_on_at greenio.notify_closing greenio.on_big_stack greenio.pin greenio.readable
greenio.receiving greenio.run greenio.sending greenio.shield greenio.signals greenio.spawn greenio.timeout
greenio.timeout_at greenio.wrap_file greenio.writable greenio.yield_now os.popen poll.modify poll.register
poll.unregister socket.close socket.dup socket.fromfd socket.makefile socket.socketpair ssl.create_default_context
testing.check_no_fiber_left testing.explore testing.replay
"""
NEVER_WAIT = set(_NEVER_WAIT.split())

# These wait as the other one does, which they call.
COVERED = {
    "DiskText.close": "DiskText.truncate",
    "DiskText.flush": "DiskText.truncate",
    "DiskText.read": "DiskText.truncate",
    "DiskText.readline": "DiskText.truncate",
    "DiskText.seek": "DiskText.truncate",
    "DiskText.tell": "DiskText.truncate",
    "DiskText.write": "DiskText.truncate",
    "MessageCore.sendmsg_afalg": "MessageCore.sendmsg",
    "SSLSocket.recvfrom": "MessageCore.recvfrom",
    "SSLSocket.recvfrom_into": "MessageCore.recvfrom_into",
    "SSLSocket.sendto": "MessageCore.sendto",
    "Server.close": "Server.drain",
    "Stream.__exit__": "Stream.close",
    "TextIOWrapper.close": "TextIOWrapper.flush",
    **{f"BufferedRWPair.{each}": f"_Reading.{each}" for each in BUFFERED if each != "__next__"},
    "BufferedRWPair.close": "_Buffered.flush",
    "BufferedRWPair.flush": "_Buffered.flush",
    "BufferedRWPair.write": "_Writing.write",
    "_Buffered.close": "_Buffered.flush",
    "_Buffered.detach": "_Buffered.flush",
    "_Buffered.seek": "_Buffered.flush",
}


def test_every_public_operation_is_in_the_table():
    operations = public_operations()
    missing = operations - ROWS.keys() - NEVER_WAIT - COVERED.keys()
    assert not missing, f"can they wait? each needs a row, or a place in NEVER_WAIT or COVERED: {sorted(missing)}"
    gone = {name for name in (NEVER_WAIT | COVERED.keys()) - operations if sys.version_info[:2] == (3, 15)}
    assert not gone, f"there is no such operation any more: {sorted(gone)}"
    assert not NEVER_WAIT & ROWS.keys()
    assert set(COVERED.values()) <= ROWS.keys()


# --- what is true of each --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _is_bounded() -> Iterator[None]:
    faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def each_wait(test: Any) -> Any:
    return pytest.mark.parametrize("name", sorted(ROWS))(test)


class Ticker:
    """A fiber that runs beside an operation, and shows that it may."""

    def __init__(self) -> None:
        self.ticks = 0
        self.fiber = greenio.spawn(self.run)

    def run(self) -> None:
        while True:
            greenio.sleep(0.0005)
            self.ticks += 1


def stays_parked(fiber: Any) -> None:
    """Wait until the fiber waits for something and goes on doing so."""
    seen: Any = None
    looks = 0
    deadline = time.monotonic() + PATIENCE
    while looks < LOOKS:
        assert time.monotonic() < deadline, f"{fiber} does not park"
        assert not fiber.done(), f"it did not wait: {fiber.exception() or fiber.result()!r}"
        greenio.sleep(0.001)
        waits_for = fiber.waits_for
        now = None if fiber.state != "parked" or waits_for is None else waits_for[0]
        looks = looks + 1 if now is not None and now == seen else 0
        seen = now


def begun(wait: Wait, within: Any = contextlib.nullcontext) -> Any:
    def operate() -> Any:
        with within():
            return wait.call()

    fiber = greenio.spawn(operate)
    ticker = Ticker()
    before = ticker.ticks
    stays_parked(fiber)
    while ticker.ticks == before:
        greenio.sleep(0.001)
    ticker.fiber.cancel()
    ticker.fiber.join()
    return fiber


def check_result(wait: Wait, result: Any) -> None:
    assert wait.result(result) if callable(wait.result) else result == wait.result, result


def is_cancelled(fiber: Any) -> None:
    fiber.join(PATIENCE)
    assert fiber.cancelled(), fiber.exception() or fiber.result()


def fibers_and_descriptors() -> tuple[int, list[str]]:
    scheduler = greenio.current_scheduler()
    return len(scheduler.fibers()), sorted(
        f"{number} {os.readlink(f'/proc/self/fd/{number}')}"
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    )


def nothing_left(before: tuple[int, list[str]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while fibers_and_descriptors() != before:
        assert time.monotonic() < deadline, (before, greenio.current_scheduler().fibers(), fibers_and_descriptors())
        greenio.sleep(0.001)  # an OS thread opens or closes something


def works_again(wait: Wait) -> None:
    if wait.again and wait.release is not None and not wait.held:
        fiber = begun(wait)
        wait.release()
        check_result(wait, fiber.result(PATIENCE))


@each_wait
def test_parks_and_goes_on(name):
    def main():
        with ExitStack() as stack:
            wait = ROWS[name](stack)
            before = fibers_and_descriptors()
            fiber = begun(wait)
            if wait.release is None:
                fiber.cancel()
                is_cancelled(fiber)
            else:
                wait.release()
                check_result(wait, fiber.result(PATIENCE))
            del before

    greenio.run(main)


@each_wait
def test_is_cancelled_while_parked(name):
    def main():
        with ExitStack() as stack:
            wait = ROWS[name](stack)
            before = fibers_and_descriptors()
            fiber = begun(wait)
            fiber.cancel("by the test")
            if wait.held:
                stays_parked(fiber)
                wait.release()
                fiber.join(PATIENCE)
            else:
                is_cancelled(fiber)
                if wait.again:
                    nothing_left(before)
            works_again(wait)

    greenio.run(main)


@each_wait
def test_is_ended_by_a_timeout(name):
    def main():
        with ExitStack() as stack:
            wait = ROWS[name](stack)
            before = fibers_and_descriptors()
            scope = greenio.timeout(None)
            fiber = begun(wait, lambda: scope)
            scope.reschedule(greenio.current_time())
            if wait.held:
                stays_parked(fiber)
                wait.release()
                fiber.join(PATIENCE)
            else:
                fiber.join(PATIENCE)
                assert isinstance(fiber.exception(), TimeoutError)
                if wait.again:
                    nothing_left(before)
            works_again(wait)

    greenio.run(main)


@each_wait
def test_is_refused_inside_atomic(name):
    def main():
        with ExitStack() as stack:
            wait = ROWS[name](stack)
            before = fibers_and_descriptors()

            def operate():
                with greenio.atomic():
                    wait.call()

            fiber = greenio.spawn(operate)
            error = fiber.exception(PATIENCE)
            if isinstance(error, ExceptionGroup):  # a task group's
                (error,) = error.exceptions
            assert isinstance(error, RuntimeError)
            assert "greenio.atomic()" in str(error)
            if wait.again and not wait.held:
                nothing_left(before)
            works_again(wait)

    greenio.run(main)


@each_wait
def test_ends_with_its_run(name):
    stack = ExitStack()
    began = []

    def main():
        wait = ROWS[name](stack)
        began.append(begun(wait))
        if wait.held:
            threading.Timer(0.02, wait.release).start()

    start = time.monotonic()
    try:
        greenio.run(main)
        assert time.monotonic() - start < PATIENCE
        assert began[0].done()
    finally:
        greenio.run(stack.close)
