"""_channels.pyx: items from sender to receiver, in order, each exactly once, whoever is interrupted and whatever is closed."""

import gc
import itertools
import math
import signal
import sys
import threading
import types
import weakref

import pytest
from child import run_child
from waiters import in_thread, parked, until

import greenio
from greenio import Channel, ChannelClosed, WouldBlock
from greenio.testing import VirtualClock, wait_all_parked


class Item:
    """Something to which weak references are possible."""


def receive_into(found, channel):
    for item in channel:
        found.append(item)


# --- what it is ------------------------------------------------------------------------------------------------------


def test_a_new_channel():
    channel = Channel()
    assert (channel.capacity, len(channel), channel.closed) == (0, 0, False)
    assert channel.statistics() == (0, 0, 0, 0, 0)
    assert Channel(5).capacity == 5
    assert Channel(capacity=7).capacity == 7


@pytest.mark.parametrize("wrong", [-1, -(10**30), 10**30, sys.maxsize, None, math.inf])
def test_a_capacity_out_of_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match="capacity"):
        Channel(wrong)


@pytest.mark.parametrize("wrong", [1.0, "1", [1], math.nan, print])
def test_a_capacity_that_is_no_int_is_refused(wrong):
    with pytest.raises(TypeError, match="capacity is an int"):
        Channel(wrong)


def test_the_error_for_no_bound_says_that_there_is_always_one():
    with pytest.raises(ValueError, match="a channel has a bound"):
        Channel(math.inf)


def test_a_channel_is_true_even_if_empty():
    assert Channel()
    assert Channel(3)


def test_a_channel_cannot_be_made_to_begin_anew():
    channel = Channel(2)
    channel.send_nowait(1)
    channel.__init__()
    assert (channel.capacity, len(channel)) == (2, 1)


def test_a_channel_of_ints_in_annotations():
    assert isinstance(Channel[int], types.GenericAlias)
    assert Channel[int](3).capacity == 3


def test_a_channel_has_no_subclasses():
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Sub", (Channel,), {})


def test_the_repr_tells_what_is_in_it_and_who_waits():
    def main():
        channel = Channel(1)
        texts = [repr(channel)]
        channel.send(1)
        sender = parked(channel.send, 2)
        texts.append(repr(channel))
        sender.cancel()
        channel.close()
        rendezvous = Channel()
        receivers = [parked(rendezvous.receive) for _ in range(2)]
        texts.extend([repr(channel), repr(rendezvous)])
        for receiver in receivers:
            receiver.cancel()
        return texts

    assert greenio.run(main) == [
        "<greenio.Channel 0 of 1 items>",
        "<greenio.Channel 1 of 1 items, 1 sender waits>",
        "<greenio.Channel 1 of 1 items, closed>",
        "<greenio.Channel unbuffered, 2 receivers wait>",
    ]


def test_a_fiber_tells_that_it_waits_in_a_channel():
    def main():
        channel = Channel()
        receiver = parked(channel.receive)
        receiving = receiver.waits_for[:2]
        channel.send(1)
        sender = parked(channel.send, 2)
        sending = sender.waits_for[:2]
        channel.receive()
        assert receiving == ("channel receive", channel)
        assert sending == ("channel send", channel)

    greenio.run(main)


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 100])
def test_items_come_in_the_order_in_which_they_were_sent(capacity):
    found = []

    def main():
        channel = Channel(capacity)
        receiver = greenio.spawn(receive_into, found, channel)
        for item in range(1000):
            channel.send(item)
        channel.close()
        receiver.join()

    greenio.run(main)
    assert found == list(range(1000))


