"""_select.pyx: exactly one of many, fairly drawn; the others leave no trace."""

import asyncio
import gc
import math
import os
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import CancelledError, Future

import pytest
from child import check_script, run_child
from waiters import in_thread, parked, until

import greenio
from greenio import Channel, ChannelClosed, Selected, after, at, readable, receiving, select, sending, writable
from greenio._select import seed_select
from greenio.testing import VirtualClock, wait_all_parked


class Item:
    """Something to which weak references are possible."""


def waiting(*channels):
    """How many stand in the lines of these channels."""
    return [sum(channel.statistics()[:2]) for channel in channels]


@pytest.fixture
def pair():
    one, other = greenio.socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def pipe():
    reader, writer = os.pipe2(os.O_NONBLOCK)
    yield reader, writer
    os.close(reader)
    os.close(writer)


# --- which one -------------------------------------------------------------------------------------------------------


def test_the_result_says_which_case_and_what_it_returned():
    def main():
        empty, full = Channel(), Channel(1)
        full.send("item")
        taken = select(empty, full)
        assert taken == Selected(1, "item") == (1, "item")
        assert (taken.index, taken.value) == (1, "item")
        assert select(empty, sending(full, "next")) == (1, None)
        assert full.receive() == "next"

    greenio.run(main)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 100])
