"""greenio.selectors: the standard selectors that park, and asyncio event loops on them, in fibers."""

import asyncio
import contextlib
import functools
import os
import selectors as standard
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waiters import in_thread, parked

import greenio
from greenio import selectors, socket, spawn
from greenio.testing import VirtualClock, wait_all_parked

CLASSES = [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector]


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords))

    return test


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


def test_names_are_the_standard_ones() -> None:
    for name in selectors.__all__:
        assert hasattr(standard, name)
    assert selectors.DefaultSelector is selectors.EpollSelector
    assert selectors.SelectorKey is standard.SelectorKey
    for cls in CLASSES:
        assert issubclass(cls, standard.BaseSelector)
        assert issubclass(cls, getattr(standard, cls.__name__))


@pytest.mark.parametrize("cls", CLASSES)
@fibers
def test_select_parks_until_something_is_ready(cls: Any) -> None:
    one, other = socket.socketpair()
    with cls() as selector, one, other:
        key = selector.register(one, selectors.EVENT_READ, data="mine")
        selector.register(other, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert selector.select() == [(selector.get_key(other), selectors.EVENT_WRITE)]
        selector.modify(other, selectors.EVENT_READ)
        waiter = parked(selector.select)
        other.send(b"x")
        assert waiter.result() == [(key, selectors.EVENT_READ)]
        assert selector.select(0) == selector.select(5) == [(key, selectors.EVENT_READ)]
        selector.unregister(one)
        with pytest.raises(KeyError):
            selector.unregister(one)
        assert selector.select(0) == []
        assert selector.select(-1) == []


@pytest.mark.parametrize("cls", CLASSES)
def test_a_wait_times_out_and_is_cancelled(cls: Any) -> None:
    def main() -> None:
        with pipe() as (reader, writer), cls() as selector:
            selector.register(reader, selectors.EVENT_READ)
            start = greenio.current_time()
            assert selector.select(5) == []
            assert greenio.current_time() == pytest.approx(start + 5)
            with greenio.move_on_after(2) as scope:
                selector.select()
            assert scope.cancelled_caught
            waiter = parked(selector.select)
            waiter.cancel()
            waiter.join()
            assert waiter.cancelled()
            os.write(writer, b"x")
            assert len(selector.select()) == 1

    greenio.run(main, clock=VirtualClock())


@pytest.mark.parametrize("cls", CLASSES)
@fibers
def test_selectors_leave_nothing_behind(cls: Any) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        with pipe() as (reader, _), cls() as selector:
            selector.register(reader, selectors.EVENT_READ)
            waiter = parked(selector.select)
            waiter.cancel()
            waiter.join()
    assert os.listdir("/proc/self/fd") == before


def test_two_runs_each_with_its_selector() -> None:
    with pipe() as (reader, writer):
        both = threading.Barrier(3)

        def main() -> int:
            with selectors.DefaultSelector() as selector:
                selector.register(reader, selectors.EVENT_READ)
                waiter = spawn(selector.select)
                wait_all_parked()
                both.wait()
                return len(waiter.result())

        threads = [in_thread(greenio.run, main) for _ in range(2)]
        both.wait()
        os.write(writer, b"x")
        for thread in threads:
            thread.join()
            assert thread.outcome == [1]


# --- asyncio ---------------------------------------------------------------------------------------------------------


def run_loop(main: Callable[[], Any], cls: Any = selectors.DefaultSelector) -> Any:
    """The result of the coroutine main() makes, in an asyncio event loop in this fiber."""
    loop = asyncio.SelectorEventLoop(cls())
    try:
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.parametrize("cls", CLASSES)
@fibers
def test_two_event_loops_and_fibers_run_side_by_side(cls: Any) -> None:
    addresses: greenio.Channel[Any] = greenio.Channel(1)
    loops = []

    async def serve() -> None:
        done = asyncio.Event()
        ended = []

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            loops.append(asyncio.get_running_loop())
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
            writer.close()
            ended.append(None)
            if len(ended) == 2:
                done.set()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            addresses.send(server.sockets[0].getsockname())
            await done.wait()

    async def ask(address: Any) -> bytes:
        loops.append(asyncio.get_running_loop())
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"from asyncio")
        writer.write_eof()
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.001)
        return received

    server = spawn(run_loop, serve, cls)
    address = addresses.receive()
    client = spawn(run_loop, lambda: ask(address), cls)
    with socket.create_connection(address) as plain:
        plain.sendall(b"from a fiber")
        plain.shutdown(socket.SHUT_WR)
        assert plain.recv(100) == b"from a fiber"
        assert client.result() == b"from asyncio"
    server.result()
    assert len({id(loop) for loop in loops}) == 2