@pytest.mark.parametrize("capacity", [1, 255, 256, 257, 5000])
def test_the_buffer_goes_around_and_grows(capacity):
    channel = Channel(capacity)
    sent = itertools.count()
    expected = itertools.count()
    for most in (1, capacity // 3, capacity // 2 + 1, capacity, capacity):
        while len(channel) < most:
            channel.send_nowait(next(sent))
        for _ in range((len(channel) + 1) // 2):
            assert channel.receive_nowait() == next(expected)
    while len(channel) < capacity:
        channel.send_nowait(next(sent))
    with pytest.raises(WouldBlock):
        channel.send_nowait(None)
    for _ in range(capacity):
        assert channel.receive_nowait() == next(expected)
    assert len(channel) == 0
    assert channel.statistics().peak == capacity


def test_a_huge_capacity_takes_no_memory_before_it_is_used():
    channel = Channel(10**15)
    for item in range(10_000):
        channel.send_nowait(item)
    assert [channel.receive_nowait() for _ in range(10_000)] == list(range(10_000))


def test_a_send_without_a_buffer_waits_for_its_receive():
    order = []

    def main():
        channel = Channel()

        def send():
            channel.send("item")
            order.append("sent")

        sender = parked(send)
        assert len(channel) == 0
        order.append(channel.receive())
        sender.join()

    greenio.run(main)
    assert order == ["item", "sent"]


def test_a_send_into_the_buffer_does_not_wait():
    def main():
        channel = Channel(3)
        for item in "abc":
            channel.send(item)
        assert len(channel) == 3
        assert [channel.receive() for _ in range(3)] == ["a", "b", "c"]
        return greenio.current_scheduler().switch_count

    assert greenio.run(main) == 0


@pytest.mark.parametrize("capacity", [0, 2])
def test_receivers_are_served_in_the_order_in_which_they_came(capacity):
    found = []

    def main():
        channel = Channel(capacity)
        receivers = [parked(lambda name=name: found.append((name, channel.receive()))) for name in "abc"]
        assert channel.statistics().waiting_receivers == 3
        for item in range(3):
            channel.send(item)
        for receiver in receivers:
            receiver.join()

    greenio.run(main)
    assert found == [("a", 0), ("b", 1), ("c", 2)]


@pytest.mark.parametrize("capacity", [0, 2])
def test_senders_are_served_in_the_order_in_which_they_came(capacity):
    order = []

    def main():
        channel = Channel(capacity)
        for item in range(capacity):
            channel.send(item)

        def send(item):
            channel.send(item)
            order.append(item)

        senders = [parked(send, item) for item in range(capacity, capacity + 3)]
        assert channel.statistics().waiting_senders == 3
        assert [channel.receive() for _ in range(capacity + 3)] == list(range(capacity + 3))
        for sender in senders:
            sender.join()

    greenio.run(main)
    assert order == list(range(capacity, capacity + 3))


def test_nobody_gets_in_before_a_receiver_that_waits():
    def main():
        channel = Channel(5)
        waiting = parked(channel.receive)
        channel.send("first")
        # The waiting one has it already, though it has not run.
        assert len(channel) == 0
        with pytest.raises(WouldBlock):
            channel.receive_nowait()
        return waiting.result()

    assert greenio.run(main) == "first"


def test_nobody_gets_in_before_a_sender_that_waits():
    def main():
        channel = Channel(1)
        channel.send(1)
        waiting = parked(channel.send, 2)
        assert channel.receive() == 1
        # Its item has taken the room.
        with pytest.raises(WouldBlock):
            channel.send_nowait(3)
        assert channel.receive() == 2
        waiting.join()

    greenio.run(main)


def test_two_fibers_in_turn_cost_one_switch_an_item():
    def main():
        channel = Channel()
        found = []
        receiver = greenio.spawn(receive_into, found, channel)
        wait_all_parked()
        before = greenio.current_scheduler().switch_count
        for item in range(1000):
            channel.send(item)
        switches = greenio.current_scheduler().switch_count - before
        channel.close()
        receiver.join()
        return switches, len(found)

    switches, count = greenio.run(main)
    assert count == 1000
    assert switches <= 1010


def test_who_sends_and_receives_all_the_time_lets_others_run():
    ran = []

    def main():
        channel = Channel(1)
        greenio.spawn(ran.append, True)
        for turn in range(1000):
            channel.send(turn)
            channel.receive()
            if ran:
                return turn
        return None

    assert greenio.run(main) <= 32


def test_who_receives_from_a_closed_channel_all_the_time_lets_others_run():
    ran = []

    def main():
        channel = Channel()
        channel.close()
        greenio.spawn(ran.append, True)
        for _ in range(1000):
            with pytest.raises(ChannelClosed):
                channel.receive()
        return len(ran)

    assert greenio.run(main) == 1


# --- without waiting -------------------------------------------------------------------------------------------------


def test_send_nowait_wants_a_receiver_or_room():
    def main():
        channel = Channel()
        with pytest.raises(WouldBlock, match="no receiver waits"):
            channel.send_nowait(1)
        receiver = parked(channel.receive)
        channel.send_nowait(2)
        with pytest.raises(WouldBlock):
            channel.send_nowait(3)
        assert receiver.result() == 2
        buffered = Channel(1)
        buffered.send_nowait(4)
        with pytest.raises(WouldBlock, match=r"the channel is full \(1 items\)"):
            buffered.send_nowait(5)
        assert buffered.receive_nowait() == 4

    greenio.run(main)


def test_receive_nowait_wants_an_item_or_a_sender():
    def main():
        channel = Channel()
        with pytest.raises(WouldBlock, match="no item"):
            channel.receive_nowait()
        sender = parked(channel.send, 1)
        assert channel.receive_nowait() == 1
        with pytest.raises(WouldBlock):
            channel.receive_nowait()
        sender.join()

    greenio.run(main)


def test_what_does_not_wait_needs_no_run():
    channel = Channel(2)
    channel.send(1)
    channel.send_nowait(2)
    assert channel.receive() == 1
    channel.close()
    assert list(channel) == [2]
    with pytest.raises(ChannelClosed):
        channel.receive()


def test_the_nowait_calls_are_no_checkpoints():
    def main():
        channel = Channel(1)
        greenio.current_fiber().cancel()
        channel.send_nowait(1)
        assert channel.receive_nowait() == 1
        channel.close()

    with pytest.raises(greenio.Cancelled):
        greenio.run(lambda: (main(), greenio.checkpoint()))


def test_a_signal_handler_on_top_of_the_idle_loop_can_send_but_not_wait():
    channel = Channel()
    refused = []

    def handler(number, frame):
        with pytest.raises(RuntimeError, match="a signal handler cannot wait"):
            Channel().receive()
        refused.append(True)
        channel.send(number)  # served at once: the receiver waits

    def signal_when_idle():
        until(lambda: channel.statistics().waiting_receivers)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    thread = in_thread(signal_when_idle)
    try:
        assert greenio.run(channel.receive) == signal.SIGUSR1
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert refused == [True]


# --- close -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 3])
def test_iteration_ends_when_the_channel_is_closed_and_drained(capacity):
    found = []

    def main():
        channel = Channel(capacity)
        receiver = parked(receive_into, found, channel)
        for item in range(3):
            channel.send(item)
        channel.close()
        receiver.join()
        assert list(channel) == []

    greenio.run(main)
    assert found == [0, 1, 2]


def test_what_is_in_the_buffer_can_be_received_after_close():
    channel = Channel(3)
    channel.send(1)
    channel.send(2)
    channel.close()
    assert channel.closed
    assert len(channel) == 2
    assert [channel.receive(), channel.receive_nowait()] == [1, 2]
    for receive in (channel.receive, channel.receive_nowait):
        with pytest.raises(ChannelClosed, match="nothing will come") as caught:
            receive()
        assert caught.value.index is None


def test_who_sends_on_a_closed_channel_all_the_time_lets_others_run():
    happened = []

    def main():
        channel = Channel()
        channel.close()
        greenio.spawn(happened.append, True)
        for _ in range(10_000):
            with pytest.raises(ChannelClosed):
                channel.send("item")
            if happened:
                break
        assert happened == [True]

    greenio.run(main)


def test_nothing_is_sent_on_a_closed_channel():
    channel = Channel(3)
    channel.close()
    for send in (channel.send, channel.send_nowait):
        with pytest.raises(ChannelClosed, match="was not sent"):
            send(1)
    assert len(channel) == 0


def test_close_twice_does_nothing():
    channel = Channel(1)
    channel.send(1)
    channel.close()
    channel.close()
    assert channel.receive() == 1


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_ends_every_receive_that_waits(capacity):
    def main():
        channel = Channel(capacity)
        receivers = [parked(channel.receive) for _ in range(3)]
        channel.close()
        for receiver in receivers:
            with pytest.raises(ChannelClosed):
                receiver.result()
        assert channel.statistics().waiting_receivers == 0

    greenio.run(main)


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_ends_every_send_that_waits_and_its_item_was_not_sent(capacity):
    def main():
        channel = Channel(capacity)
        for item in range(capacity):
            channel.send(item)
        senders = [parked(channel.send, "late") for _ in range(3)]
        channel.close()
        for sender in senders:
            with pytest.raises(ChannelClosed):
                sender.result()
        assert list(channel) == list(range(capacity))
        assert channel.statistics() == (0, 0, capacity, capacity, capacity)

    greenio.run(main)


def test_a_receiver_that_was_given_an_item_keeps_it_when_the_channel_is_closed_before_it_runs():
    def main():
        channel = Channel()
        receiver = parked(channel.receive)
        channel.send("item")
        channel.close()
        return receiver.result()

    assert greenio.run(main) == "item"


def test_a_sender_whose_item_was_taken_has_sent_though_the_channel_is_closed_before_it_runs():
    def main():
        channel = Channel()
        sender = parked(channel.send, "item")
        assert channel.receive() == "item"
        channel.close()
        sender.result()

    greenio.run(main)


# --- interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 2])
def test_a_cancelled_receive_has_taken_nothing_and_the_next_one_gets_the_item(capacity):
    def main():
        channel = Channel(capacity)
        first, second = parked(channel.receive), parked(channel.receive)
        first.cancel()
        channel.send("item")  # before the cancelled one has run
        assert second.result() == "item"
        assert first.cancelled()
        assert channel.statistics()[:2] == (0, 0)

    greenio.run(main)


@pytest.mark.parametrize("capacity", [0, 2])
def test_a_cancelled_send_has_sent_nothing_and_the_next_one_gets_its_turn(capacity):
    def main():
        channel = Channel(capacity)
        for item in range(capacity):
            channel.send(item)
        first, second = parked(channel.send, "first"), parked(channel.send, "second")
        first.cancel()
        found = [channel.receive() for _ in range(capacity + 1)]
        second.join()
        assert first.cancelled()
        assert found == [*range(capacity), "second"]
        assert channel.statistics()[:2] == (0, 0)

    greenio.run(main)


def test_a_cancelled_receiver_with_nobody_behind_leaves_the_item_in_the_buffer():
    def main():
        channel = Channel(1)
        receiver = parked(channel.receive)
        receiver.cancel()
        channel.send("item")
        assert len(channel) == 1
        receiver.join()
        assert receiver.cancelled()
        return channel.receive()

    assert greenio.run(main) == "item"


def test_who_is_cancelled_after_having_been_served_has_the_item():
    def main():
        channel = Channel()
        found = []
        receiver = parked(lambda: found.append(channel.receive()))
        channel.send("item")
        receiver.cancel()
        receiver.join()
        return found

    assert greenio.run(main) == ["item"]


def test_a_cancelled_fiber_neither_sends_nor_receives_even_if_it_would_not_wait():
    def main():
        channel = Channel(2)
        channel.send(1)
        with greenio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(greenio.Cancelled):
                channel.send(2)
            with pytest.raises(greenio.Cancelled):
                channel.receive()
            with pytest.raises(greenio.Cancelled):
                next(channel)
        return len(channel)

    assert greenio.run(main) == 1


def test_a_receive_that_timed_out_has_taken_nothing():
    def main():
        channel = Channel()
        with pytest.raises(TimeoutError), greenio.timeout(1):
            channel.receive()
        assert channel.statistics().waiting_receivers == 0
        greenio.spawn(channel.send, "item")
        assert greenio.current_time() == 1
        return channel.receive()

    assert greenio.run(main, clock=VirtualClock()) == "item"


def test_a_send_that_timed_out_has_sent_nothing():
    def main():
        channel = Channel(1)
        channel.send(1)
        with greenio.move_on_after(1) as scope:
            channel.send(2)
        assert scope.cancelled_caught
        assert channel.statistics().waiting_senders == 0
        channel.close()
        return list(channel)

    assert greenio.run(main, clock=VirtualClock()) == [1]


def test_an_item_and_a_deadline_at_the_same_moment_are_never_both_taken():
    def main():
        for _ in range(2):
            channel = Channel(1)
            outcomes = []

            def receive(channel=channel, outcomes=outcomes):
                with greenio.move_on_after(1):
                    outcomes.append(channel.receive())

            def send(channel=channel):
                greenio.sleep(1)
                channel.send("item")

            fibers = [greenio.spawn(receive), greenio.spawn(send)]
            for fiber in fibers:
                fiber.join()
            assert len(outcomes) + len(channel) == 1

    greenio.run(main, clock=VirtualClock())


# --- between OS threads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 4])
def test_an_os_thread_without_fibers_receives_what_a_fiber_sends(capacity):
    channel = Channel(capacity)
    thread = in_thread(list, channel)

    def main():
        for item in range(50):
            channel.send(item)
        channel.close()

    greenio.run(main)
    thread.join()
    assert thread.outcome == [list(range(50))]


@pytest.mark.parametrize("capacity", [0, 4])
def test_a_fiber_receives_what_an_os_thread_without_fibers_sends(capacity):
    channel = Channel(capacity)

    def send():
        for item in range(50):
            channel.send(item)
        channel.close()

    thread = in_thread(send)
    found = greenio.run(lambda: list(channel))
    thread.join()
    assert found == list(range(50))


@pytest.mark.parametrize("capacity", [0, 4])
def test_fibers_of_two_os_threads_share_channels(capacity):
    there, back = Channel(capacity), Channel(capacity)

    def double():
        for item in there:
            back.send(2 * item)
        back.close()

    def main():
        sender = greenio.spawn(lambda: ([there.send(item) for item in range(50)], there.close()))
        found = list(back)
        sender.join()
        return found

    thread = in_thread(greenio.run, double)
    found = greenio.run(main)
    thread.join()
    assert thread.outcome == [None]
    assert found == [2 * item for item in range(50)]


def test_os_threads_without_fibers_are_served_in_order():
    channel = Channel()
    threads = []
    for count in range(1, 4):
        threads.append(in_thread(channel.receive))
        until(lambda count=count: channel.statistics().waiting_receivers == count)
    for item in range(3):
        channel.send(item)
    for thread in threads:
        thread.join()
    assert [thread.outcome for thread in threads] == [[0], [1], [2]]


def test_close_ends_the_waits_of_os_threads():
    full = Channel(1)
    full.send(1)
    empty = Channel()
    sender, receiver = in_thread(full.send, 2), in_thread(empty.receive)
    until(lambda: full.statistics().waiting_senders and empty.statistics().waiting_receivers)
    full.close()
    empty.close()
    sender.join()
    receiver.join()
    assert [type(thread.outcome[0]) for thread in (sender, receiver)] == [ChannelClosed] * 2
    assert list(full) == [1]


def test_a_signal_handler_runs_while_the_main_thread_waits_without_fibers():
    def handler(number, frame):
        if not heard.is_set():
            heard.set()
            other.start()

    def interrupt():
        until(lambda: channel.statistics().waiting_receivers)
        # Again and again: one that comes right before the kernel's wait is seen after it, as in threading's locks.
        while not heard.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    channel = Channel()
    heard = threading.Event()
    before = signal.signal(signal.SIGUSR1, handler)
    other = threading.Thread(target=channel.send, args=("item",))
    thread = in_thread(interrupt)
    try:
        assert channel.receive() == "item"
    finally:
        thread.join()
        other.join()
        signal.signal(signal.SIGUSR1, before)


def test_what_a_signal_handler_raises_ends_a_wait_without_fibers():
    class Stop(Exception):
        pass

    raised = threading.Event()

    def handler(number, frame):
        if not raised.is_set():
            raised.set()
            raise Stop

    def stop():
        until(lambda: channel.statistics().waiting_receivers)
        # Again and again: one that comes right before the kernel's wait is seen after it, as in threading's locks.
        while not raised.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    channel = Channel()
    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(Stop):
            channel.receive()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert channel.statistics().waiting_receivers == 0


# --- nothing left behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 1, 5])
def test_an_item_is_held_by_nobody_once_it_was_received(capacity):
    def main():
        channel = Channel(capacity)
        for receiver_first in (True, False):
            item = Item()
            handle = weakref.ref(item)
            if receiver_first:
                receiver = parked(channel.receive)
                channel.send(item)
                del item
                receiver.result()
                del receiver
            else:
                sender = greenio.spawn(channel.send, item)
                del item
                wait_all_parked()
                channel.receive()
                sender.join()
                del sender
            assert handle() is None

    greenio.run(main)


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_the_item_of_a_send_that_did_not_happen_is_held_by_nobody(end):
    def main():
        channel = Channel()
        item = Item()
        handle = weakref.ref(item)
        sender = parked(channel.send, item)
        del item
        if end == "cancel":
            sender.cancel()
        else:
            channel.close()
        sender.join()
        if end == "close":
            sender.exception()
        del sender
        return handle

    handle = greenio.run(main)
    gc.collect()
    assert handle() is None


def test_items_go_with_their_channel():
    channel = Channel(3)
    handles = []
    for _ in range(3):
        item = Item()
        handles.append(weakref.ref(item))
        channel.send_nowait(item)
    del item
    gone = weakref.ref(channel)
    assert all(handle() is not None for handle in handles)
    del channel
    assert gone() is None
    assert [handle() for handle in handles] == [None] * 3


def test_reference_counts_are_as_before():
    def send_often(channel, item):
        for _ in range(100):
            channel.send(item)

    def main():
        for capacity in (0, 1, 300):
            channel = Channel(capacity)
            item = Item()
            before = sys.getrefcount(item), sys.getrefcount(channel)
            for _ in range(3):
                sender = greenio.spawn(send_often, channel, item)
                for _ in range(100):
                    assert channel.receive() is item
                sender.join()
                del sender
            with pytest.raises(WouldBlock):
                channel.receive_nowait()
            gc.collect()
            assert (sys.getrefcount(item), sys.getrefcount(channel)) == before

    greenio.run(main)


def test_a_cycle_through_a_buffered_item_is_collected():
    channel = Channel(10)
    item = Item()
    item.channel = channel
    channel.send_nowait(item)
    channel.send_nowait(channel)
    handles = weakref.ref(item), weakref.ref(channel)
    del item, channel
    gc.collect()
    assert [handle() for handle in handles] == [None, None]


def test_a_finalizer_in_a_cycle_may_use_the_channel():
    found = []

    class Last:
        def __del__(self):
            found.append(self.channel.receive_nowait())
            self.channel.send_nowait("sent while it ends")

    item = Last()
    item.channel = Channel(2)
    item.channel.send_nowait("item")
    item.channel.send_nowait(item)
    del item
    gc.collect()
    assert found == ["item"]


def test_the_collector_sees_the_items():
    channel = Channel(1)
    item = Item()
    channel.send_nowait(item)
    (slots,) = gc.get_referents(channel)
    assert item in slots


def test_a_destructor_that_uses_the_channel_sees_it_whole():
    channel = Channel(1)
    seen = []

    class Noisy:
        def __del__(self):
            seen.append((len(channel), channel.statistics().received))
            channel.send_nowait("from the destructor")

    channel.send_nowait(Noisy())
    channel.receive_nowait()
    assert seen == [(0, 1)]
    assert channel.receive_nowait() == "from the destructor"


def test_statistics_count():
    def main():
        channel = Channel(2)
        for item in range(4):
            greenio.spawn(channel.send, item)
        wait_all_parked()
        full = channel.statistics()
        for _ in range(4):
            channel.receive()
        receivers = [parked(channel.receive) for _ in range(3)]
        waiting = channel.statistics()
        channel.close()
        for receiver in receivers:
            receiver.exception()
        return full, waiting, channel.statistics()

    full, waiting, after = greenio.run(main)
    assert full == (2, 0, 2, 2, 0)
    assert (full.waiting_senders, full.waiting_receivers, full.peak, full.sent, full.received) == tuple(full)
    assert waiting == (0, 3, 2, 4, 4)
    assert after == (0, 0, 2, 4, 4)


def test_a_forked_child_finds_the_items_and_nobody_in_line():
    run_child(
        """
        import os
        import greenio
        from greenio.testing import wait_all_parked

        def main():
            channel = greenio.Channel(1)
            empty = greenio.Channel()
            channel.send("item")
            for fn, args in ((channel.send, (2,)), (empty.receive, ())):
                greenio.spawn(fn, *args)
            wait_all_parked()
            child = os.fork()
            if child == 0:
                assert channel.statistics()[:2] == empty.statistics()[:2] == (0, 0)
                assert channel.receive() == "item"
                assert len(channel) == 0
                greenio.spawn(empty.send, "own")
                assert empty.receive() == "own"
                empty.close()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert [channel.receive(), channel.receive()] == ["item", 2]
            empty.send("ours")

        greenio.run(main)
        """,
        flags=("-W", "ignore"),
    )