def test_any_of_any_number_of_channels(count):
    def main():
        channels = [Channel() for _ in range(count)]
        for index in range(0, count, 1 + count // 10):
            chooser = parked(select, *channels)
            assert waiting(*channels) == [1] * count
            channels[index].send(index)
            assert chooser.result() == (index, index)
            assert waiting(*channels) == [0] * count
            sender = parked(channels[index].send, index)
            assert select(*channels) == (index, index)
            sender.join()

    greenio.run(main)


def test_exactly_one_of_those_that_are_ready_is_taken():
    def main():
        channels = [Channel(1) for _ in range(5)]
        for channel in channels:
            channel.send("item")
        index = select(*channels).index
        assert [len(channel) for channel in channels] == [int(other != index) for other in range(5)]

    greenio.run(main)


def test_those_that_are_ready_are_drawn_evenly():
    def main():
        seed_select(1)
        channels = [Channel(1) for _ in range(4)]
        for index in (0, 1, 3):
            channels[index].send("item")
        found = Counter()
        for _ in range(3000):
            index, item = select(*channels)
            channels[index].send(item)
            found[index] += 1
        return found

    try:
        found = greenio.run(main)
    finally:
        seed_select()
    assert set(found) == {0, 1, 3}
    assert all(900 < count < 1100 for count in found.values())  # five standard deviations are 130


def drawn(times=50):
    """The choices of as many selects among four."""
    channels = [Channel(1) for _ in range(4)]
    for channel in channels:
        channel.send_nowait("item")
    found = []
    for _ in range(times):
        index, item = select(*channels)
        channels[index].send_nowait(item)
        found.append(index)
    return found


def test_the_same_seed_draws_the_same():
    try:
        seed_select(5)
        first = drawn()
        seed_select(5)
        assert drawn() == first
        assert drawn() != first
        seed_select(6)
        assert drawn() != first
        for seed in (0, -1, 2**64, 10**30):
            seed_select(seed)
            assert set(drawn()) == {0, 1, 2, 3}
    finally:
        seed_select()
    assert drawn() != first


@pytest.mark.parametrize("wrong", ["1", 1.5, [1]])
def test_a_seed_is_an_int(wrong):
    with pytest.raises(TypeError):
        seed_select(wrong)


def test_selects_that_wait_are_served_in_the_order_in_which_they_came():
    def main():
        one, other = Channel(), Channel()
        first, plain, second = parked(select, one, other), parked(other.receive), parked(select, other, one)
        for item in "abc":
            other.send(item)
        assert (first.result(), plain.result(), second.result()) == ((1, "a"), "b", (0, "c"))

    greenio.run(main)


def test_the_same_channel_in_several_cases():
    def main():
        channel = Channel()
        chooser = parked(select, channel, channel, receiving(channel))
        assert waiting(channel) == [3]
        channel.send("item")
        index, item = chooser.result()
        assert (index, item) == (0, "item")
        assert waiting(channel) == [0]

    greenio.run(main)


def test_a_send_and_a_receive_of_one_select_do_not_meet():
    def main():
        channel = Channel()
        both = parked(select, receiving(channel), sending(channel, "own"))
        assert waiting(channel) == [2]
        assert channel.receive() == "own"
        assert both.result() == (1, None)
        both = parked(select, receiving(channel), sending(channel, "own"))
        channel.send("other's")
        assert both.result() == (0, "other's")
        assert waiting(channel) == [0]

    greenio.run(main)


def test_two_selects_meet():
    def main():
        channel, never = Channel(), Channel()
        sender = parked(select, sending(channel, "item"), never)
        assert select(never, channel) == (1, "item")
        assert sender.result() == (0, None)
        receiver = parked(select, never, channel)
        assert select(sending(channel, "again"), never) == (0, None)
        assert receiver.result() == (1, "again")
        # Each offers both.
        first = parked(select, sending(channel, "first's"), channel)
        second = greenio.spawn(select, sending(channel, "second's"), channel)
        assert {first.result(), second.result()} in ({(0, None), (1, "first's")}, {(0, None), (1, "second's")})
        assert waiting(channel, never) == [0, 0]

    greenio.run(main)


def test_a_buffered_channel_in_a_select_keeps_its_order():
    found = []

    def main():
        channel, never = Channel(2), Channel()

        def send():
            for item in range(50):
                select(never, sending(channel, item))
            channel.close()

        greenio.spawn(send)
        with pytest.raises(ChannelClosed):
            while True:
                found.append(select(channel, never).value)

    greenio.run(main)
    assert found == list(range(50))


def test_a_case_may_be_used_again():
    def main():
        channel = Channel(3)
        send, receive = sending(channel, "item"), receiving(channel)
        for _ in range(3):
            assert select(send) == (0, None)
        assert [select(receive) for _ in range(3)] == [(0, "item")] * 3
        assert receive.value is None  # the item is not kept
        assert (send.channel, send.item, receive.channel) == (channel, "item", channel)

    greenio.run(main)


def test_selects_that_find_something_all_the_time_let_others_run():
    ran = []

    def main():
        channel = Channel(1)
        greenio.spawn(ran.append, True)
        for turn in range(100):
            select(channel, default=None)
            if ran:
                return turn
        return None

    assert greenio.run(main) <= 32


# --- timeout, default, no cases --------------------------------------------------------------------------------------


def test_a_timeout_that_passes():
    def main():
        channel = Channel()
        with pytest.raises(TimeoutError, match="none of 2 cases came within 5 seconds"):
            select(channel, sending(channel, 1), timeout=5)
        assert greenio.current_time() == 5
        assert waiting(channel) == [0]
        greenio.spawn(channel.send, "item")
        return select(channel, timeout=5)

    assert greenio.run(main, clock=VirtualClock()) == (0, "item")


def test_timeout_zero_does_not_park():
    def main():
        channel = Channel(1)
        before = greenio.current_fiber().scheduler.switch_count
        with pytest.raises(TimeoutError):
            select(channel, greenio.spawn(greenio.yield_now), timeout=0)
        channel.send(1)
        assert select(channel, timeout=0) == (0, 1)
        return greenio.current_fiber().scheduler.switch_count - before

    assert greenio.run(main) == 0


def test_a_default_does_not_park():
    def main():
        channel = Channel(1)
        before = greenio.current_fiber().scheduler.switch_count
        assert select(channel, readable(0), default="nothing", timeout=5)[0] in (-1, 1)
        assert select(channel, default=None) == (-1, None)
        assert select(channel, default=ValueError) == (-1, ValueError)
        channel.send(1)
        assert select(channel, default=None) == (0, 1)
        return greenio.current_fiber().scheduler.switch_count - before

    assert greenio.run(main) == 0


def test_select_without_cases():
    def main():
        with pytest.raises(ValueError, match="without cases would wait for ever"):
            select()
        assert select(default=1) == (-1, 1)
        with pytest.raises(TimeoutError):
            select(timeout=3)
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == 3


@pytest.mark.parametrize("wrong", [None, 1, "channel", [Channel()], select, receiving])
def test_what_is_no_case_is_refused_and_nothing_was_done(wrong):
    channel = Channel(1)
    channel.send_nowait("item")
    with pytest.raises(TypeError, match=r"select takes channels.*, not "):
        select(channel, wrong)
    assert len(channel) == 1


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)])
def test_bad_timeouts_are_refused_and_nothing_was_done(wrong, error):
    channel = Channel(1)
    channel.send_nowait("item")
    with pytest.raises(error):
        select(channel, timeout=wrong)
    with pytest.raises(error):
        greenio.run(lambda: select(channel, timeout=wrong))
    assert len(channel) == 1


@pytest.mark.parametrize("make", [receiving, lambda channel: sending(channel, 1)])
def test_channel_cases_want_a_channel(make):
    for wrong in (None, 1, "channel"):
        with pytest.raises(TypeError):
            make(wrong)


