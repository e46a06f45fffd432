"""greenio.select as a module: select, poll and epoll that park, and the module object that is called."""

import contextlib
import errno
import functools
import importlib
import os
import random
import resource
import select as standard
import socket as standard_socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from child import run_child
from waiters import in_thread, parked

import greenio
from greenio import notify_closing, select, socket, spawn
from greenio.testing import VirtualClock, wait_all_parked


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords))

    return test


def on_virtual_clock(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords), clock=VirtualClock())

    return test


@contextlib.contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(count)]
    try:
        yield made
    finally:
        for end in [end for pair in made for end in pair]:
            with contextlib.suppress(OSError):
                os.close(end)


class Waits:
    """One way to wait for `fd` to be readable, as a call with a timeout in seconds; true if it was."""

    def __init__(self, kind: str, fds: list[int]) -> None:
        self.kind = kind
        self.fds = fds
        self.epoll = select.epoll() if kind == "epoll" else None
        self.poll = select.poll()
        for fd in fds:
            self.poll.register(fd, select.POLLIN)
            if self.epoll is not None:
                self.epoll.register(fd, select.EPOLLIN)

    def __call__(self, timeout: float | None = None) -> Any:
        if self.kind == "select":
            return select.select(self.fds, [], [], timeout)[0]
        if self.epoll is not None:
            return self.epoll.poll(timeout)
        return self.poll.poll(None if timeout is None else timeout * 1000)

    def close(self) -> None:
        if self.epoll is not None:
            self.epoll.close()


KINDS = ["select", "poll", "epoll"]


# --- what all three have in common -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_a_wait_parks_until_something_is_ready(kind: str) -> None:
    with pipes(3) as made, contextlib.closing(Waits(kind, [reader for reader, _ in made])) as wait:
        waiters = [parked(wait) for _ in range(3)]
        os.write(made[1][1], b"x")
        expected = [made[1][0]] if kind == "select" else [(made[1][0], select.POLLIN)]
        for waiter in waiters:
            assert waiter.result() == expected
        assert wait() == wait(0) == wait(10) == expected