def test_loops_sleep_side_by_side() -> None:
    order = []

    async def sleep(name: str, *moments: float) -> None:
        for moment in moments:
            await asyncio.sleep(moment)
            order.append(name)

    def main() -> None:
        one = spawn(run_loop, lambda: sleep("one", 0.01, 0.02))
        other = spawn(run_loop, lambda: sleep("other", 0.02, 0.02))
        one.result()
        other.result()

    greenio.run(main)
    assert sorted(order) == ["one", "one", "other", "other"]
    assert order[0] == "one"


@fibers
def test_each_fiber_has_a_running_loop_of_its_own() -> None:
    async def nothing() -> Any:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    async def outer() -> tuple[Any, Any]:
        inside = spawn(run_loop, nothing)  # another fiber may run a loop while this one's runs
        while not inside.done():
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            greenio.spawn(asyncio.get_running_loop).result()
        return asyncio.get_running_loop(), inside.result()

    mine, theirs = run_loop(outer)
    assert mine is not theirs


@fibers
def test_call_soon_threadsafe_from_an_os_thread_and_from_a_fiber() -> None:
    async def wait(started: greenio.Event, ready: list[Any]) -> Any:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        ready.extend([loop, future])
        started.set()
        return await future

    for outside in (True, False):
        started, ready = greenio.Event(), []
        fiber = spawn(run_loop, lambda started=started, ready=ready: wait(started, ready))
        started.wait()
        loop, future = ready
        wait_all_parked()
        if outside:
            thread = in_thread(loop.call_soon_threadsafe, future.set_result, "told")
            assert fiber.result() == "told"
            thread.join()
        else:
            loop.call_soon_threadsafe(future.set_result, "told")
            assert fiber.result() == "told"


@fibers
def test_an_executor_and_a_subprocess_pipe_work_inside() -> None:
    async def work() -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        number = await loop.run_in_executor(None, lambda: 42)
        reader = asyncio.StreamReader()
        with pipe() as (read_end, write_end):
            copy = open(os.dup(read_end), "rb", buffering=0)  # noqa: SIM115  # the transport closes it
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), copy)
            os.write(write_end, b"piped")
            data = await reader.readexactly(5)
            transport.close()
            await asyncio.sleep(0)
        await loop.shutdown_default_executor()
        return number, data

    assert run_loop(work) == (42, b"piped")


@fibers
def test_a_cancelled_fiber_ends_its_event_loop() -> None:
    loops = []
    ended = []

    async def forever() -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.Event().wait()

    def run() -> None:
        loop = asyncio.SelectorEventLoop(selectors.DefaultSelector())
        try:
            loop.run_until_complete(forever())
        except greenio.Cancelled:
            ended.append(loop.is_running())
            for task in asyncio.all_tasks(loop):
                task.cancel()
            with greenio.shield():
                loop.run_until_complete(asyncio.sleep(0))
            raise
        finally:
            loop.close()

    fiber = parked(run)
    fiber.cancel()
    fiber.join()
    assert fiber.cancelled()
    assert ended == [False]
    assert loops[0].is_closed()


@fibers
def test_a_wait_in_a_loop_that_is_interrupted_by_a_scope_goes_on_afterwards() -> None:
    async def wait(event: asyncio.Event) -> str:
        await event.wait()
        return "done"

    loop = asyncio.SelectorEventLoop(selectors.DefaultSelector())
    try:
        event = asyncio.Event()
        task = loop.create_task(wait(event))
        with greenio.move_on_after(0.001) as scope:
            loop.run_until_complete(task)
        assert scope.cancelled_caught
        loop.call_soon(event.set)
        assert loop.run_until_complete(task) == "done"
    finally:
        loop.close()