def test_case_classes_say_who_makes_them():
    for made in (receiving(Channel()), sending(Channel(), 1), readable(0), after(1)):
        with pytest.raises(TypeError, match=r"made by greenio\."):
            type(made)()


def test_cases_tell_what_they_are():
    channel = Channel()
    assert repr(receiving(channel)) == f"receiving({channel!r})"
    assert repr(sending(channel, "a")) == f"sending({channel!r}, 'a')"
    assert [repr(case) for case in (readable(5), writable(6), after(1.5), at(7))] == [
        "readable(5)",
        "writable(6)",
        "after(1.5)",
        "at(7)",
    ]


def test_a_fiber_tells_that_it_waits_in_a_select():
    def main():
        channel = Channel()
        chooser = parked(select, channel, timeout=5)
        reason, waiting_on, _ = chooser.waits_for
        return reason, waiting_on == (channel,)

    assert greenio.run(main) == ("select", True)


# --- closed channels -------------------------------------------------------------------------------------------------


def test_a_closed_channel_is_a_case_that_raises():
    def main():
        closed, never = Channel(), Channel()
        closed.close()
        with pytest.raises(ChannelClosed) as caught:
            select(never, closed)
        assert caught.value.index == 1
        with pytest.raises(ChannelClosed) as caught:
            select(sending(closed, 1), never, default=None)
        assert caught.value.index == 0
        assert waiting(never, closed) == [0, 0]

    greenio.run(main)


def test_a_closed_channel_is_drained_first():
    def main():
        channel = Channel(2)
        channel.send(1)
        channel.close()
        assert select(channel) == (0, 1)
        with pytest.raises(ChannelClosed):
            select(channel)

    greenio.run(main)


def test_close_ends_a_select_that_waits():
    def main():
        closed, full = Channel(), Channel(1)
        full.send("item")
        for channel, case in ((closed, receiving(closed)), (full, sending(full, "late"))):
            never = Channel()
            chooser = parked(select, never, never, case)
            channel.close()
            with pytest.raises(ChannelClosed) as caught:
                chooser.result()
            assert caught.value.index == 2
            assert waiting(never, channel) == [0, 0]
        assert list(full) == ["item"]

    greenio.run(main)


def test_a_closed_channel_is_drawn_as_often_as_any_other():
    def main():
        closed, full = Channel(), Channel(1)
        closed.close()
        full.send(1)
        found = Counter()
        for _ in range(200):
            try:
                full.send(select(closed, full).value)
                found["item"] += 1
            except ChannelClosed:
                found["closed"] += 1
        return found

    found = greenio.run(main)
    assert min(found["item"], found["closed"]) > 50


# --- interrupted -----------------------------------------------------------------------------------------------------


def test_a_cancelled_select_has_done_nothing():
    def main():
        one, other = Channel(), Channel(1)
        other.send("full")
        chooser, behind = parked(select, one, sending(other, "late")), parked(one.receive)
        chooser.cancel()
        one.send("item")  # before the cancelled one has run
        assert behind.result() == "item"
        assert chooser.cancelled()
        assert waiting(one, other) == [0, 0]
        assert other.receive() == "full"
        assert len(other) == 0

    greenio.run(main)


def test_a_cancelled_fiber_takes_nothing_even_if_it_would_not_wait():
    def main():
        channel = Channel(1)
        channel.send(1)
        with greenio.CancelScope() as scope:
            scope.cancel()
            select(channel)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), greenio.timeout(0):
            select(channel, default=None)
        return len(channel)

    assert greenio.run(main) == 1


def test_a_select_that_was_served_and_then_cancelled_has_the_item():
    def main():
        channel, never = Channel(), Channel()
        found = []
        chooser = parked(lambda: found.append(select(never, channel)))
        channel.send("item")
        chooser.cancel()
        chooser.join()
        return found

    assert greenio.run(main) == [(1, "item")]


def test_served_in_one_line_it_is_passed_over_in_the_others():
    def main():
        one, other = Channel(), Channel(1)
        chooser = parked(select, one, other)
        behind = parked(other.receive)
        one.send(1)
        other.send(2)  # the select has not run yet, and stands before the other in this line
        assert chooser.result() == (0, 1)
        assert behind.result() == 2

    greenio.run(main)


# --- fibers ----------------------------------------------------------------------------------------------------------


def test_the_end_of_a_fiber():
    def main():
        fast, slow = greenio.spawn(greenio.sleep, 1), greenio.spawn(greenio.sleep, 2)
        assert select(slow, fast) == (1, fast)
        assert greenio.current_time() == 1
        assert select(slow, timeout=5) == (0, slow)
        assert select(slow) == (0, slow)

    greenio.run(main, clock=VirtualClock())