@pytest.mark.parametrize("kind", KINDS)
@on_virtual_clock
def test_a_wait_times_out(kind: str) -> None:
    with pipes(2) as made, contextlib.closing(Waits(kind, [reader for reader, _ in made])) as wait:
        start = greenio.current_time()
        assert wait(0) == []
        assert greenio.current_time() == start
        assert wait(7) == []
        assert greenio.current_time() == start + 7
        with pytest.raises(TimeoutError), greenio.timeout(3):
            wait()
        assert greenio.current_time() == start + 10


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_a_cancelled_wait_leaves_nothing(kind: str) -> None:
    with pipes(2) as made, contextlib.closing(Waits(kind, [reader for reader, _ in made])) as wait:
        before = os.listdir("/proc/self/fd")
        for _ in range(5):
            waiter = parked(wait)
            waiter.cancel()
            waiter.join()
            assert waiter.cancelled()
        assert os.listdir("/proc/self/fd") == before
        os.write(made[0][1], b"x")
        with greenio.CancelScope() as scope:
            scope.cancel()
            wait()
        assert scope.cancelled_caught
        assert wait()


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_a_thousand_descriptors(kind: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    try:
        # More than FD_SETSIZE of them: the standard select refuses those.
        with pipes(1100) as made, contextlib.closing(Waits(kind, [reader for reader, _ in made])) as wait:
            assert made[-1][0] > 1024
            waiter = parked(wait)
            os.write(made[-1][1], b"x")
            found = waiter.result()
            assert found == ([made[-1][0]] if kind == "select" else [(made[-1][0], select.POLLIN)])
            chosen = sorted(random.Random(3).sample(range(1100), 20))
            for index in chosen:
                os.write(made[index][1], b"x")
            ready = {each if kind == "select" else each[0] for each in wait()}
            assert ready == {made[index][0] for index in chosen} | {made[-1][0]}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_wait_at_once(kind: str) -> None:
    with pipes(1) as made:
        both = threading.Barrier(3)

        def main() -> Any:
            with contextlib.closing(Waits(kind, [made[0][0]])) as wait:
                waiter = spawn(wait)
                wait_all_parked()
                both.wait()
                return bool(waiter.result())

        threads = [in_thread(greenio.run, main) for _ in range(2)]
        both.wait()
        os.write(made[0][1], b"x")
        for thread in threads:
            thread.join()
            assert thread.outcome == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_without_fibers_it_says_what_to_do(kind: str) -> None:
    with pipes(1) as made, contextlib.closing(Waits(kind, [made[0][0]])) as wait:
        with pytest.raises(RuntimeError, match="inside greenio"):
            wait(0)


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_others_run_while_one_waits_again_and_again(kind: str) -> None:
    with pipes(1) as made, contextlib.closing(Waits(kind, [made[0][0]])) as wait:
        os.write(made[0][1], b"x")
        turns = []

        def count() -> None:
            for _ in range(10):
                turns.append(None)
                greenio.yield_now()

        counter = spawn(count)
        for _ in range(1000):
            wait()
        assert len(turns) == 10
        counter.result()


# --- closing ---------------------------------------------------------------------------------------------------------


@fibers
def test_poll_tells_of_one_that_is_closed_meanwhile() -> None:
    one, other = socket.socketpair()
    with other, pipes(1) as made:
        wait = Waits("poll", [one.fileno(), made[0][0]])
        waiter = parked(wait)
        fd = one.fileno()
        one.close()
        assert waiter.result() == [(fd, select.POLLNVAL)]
        assert wait() == [(fd, select.POLLNVAL)]


@fibers
def test_select_raises_for_one_that_is_closed_meanwhile() -> None:
    with pipes(2) as made:
        waiter = parked(select.select, [made[0][0]], [], [made[1][0]])
        notify_closing(made[1][0])
        os.close(made[1][0])
        with pytest.raises(OSError) as raised:
            waiter.result()
        assert raised.value.errno == errno.EBADF
        with pytest.raises(OSError) as raised:
            select.select([made[0][0]], [], [made[1][0]])
        assert raised.value.errno == errno.EBADF


@fibers
def test_one_that_is_closed_and_used_again_is_not_taken_for_the_new_one() -> None:
    with pipes(2) as made:
        os.write(made[1][1], b"x")
        poll = select.poll()
        poll.register(made[0][0], select.POLLIN)
        waiter = parked(poll.poll)
        notify_closing(made[0][0])
        os.dup2(made[1][0], made[0][0])
        assert waiter.result() == [(made[0][0], select.POLLNVAL)]
        assert poll.poll() == [(made[0][0], select.POLLIN)]


@fibers
def test_closing_an_epoll_wakes_whoever_waits_in_it() -> None:
    with pipes(1) as made:
        epoll = select.epoll()
        epoll.register(made[0][0], select.EPOLLIN)
        waiters = [parked(epoll.poll) for _ in range(3)]
        epoll.close()
        epoll.close()
        assert epoll.closed
        for waiter in waiters:
            with pytest.raises(OSError) as raised:
                waiter.result()
            assert raised.value.errno == errno.EBADF
        for call in (epoll.poll, epoll.fileno, lambda: epoll.register(0), lambda: epoll.unregister(0), epoll.__enter__):
            with pytest.raises(ValueError, match="closed epoll"):
                call()


# --- as the standard ones --------------------------------------------------------------------------------------------


def outcome(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:
        return type(error), getattr(error, "errno", None)


@fibers
def test_select_gives_what_the_standard_one_does() -> None:
    one, other = standard_socket.socketpair()
    with one, other, pipes(3) as made:
        os.write(made[0][1], b"x")
        os.close(made[1][1])
        os.close(made[2][0])
        other.send(b"x")
        sources = [one, one.fileno(), *(end for pair in made for end in pair if os.path.exists(f"/proc/self/fd/{end}"))]
        lists: list[list[Any]] = [[], sources, sources[:2], sources[2:], [one, one], [other]]
        for readers in lists:
            for writers in lists:
                for others in lists:
                    arguments = (readers, writers, others, 0)
                    assert select.select(*arguments) == standard.select(*arguments)
        assert select.select(tuple(sources), iter([]), set()) == standard.select(tuple(sources), [], [])
        for wrong in (
            ([1 << 20], [], [], 0),
            ([], [], [], -1),
            ([-1], [], [], 0),
            (["x"], [], [], 0),
            ([None], [], [], 0),
            (1, [], [], 0),
            ([], [], [], "x"),
            ([], [], [], float("nan")),
        ):
            assert outcome(lambda wrong=wrong: select.select(*wrong))[0] is not None
            if wrong[0] != [1 << 20]:  # the standard one refuses such a number
                assert outcome(lambda wrong=wrong: select.select(*wrong)) == outcome(
                    lambda wrong=wrong: standard.select(*wrong)
                ), wrong
        with pytest.raises(OSError) as raised:
            select.select([1 << 20], [], [], 0)
        assert raised.value.errno == errno.EBADF


@on_virtual_clock
def test_select_without_descriptors_sleeps() -> None:
    start = greenio.current_time()
    assert select.select([], [], [], 5) == ([], [], [])
    assert greenio.current_time() == start + 5


@on_virtual_clock
def test_select_waits_past_a_hang_up_that_nobody_asked_about() -> None:
    with pipes(1) as made:
        os.close(made[0][1])
        assert select.select([], [], made[0][:1], 0) == standard.select([], [], made[0][:1], 0) == ([], [], [])
        start = greenio.current_time()
        assert select.select([], [], made[0][:1], 2) == ([], [], [])
        assert greenio.current_time() == pytest.approx(start + 2)


@fibers
def test_poll_gives_what_the_standard_one_does() -> None:
    one, other = standard_socket.socketpair()
    with one, other, pipes(2) as made:
        mine, theirs = select.poll(), standard.poll()
        os.write(made[0][1], b"x")
        os.close(made[1][1])
        for poll in (mine, theirs):
            poll.register(one)
            poll.register(made[0][0], select.POLLIN)
            poll.register(made[1][0], 0)
            poll.register(1 << 20)
            poll.register(other.fileno(), select.POLLIN)
            poll.modify(other, select.POLLOUT | select.POLLIN)
            poll.register(made[0][0], select.POLLIN | select.POLLPRI)
        assert mine.poll() == theirs.poll()
        assert mine.poll(-1) == theirs.poll(-1)
        for poll in (mine, theirs):
            poll.unregister(1 << 20)
        assert mine.poll(0.5) == theirs.poll(0.5)
        for wrong in (
            lambda poll: poll.modify(5000, 1),
            lambda poll: poll.unregister(5000),
            lambda poll: poll.register(-1),
            lambda poll: poll.register("x"),
            lambda poll: poll.register(0, -1),
            lambda poll: poll.register(0, 1 << 20),
            lambda poll: poll.poll("x"),
        ):
            assert outcome(lambda wrong=wrong: wrong(mine)) == outcome(lambda wrong=wrong: wrong(theirs))


@fibers
def test_epoll_gives_what_the_standard_one_does(tmp_path: Any) -> None:
    one, other = standard_socket.socketpair()
    with one, other, pipes(2) as made, select.epoll() as mine, standard.epoll() as theirs:
        os.write(made[0][1], b"x")
        os.close(made[1][1])
        for epoll in (mine, theirs):
            epoll.register(one)
            epoll.register(fd=made[0][0], eventmask=select.EPOLLIN)
            epoll.register(made[1][0], 0)
            epoll.register(other, select.EPOLLIN)
            epoll.modify(other, select.EPOLLOUT | select.EPOLLET)
        assert sorted(mine.poll()) == sorted(theirs.poll())
        assert sorted(mine.poll(timeout=1, maxevents=10)) == sorted(theirs.poll(timeout=1, maxevents=10))
        assert len(mine.poll(-1, 1)) == 1
        with open(tmp_path / "file", "w") as file:
            for wrong in (
                lambda epoll: epoll.register(one),
                lambda epoll: epoll.modify(file, 1),
                lambda epoll: epoll.unregister(file),
                lambda epoll: epoll.register(file),
                lambda epoll: epoll.register(1 << 20),
                lambda epoll: epoll.register(-1),
                lambda epoll: epoll.poll(0, 0),
                lambda epoll: epoll.poll(0, -2),
                lambda epoll: epoll.poll("x"),
            ):
                assert outcome(lambda wrong=wrong: wrong(mine)) == outcome(lambda wrong=wrong: wrong(theirs))
    for wrong in ({"sizehint": 0}, {"sizehint": -2}, {"flags": 12345}):
        assert outcome(lambda wrong=wrong: select.epoll(**wrong)) == outcome(
            lambda wrong=wrong: standard.epoll(**wrong)
        )
    with pytest.raises(ValueError, match="closed"):
        mine.__enter__()


@fibers
def test_an_edge_or_one_shot_event_is_given_to_one_waiter() -> None:
    for flag in (select.EPOLLET, select.EPOLLONESHOT):
        with pipes(1) as made, select.epoll() as epoll:
            epoll.register(made[0][0], select.EPOLLIN | flag)
            waiters = [parked(epoll.poll) for _ in range(3)]
            os.write(made[0][1], b"x")
            wait_all_parked()
            assert [waiter.state for waiter in waiters].count("done") == 1
            for waiter in waiters:
                waiter.cancel()
                waiter.join()


@fibers
def test_events_left_behind_by_one_waiter_are_for_the_next() -> None:
    with pipes(3) as made, select.epoll() as epoll:
        for reader, _ in made:
            epoll.register(reader, select.EPOLLIN | select.EPOLLONESHOT)
        waiters = [parked(epoll.poll, None, 1) for _ in range(3)]
        for _, writer in made:
            os.write(writer, b"x")
        found = sorted(event for waiter in waiters for event in waiter.result())
        assert found == sorted((reader, select.EPOLLIN) for reader, _ in made)


@fibers
def test_an_epoll_may_be_in_another_one_and_adopt_a_descriptor() -> None:
    with pipes(1) as made, select.epoll() as inner, select.epoll() as outer:
        inner.register(made[0][0], select.EPOLLIN)
        outer.register(inner, select.EPOLLIN)
        waiter = parked(outer.poll)
        os.write(made[0][1], b"x")
        assert waiter.result() == [(inner.fileno(), select.EPOLLIN)]
        with select.epoll.fromfd(os.dup(inner.fileno())) as adopted:
            assert adopted.poll() == [(made[0][0], select.EPOLLIN)]
        assert adopted.closed


@fibers
def test_a_descriptor_may_be_added_while_somebody_waits() -> None:
    with pipes(2) as made, select.epoll() as epoll:
        epoll.register(made[0][0], select.EPOLLIN)
        waiter = parked(epoll.poll)
        epoll.register(made[1][0], select.EPOLLIN)
        os.write(made[1][1], b"x")
        assert waiter.result() == [(made[1][0], select.EPOLLIN)]


@fibers
def test_an_epoll_that_is_dropped_gives_its_descriptor_back() -> None:
    epoll: Any = select.epoll()
    fd = epoll.fileno()
    with pytest.raises(TimeoutError):
        greenio.wait_readable(epoll, timeout=0)
    parked(epoll.poll).cancel()
    greenio.yield_now()
    del epoll
    wait_all_parked()
    assert not os.path.exists(f"/proc/self/fd/{fd}")


# --- the module that is called ---------------------------------------------------------------------------------------


def test_it_has_the_standard_names() -> None:
    expected = {name for name in dir(standard) if not name.startswith("_")}
    assert expected <= set(dir(select))
    assert set(select.__all__) <= expected
    for name in expected - {"select", "poll", "epoll"}:
        assert getattr(select, name) is getattr(standard, name) or getattr(select, name) == getattr(standard, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        "import greenio.select",
        "from greenio import select; import greenio",
        "from greenio.select import epoll; import greenio",
        "import greenio, greenio.selectors; from greenio import *",
        "import greenio.select as module, importlib, greenio; importlib.reload(module)",
        "import greenio, sys; del greenio.select; import importlib; greenio.select = sys.modules['greenio.select']",
    ],
)
def test_it_is_a_function_and_a_module_however_it_is_imported(lines: str) -> None:
    run_child(
        f"""
        {lines}
        import greenio, sys

        def main():
            channel = greenio.Channel(1)
            channel.send(5)
            assert greenio.select(channel) == (0, 5)
            assert greenio.select(channel, default=None) == (-1, None)
            assert greenio.select is sys.modules["greenio.select"]
            from greenio.select import epoll, poll, select
            with greenio.select.epoll() as made:
                assert isinstance(made, epoll)
            assert greenio.select.select is select
            assert select([], [], [], 0) == ([], [], [])

        greenio.run(main)
        """
    )


def test_reloading_it_leaves_it_callable() -> None:
    module = sys.modules["greenio.select"]
    assert importlib.reload(module) is greenio.select
    assert greenio.run(greenio.select, greenio.after(0)) == (0, None)
    assert "channel" in (greenio.select.__call__.__doc__ or "").lower()


@pytest.mark.slow
def test_type_checkers_see_both(tmp_path: Any) -> None:
    pytest.importorskip("mypy", reason="needs mypy: pip install mypy")
    from mypy import api

    script = tmp_path / "script.py"
    script.write_text(
        "import greenio\n"
        "import greenio.select\n"
        "from greenio import select\n"
        "from greenio.select import epoll\n"
        "channel: greenio.Channel[int] = greenio.Channel()\n"
        "one: greenio.Selected = greenio.select(channel, timeout=1)\n"
        "two: epoll = greenio.select.epoll()\n"
        "three: list[tuple[int, int]] = select.poll().poll(5)\n"
        "four: int = select.EPOLLIN | greenio.select.POLLIN\n"
        "five: tuple[list[int], list[int], list[int]] = greenio.select.select([1], [2], [3], 0)\n"
        "greenio.select(1.5)\n"
        "greenio.no_such_name\n"
        "six: greenio.ssl.SSLContext = greenio.ssl.create_default_context()\n"
    )
    here = os.getcwd()
    os.chdir(os.path.dirname(os.path.dirname(greenio.__file__)))
    try:
        report, errors, status = api.run(["--strict", "--no-incremental", str(script)])
    finally:
        os.chdir(here)
    assert "script.py:11" in report, report + errors
    assert "script.py:12" in report, report + errors
    assert report.count("script.py") == 2, report
    assert status == 1