def test_the_failure_of_a_fiber_stays_its_own(caplog):
    def fail():
        greenio.sleep(1)
        raise LookupError("failed")

    def main():
        failing = greenio.spawn(fail)
        assert select(failing, Channel()) == (0, failing)
        with pytest.raises(LookupError):
            failing.result()
        unseen = greenio.spawn(fail, name="unseen")
        select(unseen)

    greenio.run(main, clock=VirtualClock())
    assert [record.message for record in caplog.records if "unseen" in record.message]


def test_a_fiber_that_did_not_end_keeps_no_trace_of_the_select():
    def main():
        channel = Channel()
        sleeper = greenio.spawn(greenio.sleep, 10)
        before = sys.getrefcount(sleeper)
        chooser = parked(select, sleeper, channel)
        joiner = parked(sleeper.join)
        channel.send("item")
        assert chooser.result() == (1, "item")
        with pytest.raises(TimeoutError):
            select(sleeper, timeout=1)
        del chooser
        joiner.join()
        del joiner
        gc.collect()
        return sys.getrefcount(sleeper) - before

    assert greenio.run(main, clock=VirtualClock()) <= 0


def test_a_fiber_cannot_select_its_own_end():
    def main():
        with pytest.raises(RuntimeError, match="cannot wait for its own end"):
            select(greenio.current_fiber(), timeout=1)

    greenio.run(main)


def test_the_end_of_a_fiber_of_another_os_thread():
    done = Channel()
    fibers = Channel(1)

    def other():
        fiber = greenio.spawn(done.receive)
        fibers.send(fiber)
        fiber.join()

    def main():
        fiber = fibers.receive()
        chooser = parked(select, fiber, Channel())
        done.send("item")
        return chooser.result() == (0, fiber) and fiber.result()

    thread = in_thread(greenio.run, other)
    assert greenio.run(main) == "item"
    thread.join()


# --- futures ---------------------------------------------------------------------------------------------------------


def test_the_end_of_a_future():
    def main():
        future = Future()
        chooser = parked(select, Channel(), future)
        future.set_result("result")
        assert chooser.result() == (1, future)
        assert select(future) == (0, future)
        failed = Future()
        greenio.spawn(failed.set_exception, LookupError())
        assert select(failed) == (0, failed)
        cancelled = Future()
        greenio.spawn(cancelled.cancel)
        assert select(cancelled, timeout=60).value is cancelled
        with pytest.raises(CancelledError):
            cancelled.result()

    greenio.run(main)


def test_a_future_that_did_not_end_keeps_no_callback():
    def main():
        future = Future()
        called = []
        future.add_done_callback(called.append)
        channel = Channel()
        for _ in range(3):
            chooser = parked(select, future, channel)
            assert len(future._done_callbacks) == 2
            channel.send(1)
            chooser.join()
            with pytest.raises(TimeoutError):
                select(future, timeout=1)
            chooser = parked(select, future)
            chooser.cancel()
            chooser.join()
        assert len(future._done_callbacks) == 1
        future.set_result(1)
        assert called == [future]

    greenio.run(main, clock=VirtualClock())


def test_the_other_callbacks_of_a_future_are_called_once_each():
    def main():
        future = Future()
        called = []
        choosers = []
        for name in range(5):
            future.add_done_callback(lambda _, name=name: (called.append(name), wait_all_parked()))
            choosers.append(parked(select, future))
        future.set_result(None)  # each callback lets the selects run that were told before it
        assert [chooser.result().index for chooser in choosers] == [0] * 5
        return called

    assert greenio.run(main) == list(range(5))


def test_a_future_that_keeps_its_callback_does_not_lose_what_was_taken(caplog):
    class Sticky(Future):
        def remove_done_callback(self, callback):
            raise KeyError("stuck")

    def main():
        channel, future, other = Channel(1), Future(), Future()
        chooser = parked(select, channel, Sticky(), future)
        channel.send("item")
        assert chooser.result() == (0, "item")
        assert not future._done_callbacks
        chooser = parked(select, channel, Sticky(), other, timeout=1)
        with pytest.raises(TimeoutError):
            chooser.result()
        assert not other._done_callbacks

    greenio.run(main, clock=VirtualClock())
    assert [record.name for record in caplog.records] == ["greenio"] * 2
    assert "FutureCase" in caplog.records[0].getMessage() and caplog.records[0].exc_info[0] is KeyError


def test_what_is_to_end_the_program_comes_through_the_undoing_of_a_select():
    class Ending(Future):
        def remove_done_callback(self, callback):
            raise KeyboardInterrupt

    def main():
        future = Future()
        with pytest.raises(KeyboardInterrupt):
            select(Ending(), future, timeout=1)
        assert not future._done_callbacks

    greenio.run(main, clock=VirtualClock())


def test_a_future_is_gone_with_its_last_reference_after_a_select():
    def main():
        future = Future()
        handle = weakref.ref(future)
        greenio.spawn(future.set_result, 1)
        select(future)
        del future
        return handle() is None

    gc.disable()
    try:
        assert greenio.run(main)
    finally:
        gc.enable()


def test_a_future_that_another_os_thread_ends():
    future = Future()

    def main():
        chooser = parked(select, Channel(), future)
        thread = in_thread(future.set_result, "result")
        assert chooser.result() == (1, future)
        thread.join()

    greenio.run(main)
    assert future.result() == "result"


def test_an_asyncio_future_is_no_case():
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(TypeError, match="select takes"):
            select(loop.create_future(), timeout=0)
    finally:
        loop.close()


# --- moments ---------------------------------------------------------------------------------------------------------


def test_after_counts_from_the_select():
    def main():
        moment = after(5)
        greenio.sleep(2)
        assert select(Channel(), moment) == (1, None)
        assert greenio.current_time() == 7
        assert select(moment, timeout=100) == (0, None)
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == 12


def test_at_is_on_the_schedulers_clock():
    def main():
        assert select(at(5), at(3), after(4)) == (1, None)
        assert greenio.current_time() == 3
        assert select(at(1), Channel()) == (0, None)
        assert select(at(-math.inf)) == (0, None)
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == 3


def test_moments_that_have_come_are_drawn_with_the_rest():
    def main():
        channel = Channel(1)
        channel.send(1)
        found = Counter()
        for _ in range(100):
            index, item = select(channel, after(0))
            found[index] += 1
            if index == 0:
                channel.send(item)
        with pytest.raises(TimeoutError):
            select(Channel(), after(1), timeout=0)
        return found

    found = greenio.run(main)
    assert min(found.values()) > 20


def test_a_moment_that_is_too_far_never_comes():
    def main():
        with pytest.raises(TimeoutError):
            select(after(math.inf), at(math.inf), after(1e300), timeout=10)
        greenio.spawn(channel.send, "item")
        return select(after(math.inf), channel)

    channel = Channel()
    assert greenio.run(main, clock=VirtualClock()) == (1, "item")


def test_a_moment_wins_over_a_timeout_of_the_same_length():
    assert greenio.run(lambda: select(after(2), timeout=2), clock=VirtualClock()) == (0, None)


def test_a_moment_that_did_not_win_leaves_no_timer():
    def main():
        channel = Channel()
        chooser = parked(select, after(100), channel)
        channel.send(1)
        assert chooser.result() == (1, 1)
        greenio.sleep(1)
        with pytest.raises(greenio.DeadlockError):
            Channel().receive()
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == 1


@pytest.mark.parametrize("make", [after, at])
@pytest.mark.parametrize(("wrong", "error"), [(math.nan, ValueError), (None, TypeError), ("1", TypeError)])
def test_moments_are_numbers(make, wrong, error):
    with pytest.raises(error):
        make(wrong)


def test_after_goes_forward_only():
    with pytest.raises(ValueError, match="seconds >= 0, not -1"):
        after(-1)


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_a_socket_becomes_readable(pair):
    one, other = pair

    def main():
        assert select(readable(one), default=None).index == -1
        chooser = parked(select, Channel(), readable(one))
        other.send(b"hello")
        assert chooser.result() == (1, one)
        assert select(readable(one)) == (0, one)
        assert one.recv(10) == b"hello"
        assert select(readable(one), writable(one)) == (1, one)

    greenio.run(main)


def test_a_socket_becomes_writable(pair):
    one, other = pair

    def main():
        sent = 0
        while select(writable(one), default=None).index == 0:
            sent += one.send(b"x" * 65536)
        chooser = parked(select, writable(one), readable(one), Channel())
        while sent:
            sent -= len(other.recv(65536))
        return chooser.result() == (0, one)

    assert greenio.run(main)


def test_a_pipe_by_its_number(pipe):
    reader, writer = pipe

    def main():
        for _ in range(3):
            chooser = parked(select, readable(reader), Channel())
            os.write(writer, b"x")
            assert chooser.result() == (0, reader)
            assert os.read(reader, 10) == b"x"
            with pytest.raises(TimeoutError):
                select(readable(reader), timeout=1)

    greenio.run(main, clock=VirtualClock())


def test_the_end_of_a_stream_is_readable(pair):
    one, other = pair

    def main():
        chooser = parked(select, readable(one))
        other.shutdown(greenio.socket.SHUT_WR)
        assert chooser.result() == (0, one)
        assert one.recv(1) == b""

    greenio.run(main)


def test_a_regular_file_is_always_ready(tmp_path):
    def main():
        with open(tmp_path / "file", "w+") as file:
            assert select(readable(file)) == (0, file)
            assert select(writable(file), Channel()) == (0, file)

    greenio.run(main)


def test_closing_a_socket_ends_the_select(pair):
    one, _ = pair

    def main():
        never = Channel()
        chooser = parked(select, never, readable(one))
        one.close()
        with pytest.raises(OSError, match="closed") as caught:
            chooser.result()
        assert (caught.value.errno, caught.value.index) == (9, 1)
        with pytest.raises(OSError, match="closed"):
            select(readable(one))
        assert waiting(never) == [0]

    greenio.run(main)


def test_a_number_that_is_no_descriptor_is_an_error_of_its_case():
    def main():
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            select(Channel(), readable(10**6))
        assert caught.value.index == 1
        with pytest.raises(ValueError, match="not -1"):
            select(readable(-1))
        with pytest.raises(ValueError, match="a descriptor is an int"):
            select(readable(10**30))

    greenio.run(main)


@pytest.mark.parametrize("wrong", [None, "socket", 1.5, Channel()])
def test_what_has_no_descriptor_cannot_become_ready(wrong):
    for make in (readable, writable):
        with pytest.raises(TypeError, match="can become ready, not"):
            make(wrong)


def test_a_select_that_took_something_else_does_not_keep_the_event_from_a_reader(pair):
    one, other = pair

    def main():
        channel = Channel()
        chooser, reader = parked(select, readable(one), channel), parked(one.recv, 10)
        channel.send("item")
        other.send(b"data")
        assert chooser.result() == (1, "item")
        assert reader.result() == b"data"

    greenio.run(main)


def test_a_select_that_was_woken_passes_the_event_on(pair):
    one, other = pair

    def main():
        choosers = [parked(select, readable(one), Channel()) for _ in range(3)]
        reader = parked(one.recv, 10)
        other.send(b"data")
        assert [chooser.result() for chooser in choosers] == [(0, one)] * 3
        assert reader.result() == b"data"

    greenio.run(main)


def test_a_select_behind_a_reader_waits_until_something_is_left_for_it(pair):
    one, other = pair

    def main():
        reader, chooser = parked(one.recv, 4), parked(select, readable(one), Channel())
        other.send(b"data")
        assert reader.result() == b"data"
        wait_all_parked()
        assert not chooser.done()
        reader = parked(one.recv, 4)
        other.send(b"data and more")
        assert reader.result() == b"data"
        assert chooser.result() == (0, one)

    greenio.run(main)


def test_a_descriptor_that_did_not_win_is_not_waited_for(pair):
    one, _ = pair

    def main():
        channel = Channel()
        chooser = parked(select, readable(one), readable(one), channel)
        channel.send("item")
        assert chooser.result() == (2, "item")
        chooser = parked(select, readable(one))
        chooser.cancel()
        chooser.join()
        with pytest.raises(greenio.DeadlockError):  # with a descriptor waited for, it would wait for ever
            Channel().receive()

    greenio.run(main, clock=VirtualClock())


# --- OS threads without fibers ---------------------------------------------------------------------------------------


def test_an_os_thread_without_fibers_selects_channels():
    one, other = Channel(), Channel()
    thread = in_thread(select, one, sending(other, "from the thread"))
    until(lambda: sum(waiting(one, other)) == 2)
    assert greenio.run(other.receive) == "from the thread"
    thread.join()
    assert thread.outcome == [(1, None)]
    thread = in_thread(select, one, sending(other, "from the thread"))
    greenio.run(one.send, "item")
    thread.join()
    assert thread.outcome == [(0, "item")]
    assert waiting(one, other) == [0, 0]


def test_an_os_thread_without_fibers_selects_a_fibers_end():
    def main():
        fiber = greenio.spawn(go.receive)
        thread = in_thread(select, never, fiber)
        while waiting(never) == [0]:
            greenio.sleep(0.001)
        go.send(None)
        while not thread.outcome:
            greenio.sleep(0.001)
        thread.join()
        return thread.outcome == [(1, fiber)], select(fiber, timeout=0).index

    go, never = Channel(), Channel()
    assert greenio.run(main) == (True, 0)
    assert waiting(never) == [0]


def test_an_os_thread_without_fibers_selects_a_future():
    future, never = Future(), Channel()
    thread = in_thread(select, future, never)
    until(lambda: waiting(never) == [1])
    future.set_result(1)
    thread.join()
    assert thread.outcome == [(0, future)]


def test_an_os_thread_without_fibers_has_timeouts_and_moments():
    never = Channel()
    with pytest.raises(TimeoutError):
        select(never, timeout=0.001)
    with pytest.raises(TimeoutError):
        select(timeout=0.001)
    assert select(never, after(0.001), timeout=60) == (1, None)
    assert select(never, at(time.monotonic() + 0.001)) == (1, None)
    assert select(never, default="none") == (-1, "none")
    assert waiting(never) == [0]


def test_an_os_thread_without_fibers_has_no_descriptors(pipe):
    full = Channel(1)
    full.send_nowait(1)
    for case in map(readable, pipe):
        with pytest.raises(RuntimeError, match="no fibers run on this OS thread"):
            select(full, case)
    assert len(full) == 1


def test_two_os_threads_without_fibers_meet_in_selects():
    channel, never = Channel(), Channel()

    def send():
        for item in range(30):
            select(never, sending(channel, item))
        channel.close()

    thread = in_thread(send)
    found = []
    with pytest.raises(ChannelClosed):
        while True:
            found.append(select(channel, never).value)
    thread.join()
    assert found == list(range(30))
    assert waiting(never, channel) == [0, 0]


def test_what_a_signal_handler_raises_ends_a_select_without_fibers():
    class Stop(Exception):
        pass

    raised = threading.Event()

    def handler(number, frame):
        if not raised.is_set():
            raised.set()
            raise Stop

    channel, future = Channel(), Future()
    before = signal.signal(signal.SIGUSR1, handler)

    def interrupt():
        until(lambda: waiting(channel) == [1])
        # Again and again: one that comes right before the kernel's wait is seen after it, as in threading's locks.
        while not raised.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    thread = in_thread(interrupt)
    try:
        with pytest.raises(Stop):
            select(channel, future)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert waiting(channel) == [0]
    assert future._done_callbacks == []


def test_fibers_of_two_os_threads_meet_in_selects():
    there, back = Channel(), Channel(2)

    def echo():
        never = Channel()
        for item in range(50):
            assert select(never, there) == (1, item)
            select(sending(back, item), never)

    def main():
        never = Channel()
        for item in range(50):
            assert select(sending(there, item), never) == (0, None)
            assert select(back, never) == (0, item)

    thread = in_thread(greenio.run, echo)
    greenio.run(main)
    thread.join()
    assert thread.outcome == [None]


# --- nothing left behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 9])
def test_nothing_is_held_after_a_select(count, pipe):
    def main():
        channel = Channel()
        handles = []
        for way in ("receive", "send", "timeout", "cancel", "close"):
            item = Item()
            handles.append(weakref.ref(item))
            others = [Channel() for _ in range(count)]
            chooser = parked(
                select, *others, after(100), readable(pipe[0]), channel, sending(Channel(), item), timeout=50
            )
            if way == "receive":
                channel.send(item)
            elif way == "send":
                others[0].send(item)
            elif way == "timeout":
                greenio.sleep(60)
            elif way == "cancel":
                chooser.cancel()
            else:
                others[0].close()
            chooser.join()
            if way in ("timeout", "close"):
                chooser.exception()
            handles.extend(map(weakref.ref, others))
            assert waiting(channel, *others) == [0] * (count + 1)
            del item, others, chooser
        gc.collect()
        return [handle() for handle in handles]

    assert set(greenio.run(main, clock=VirtualClock())) == {None}


def test_reference_counts_are_as_before():
    def main():
        channel, empty, item = Channel(1), Channel(), Item()
        cases = [sending(channel, item), channel, receiving(channel)]
        before = [sys.getrefcount(thing) for thing in (channel, empty, item)]
        for _ in range(100):
            select(cases[0])
            assert select(empty, channel).value is item
            select(*cases, default=None)
            channel.receive()
        return [sys.getrefcount(thing) for thing in (channel, empty, item)] == before

    assert greenio.run(main)


# --- locks, events, semaphores, queues, subscriptions ----------------------------------------------------------------


def released(semaphore):
    semaphore.acquire()
    return semaphore


def test_primitives_that_are_ready_are_taken_once():
    def main():
        event, lock, semaphore, queue = greenio.Event(), greenio.Lock(), greenio.Semaphore(1), greenio.Queue()
        event.set()
        queue.put("item")
        assert select(event, timeout=0) == (0, True)
        assert select(lock, timeout=0) == (0, True)
        assert lock.owner is greenio.current_fiber()
        lock.release()
        assert select(semaphore, timeout=0) == (0, True)
        assert not semaphore.acquire(blocking=False)
        assert select(queue, timeout=0) == (0, "item")
        assert queue.empty()

    greenio.run(main)


@pytest.mark.parametrize("make", [greenio.Lock, greenio.RLock, greenio.Semaphore])
def test_a_lock_is_handed_to_the_select_that_waits_for_it(make):
    def main():
        lock, never = released(make()), Channel()
        chooser = parked(select, never, lock)
        later = parked(lock.acquire, timeout=1)
        lock.release()
        assert chooser.result() == (1, True)
        assert later.result() is False, "the select came first, and its fiber has not released"
        assert waiting(never) == [0]

    greenio.run(main, clock=VirtualClock())


@pytest.mark.parametrize("make", [greenio.Lock, greenio.RLock, greenio.Semaphore])
def test_a_select_that_took_something_else_has_not_taken_the_lock(make):
    def main():
        lock, channel = released(make()), Channel()
        chooser = parked(select, channel, lock)
        channel.send("item")
        lock.release()
        assert chooser.result() == (0, "item")
        assert lock.acquire(timeout=0)

    greenio.run(main)


@pytest.mark.parametrize("make", [greenio.Lock, greenio.RLock, greenio.Semaphore])
def test_a_cancelled_select_passes_the_lock_on(make):
    def main():
        lock = released(make())
        chooser = parked(select, lock, greenio.Event())
        later = parked(lock.acquire)
        chooser.cancel()
        lock.release()
        assert later.result() is True
        assert chooser.cancelled()

    greenio.run(main)


def test_an_event_ends_every_select_that_waits_for_it():
    def main():
        event = greenio.Event()
        choosers = [parked(select, event, Channel()) for _ in range(3)]
        event.set()
        assert [chooser.result() for chooser in choosers] == [(0, True)] * 3

    greenio.run(main)


def test_a_queue_and_a_subscription_give_their_next_item():
    def main():
        queue, broadcast = greenio.Queue(), greenio.Broadcast(2)
        with broadcast.subscribe() as subscription:
            choosers = [parked(select, queue, subscription) for _ in range(2)]
            broadcast.send("to all")
            queue.put("to one")
            assert [chooser.result() for chooser in choosers] == [(1, "to all"), (0, "to one")]
            assert queue.empty() and len(subscription) == 0

    greenio.run(main)


def test_an_os_thread_selects_among_primitives():
    lock, event = greenio.Lock(), greenio.Event()
    lock.acquire()
    thread = in_thread(select, lock, event)
    until(lambda: "waiting" in repr(lock) and "waiting" in repr(event))
    event.set()
    thread.join()
    assert thread.outcome == [(1, True)]
    assert "waiting" not in repr(lock)
    lock.release()


@pytest.mark.parametrize(
    "receive", [lambda channel: channel.receive(), lambda channel: select(channel, Channel()).value]
)
def test_one_that_is_passed_over_and_then_shielded_looks_again(receive):
    def main():
        channel = Channel(1)
        scopes = []

        def receiver():
            with greenio.CancelScope() as outer, greenio.CancelScope() as inner:
                scopes.extend((outer, inner))
                return receive(channel)

        fiber = parked(receiver)
        scopes[0].cancel()
        channel.send("item")  # the receiver is on its way out: the item stays in the buffer
        scopes[1].shield = True
        assert fiber.result() == "item"

    greenio.run(main)


def test_a_forked_child_finds_nobody_in_line():
    run_child(
        """
        import os
        import greenio
        from greenio import Channel, after, select
        from greenio.testing import wait_all_parked

        def main():
            one, other = Channel(), Channel()
            chooser = greenio.spawn(select, one, other)
            wait_all_parked()
            child = os.fork()
            if child == 0:
                assert one.statistics()[:2] == (0, 0)
                greenio.spawn(other.send, "own")
                assert select(one, other) == (1, "own")
                assert select(one, after(0.001)) == (1, None)
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            one.send("item")
            assert chooser.result() == (0, "item")

        greenio.run(main)
        """,
        flags=("-W", "ignore"),
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_no_item_is_lost_or_doubled(threads):
    check_script("channels.py", "1", "1000", str(threads))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_no_item_is_lost_or_doubled_in_a_million_operations(threads):
    debug_build = hasattr(sys, "gettotalrefcount")
    check_script("channels.py", "7", "100000" if debug_build else "1000000", str(threads))
