"""_broadcast.pyx: Broadcast and its subscriptions."""

import gc
import random
import sys
import threading
import weakref
from contextlib import suppress

import pytest
from child import run_child

import greenio
from greenio import Broadcast, ChannelClosed, WouldBlock
from greenio.testing import VirtualClock, wait_all_parked

POLICIES = ["block", "drop_oldest", "disconnect"]
every_policy = pytest.mark.parametrize("policy", POLICIES)


def run_virtually(main, *args):
    return greenio.run(main, *args, clock=VirtualClock())


def drain(subscription):
    return [subscription.receive_nowait() for _ in range(len(subscription))]


def parked(fn, *args):
    """A fiber that has come to where it waits in fn."""
    fiber = greenio.spawn(fn, *args)
    wait_all_parked()
    assert fiber.state == "parked"
    return fiber


# --- working ---------------------------------------------------------------------------------------------------------


@every_policy
@pytest.mark.parametrize("inside", [True, False], ids=["fiber", "thread"])
def test_every_subscriber_gets_what_is_sent_after_it_subscribed_in_order(policy, inside):
    def main():
        broadcast = Broadcast(10, policy)
        broadcast.send("nobody gets this")
        first = broadcast.subscribe()
        broadcast.send(1)
        second = broadcast.subscribe()
        broadcast.send_nowait(2)
        broadcast.send(3)
        assert broadcast.subscribers == 2
        assert (len(first), len(second)) == (3, 2)
        assert [first.receive(), first.receive_nowait(), first.receive()] == [1, 2, 3]
        assert drain(second) == [2, 3]
        with pytest.raises(WouldBlock):
            first.receive_nowait()

    greenio.run(main) if inside else main()


@every_policy
def test_the_subscribers_share_one_object(policy):
    broadcast = Broadcast(2, policy)
    subscriptions = [broadcast.subscribe() for _ in range(3)]
    item = object()
    broadcast.send(item)
    assert all(each.receive() is item for each in subscriptions)


@every_policy
def test_a_parked_subscriber_gets_the_item_directly(policy):
    def main():
        broadcast = Broadcast(1, policy)
        subscription = broadcast.subscribe()
        first, second = parked(subscription.receive), parked(subscription.receive)
        broadcast.send(1)
        broadcast.send(2)
        assert len(subscription) == 0
        with pytest.raises(WouldBlock):
            subscription.receive_nowait()
        return first.result(), second.result()

    assert greenio.run(main) == (1, 2)


@every_policy
def test_iteration_ends_when_the_broadcast_is_closed_and_drained(policy):
    def main():
        broadcast = Broadcast(10, policy)
        early, late = broadcast.subscribe(), broadcast.subscribe()
        listener = parked(list, early)
        for item in range(3):
            broadcast.send(item)
        broadcast.close()
        assert late.closed and not late.disconnected
        assert list(late) == [0, 1, 2]
        assert list(late) == []
        return listener.result()

    assert greenio.run(main) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0,), ValueError),
        ((-1,), ValueError),
        ((1, "drop"), ValueError),
        ((1, None), ValueError),
        (("1",), TypeError),
        ((None,), TypeError),
        ((1.5,), TypeError),
        ((1 << 100,), OverflowError),
        ((), TypeError),
    ],
)
def test_bad_arguments_are_refused(arguments, error):
    with pytest.raises(error):
        Broadcast(*arguments)


def test_a_bad_policy_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'block', 'drop_oldest' or 'disconnect', not 'drop'"):
        Broadcast(1, "drop")
    with pytest.raises(ValueError, match=">= 1 items, not 0"):
        Broadcast(0)


@every_policy
def test_it_says_what_it_was_made_with(policy):
    broadcast = Broadcast(3, policy)
    assert (broadcast.capacity, broadcast.policy, broadcast.closed, broadcast.subscribers) == (3, policy, False, 0)
    subscription = broadcast.subscribe()
    assert subscription.broadcast is broadcast
    assert "1 subscribers" in repr(broadcast)
    assert "0 items, 0 dropped" in repr(subscription)
    assert subscription, "an empty one is still one"


def test_making_one_twice_or_by_hand_is_refused():
    broadcast = Broadcast(3)
    with pytest.raises(RuntimeError, match="made once"):
        broadcast.__init__(5)
    assert broadcast.capacity == 3
    with pytest.raises(TypeError, match=r"Broadcast\.subscribe"):
        greenio.Subscription()
    with pytest.raises(RuntimeError, match="__init__ was not called"):
        Broadcast.__new__(Broadcast).subscribe()


def test_a_parked_sender_and_receiver_say_so():
    def main():
        broadcast = Broadcast(1)
        full, empty = broadcast.subscribe(), Broadcast(1).subscribe()
        broadcast.send(0)
        sender, receiver = parked(broadcast.send, 1), parked(empty.receive)
        assert sender.waits_for[:2] == ("broadcast send", broadcast)
        assert receiver.waits_for[:2] == ("broadcast receive", empty)
        assert "1 senders wait" in repr(broadcast)
        assert "1 receivers wait" in repr(empty)
        full.close()

    greenio.run(main)


def test_operations_that_need_not_wait_give_the_others_their_turn():
    ran = []

    def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        greenio.spawn(ran.append, "other")
        for count in range(10_000):
            broadcast.send(count)
            subscription.receive()
            if ran:
                return count
        return None

    assert greenio.run(main) is not None


# --- block -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", ["empty", "full", "send closed", "send_nowait closed", "receive closed", "receive_nowait closed"]
)
def test_polling_gives_the_others_their_turn(what):
    def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        if "closed" in what:
            broadcast.close()
        elif what == "full":
            broadcast.send(1)
        poll = {
            "empty": subscription.receive_nowait,
            "full": lambda: broadcast.send_nowait(2),
            "send closed": lambda: broadcast.send(2),
            "send_nowait closed": lambda: broadcast.send_nowait(2),
            "receive closed": subscription.receive,
            "receive_nowait closed": subscription.receive_nowait,
        }[what]
        other = greenio.spawn(int)
        for _ in range(10_000):
            with pytest.raises((WouldBlock, ChannelClosed)):
                poll()
            if other.done():
                return True
        return False

    assert greenio.run(main)


def test_block_waits_until_every_subscriber_has_room():
    def main():
        broadcast = Broadcast(2)
        quick, slow = broadcast.subscribe(), broadcast.subscribe()
        for item in range(2):
            broadcast.send(item)
        sender = parked(broadcast.send, 2)
        assert drain(quick) == [0, 1]
        wait_all_parked()
        assert sender.state == "parked"
        assert len(quick) == 0, "the item reached one and not the other"
        assert slow.receive() == 0
        sender.join()
        return drain(quick), drain(slow)

    assert greenio.run(main) == ([2], [1, 2])


def test_block_refuses_send_nowait_while_somebody_is_full():
    broadcast = Broadcast(1)
    quick, slow = broadcast.subscribe(), broadcast.subscribe()
    broadcast.send(0)
    assert quick.receive() == 0
    with pytest.raises(WouldBlock, match="1 of 2 subscribers have no room"):
        broadcast.send_nowait(1)
    assert len(quick) == 0
    assert drain(slow) == [0]
    broadcast.send_nowait(1)


def test_senders_are_served_first_come_first_served():
    def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        broadcast.send(0)
        senders = [parked(broadcast.send, item) for item in (1, 2, 3)]
        assert subscription.receive() == 0
        assert senders[0].state == "ready"
        with pytest.raises(WouldBlock):
            broadcast.send_nowait("overtakes")
        found = [subscription.receive() for _ in range(3)]
        wait_all_parked()
        assert all(sender.done() for sender in senders)
        return found

    assert greenio.run(main) == [1, 2, 3]


def test_a_cancelled_sender_reached_nobody_and_the_next_one_sends():
    def main():
        broadcast = Broadcast(1)
        subscriptions = [broadcast.subscribe() for _ in range(2)]
        broadcast.send(0)
        first, second = parked(broadcast.send, 1), parked(broadcast.send, 2)
        first.cancel()
        assert [each.receive() for each in subscriptions] == [0, 0]
        second.join()
        first.join()
        assert first.cancelled()
        return [drain(each) for each in subscriptions]

    assert greenio.run(main) == [[2], [2]]


def test_a_sender_that_was_served_cannot_be_cancelled_any_more():
    def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        broadcast.send(0)
        sent = []
        sender = parked(lambda: (broadcast.send(1), sent.append(1)))
        subscription.receive()
        sender.cancel()
        sender.join()
        return sent, drain(subscription)

    assert greenio.run(main) == ([1], [1])


def test_a_timeout_around_send_reached_nobody():
    def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        broadcast.send(0)
        with pytest.raises(TimeoutError), greenio.timeout(1):
            broadcast.send(1)
        return drain(subscription), broadcast.subscribers

    assert run_virtually(main) == ([0], 1)


@pytest.mark.parametrize("how", ["close", "with", "drop", "cycle"])
def test_a_subscriber_that_leaves_lets_the_senders_go_on(how):
    def main():
        broadcast = Broadcast(1)
        stays = broadcast.subscribe()
        leaves = broadcast.subscribe()
        broadcast.send(0)
        assert stays.receive() == 0
        senders = [parked(broadcast.send, item) for item in (1, 2)]
        if how == "close":
            leaves.close()
        elif how == "with":
            with leaves as entered:
                assert entered is leaves
        elif how == "drop":
            del leaves
        else:
            broadcast_in_cycle = [leaves]
            broadcast_in_cycle.append(broadcast_in_cycle)
            del leaves, broadcast_in_cycle
            gc.collect()
        assert broadcast.subscribers == 1
        senders[0].join()
        wait_all_parked()
        assert senders[1].state == "parked"
        return stays.receive(), stays.receive()

    assert greenio.run(main) == (1, 2)


def test_the_last_subscriber_leaves_and_every_sender_goes_on():
    def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        broadcast.send(0)
        senders = [parked(broadcast.send, item) for item in range(3)]
        subscription.close()
        for sender in senders:
            sender.join()
        return broadcast.subscribers

    assert greenio.run(main) == 0


def test_who_subscribes_while_a_sender_waits_gets_its_item():
    def main():
        broadcast = Broadcast(1)
        old = broadcast.subscribe()
        broadcast.send(0)
        sender = parked(broadcast.send, 1)
        new = broadcast.subscribe()
        old.receive()
        sender.join()
        return drain(old), drain(new)

    assert greenio.run(main) == ([1], [1])


# --- drop_oldest -----------------------------------------------------------------------------------------------------


def test_drop_oldest_never_waits_and_counts_what_was_lost():
    def main():
        broadcast = Broadcast(3, "drop_oldest")
        slow, quick = broadcast.subscribe(), broadcast.subscribe()
        found = []
        for item in range(10):
            (broadcast.send if item % 2 else broadcast.send_nowait)(item)
            found += drain(quick)
        assert (slow.dropped, quick.dropped) == (7, 0)
        assert len(slow) == 3
        return drain(slow), found

    assert greenio.run(main) == ([7, 8, 9], list(range(10)))


def test_what_a_slow_subscriber_loses_is_freed():
    class Item:
        pass

    broadcast = Broadcast(2, "drop_oldest")
    slow = broadcast.subscribe()
    items = []
    for _ in range(5):
        item = Item()
        items.append(weakref.ref(item))
        broadcast.send(item)
    del item
    assert [each() is not None for each in items] == [False, False, False, True, True]
    assert len(slow) == 2


def test_a_destructor_of_a_lost_item_finds_everything_in_order():
    broadcast = Broadcast(1, "drop_oldest")
    subscriptions = [broadcast.subscribe() for _ in range(2)]
    seen = []

    class Item:
        def __del__(self):
            if not seen:
                seen.append([len(each) for each in subscriptions])
                broadcast.send("from the destructor")
                subscriptions.pop().close()

    broadcast.send(Item())
    broadcast.send("second")
    assert seen == [[1, 1]]
    assert drain(subscriptions[0]) == ["from the destructor"]
    assert subscriptions[0].dropped == 2


# --- disconnect ------------------------------------------------------------------------------------------------------


def test_disconnect_cuts_a_slow_subscriber_off_and_says_so():
    def main():
        broadcast = Broadcast(2, "disconnect")
        slow, quick = broadcast.subscribe(), broadcast.subscribe()
        for item in range(3):
            broadcast.send(item)
            drain(quick)
        assert broadcast.subscribers == 1
        assert slow.disconnected and slow.closed
        assert not quick.disconnected and not quick.closed
        broadcast.send(3)
        assert [slow.receive(), slow.receive_nowait()] == [0, 1]
        for receive in (slow.receive, slow.receive_nowait):
            with pytest.raises(ChannelClosed, match="cut off: it was 2 items behind"):
                receive()
        broadcast.close()
        slow.close()
        assert slow.disconnected
        return drain(quick)

    assert greenio.run(main) == [3]


def test_iteration_over_a_subscription_that_was_cut_off_does_not_end_silently():
    broadcast = Broadcast(1, "disconnect")
    slow = broadcast.subscribe()
    broadcast.send(0)
    broadcast.send_nowait(1)
    found = []
    with pytest.raises(ChannelClosed, match="cut off"):
        for item in slow:
            found += [item]
    with pytest.raises(ChannelClosed, match="cut off"):
        next(slow)
    assert found == [0]


def test_every_slow_subscriber_is_cut_off_at_once():
    broadcast = Broadcast(1, "disconnect")
    subscriptions = [broadcast.subscribe() for _ in range(5)]
    broadcast.send(0)
    for each in subscriptions[1:4:2]:
        each.receive()
    broadcast.send(1)
    assert [each.disconnected for each in subscriptions] == [True, False, True, False, True]
    assert broadcast.subscribers == 2
    assert [drain(each) for each in subscriptions] == [[0], [1], [0], [1], [0]]


# --- closed ----------------------------------------------------------------------------------------------------------


@every_policy
def test_a_closed_broadcast_refuses_and_its_subscribers_drain(policy):
    broadcast = Broadcast(2, policy)
    subscription = broadcast.subscribe()
    broadcast.send(1)
    broadcast.close()
    broadcast.close()
    assert broadcast.closed and broadcast.subscribers == 0
    for refused in (lambda: broadcast.send(2), lambda: broadcast.send_nowait(2), broadcast.subscribe):
        with pytest.raises(ChannelClosed, match="closed broadcast"):
            refused()
    assert subscription.receive() == 1
    for receive in (subscription.receive, subscription.receive_nowait):
        with pytest.raises(ChannelClosed, match="receive on a closed broadcast"):
            receive()


def test_close_wakes_who_waits():
    def main():
        full, empty = Broadcast(1), Broadcast(1)
        slow, idle = full.subscribe(), empty.subscribe()
        full.send(0)
        waiting = [parked(full.send, 1), parked(full.send, 2), parked(idle.receive), parked(idle.receive)]
        full.close()
        empty.close()
        wait_all_parked()
        assert [type(fiber.exception()) for fiber in waiting] == [ChannelClosed] * 4
        return drain(slow)

    assert greenio.run(main) == [0]


def test_closing_a_subscription_wakes_its_receivers_and_drops_what_is_there():
    def main():
        broadcast = Broadcast(2)
        mine, other = broadcast.subscribe(), broadcast.subscribe()
        receiver, listener = parked(mine.receive), parked(list, mine)
        mine.close()
        mine.close()
        wait_all_parked()
        assert isinstance(receiver.exception(), ChannelClosed)
        assert listener.result() == []
        broadcast.send(1)
        other.close()
        assert len(other) == 0 and other.closed and not other.disconnected
        with pytest.raises(ChannelClosed, match="closed subscription"):
            other.receive()
        assert list(other) == []
        return broadcast.subscribers

    assert greenio.run(main) == 0


# --- cancelled -------------------------------------------------------------------------------------------------------


def test_a_cancelled_receiver_has_taken_nothing_and_the_next_gets_it():
    def main():
        subscription = (broadcast := Broadcast(2)).subscribe()
        first, second = parked(subscription.receive), parked(subscription.receive)
        first.cancel()
        broadcast.send(1)
        assert second.result() == 1
        first.join()
        assert first.cancelled()
        broadcast.send(2)
        return drain(subscription)

    assert greenio.run(main) == [2]


def test_an_operation_of_a_cancelled_fiber_does_nothing():
    def main():
        broadcast = Broadcast(5)
        subscription = broadcast.subscribe()
        broadcast.send(1)
        raised = []

        def worker():
            for operation in (
                subscription.receive,
                subscription.receive_nowait,
                lambda: broadcast.send(2),
                lambda: broadcast.send_nowait(2),
            ):
                try:
                    operation()
                except greenio.Cancelled:
                    raised.append(True)

        def cancelled():
            greenio.current_fiber().cancel()
            worker()

        greenio.spawn(cancelled).join()
        assert len(raised) == 4
        return drain(subscription)

    assert greenio.run(main) == [1]


# --- select ----------------------------------------------------------------------------------------------------------

needs_select = pytest.mark.skipif(not hasattr(greenio, "select"), reason="greenio has no select yet")


@needs_select
def test_select_receives():
    def main():
        broadcast = Broadcast(1)
        idle, ready = Broadcast(1).subscribe(), broadcast.subscribe()
        broadcast.send("item")
        sender = parked(broadcast.send, "next")
        assert tuple(greenio.select(idle, ready)) == (1, "item")
        sender.join()
        assert tuple(greenio.select(idle, ready)) == (1, "next")
        choice = parked(greenio.select, idle, ready)
        broadcast.send("direct")
        assert tuple(choice.result()) == (1, "direct")
        choice = parked(greenio.select, idle, ready)
        broadcast.close()
        wait_all_parked()
        assert isinstance(choice.exception(), ChannelClosed)

    greenio.run(main)


# --- OS threads ------------------------------------------------------------------------------------------------------


def in_threads(*functions):
    """Run each in an OS thread of its own; raises what one raised."""
    errors = []

    def guard(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guard, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "hangs"
    if errors:
        raise errors[0]


def test_schedulers_and_threads_receive_what_others_send():
    broadcast = Broadcast(3)
    subscriptions = [broadcast.subscribe() for _ in range(4)]
    found = {}

    def listen(index):
        found[index] = list(subscriptions[index])

    def fibers():
        def main():
            listeners = [greenio.spawn(listen, index) for index in (0, 1)]
            for listener in listeners:
                listener.join()

        greenio.run(main)

    def send_all(base):
        for item in range(base, base + 100):
            broadcast.send(item)

    def senders():
        in_threads(lambda: send_all(0), lambda: greenio.run(send_all, 100))
        broadcast.close()

    in_threads(fibers, lambda: listen(2), lambda: greenio.run(listen, 3), senders)
    assert sorted(found[0]) == list(range(200))
    assert all(each == found[0] for each in found.values()), "one order for all"
    for base in (0, 100):
        assert [item for item in found[0] if base <= item < base + 100] == list(range(base, base + 100))


def test_a_forked_child_finds_nobody_waiting():
    run_child(
        """
        import os
        import greenio
        from greenio.testing import wait_all_parked

        def main():
            full, empty = greenio.Broadcast(1), greenio.Broadcast(1)
            slow, idle = full.subscribe(), empty.subscribe()
            full.send(0)
            greenio.spawn(full.send, 1)
            greenio.spawn(idle.receive)
            wait_all_parked()
            pid = os.fork()
            if pid == 0:
                status = 99
                try:
                    empty.send("item")
                    assert idle.receive() == "item"
                    assert slow.receive() == 0 and len(slow) == 0
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert slow.receive() == 0 and slow.receive() == 1
            empty.send("other")

        greenio.run(main)
        """
    )


# --- nothing is left behind ------------------------------------------------------------------------------------------


class Item:
    pass


@every_policy
def test_no_reference_to_an_item_is_left(policy):
    def main():
        broadcast = Broadcast(1, policy)
        kept, closed, dropped = (broadcast.subscribe() for _ in range(3))
        item = Item()
        before = sys.getrefcount(item)
        receiver = parked(kept.receive)
        broadcast.send(item)
        receiver.result()
        del receiver
        if policy == "block":
            sender = parked(broadcast.send, item)
            cancelled = parked(broadcast.send, item)
            cancelled.cancel()
            wait_all_parked()
            closed.close()
            del dropped
            wait_all_parked()
            assert sender.done() and cancelled.done()
            del sender, cancelled
        else:
            broadcast.send(item)
            broadcast.send(item)
            closed.close()
            del dropped
        drain(kept)
        gc.collect()
        assert sys.getrefcount(item) == before

    greenio.run(main)


@every_policy
def test_abandoned_subscriptions_are_freed_with_their_items(policy):
    broadcast = Broadcast(2, policy)
    subscription, item = broadcast.subscribe(), Item()
    broadcast.send(item)
    alive = [weakref.ref(subscription), weakref.ref(item)]
    del subscription, item
    assert [each() for each in alive] == [None, None]
    assert broadcast.subscribers == 0
    broadcast.send(1)


@pytest.mark.parametrize("way", ["freed", "closed"])
def test_subscriptions_within_subscriptions_are_freed_on_a_small_stack(way):
    child = run_child(
        """
        import gc, sys, greenio

        def nest(way):
            outer = greenio.Broadcast(1).subscribe()
            for _ in range(100_000):
                inner, outer = outer, greenio.Broadcast(1).subscribe()
                outer.broadcast.send_nowait(inner)
                inner = None
            if way == "closed":
                outer.close()
            else:
                outer = None
            return sum(isinstance(each, greenio.Subscription) for each in gc.get_objects())

        gc.disable()
        print(greenio.run(lambda: greenio.spawn(nest, sys.argv[1], stack_size=256 << 10).result()))
        """,
        way,
    )
    assert child.stdout == ("1\n" if way == "closed" else "0\n")


def test_a_subscription_that_holds_itself_is_collected():
    broadcast = Broadcast(2)
    subscription = broadcast.subscribe()
    assert gc.is_tracked(subscription)
    broadcast.send(subscription)
    alive = weakref.ref(subscription)
    del subscription
    assert broadcast.subscribers == 1
    gc.collect()
    assert alive() is None
    assert broadcast.subscribers == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_subscriptions_leave_in_any_order(order):
    broadcast = Broadcast(2)
    subscriptions = {number: broadcast.subscribe() for number in range(3)}
    for left, number in zip((2, 1, 0), order, strict=True):
        subscriptions.pop(number)
        assert broadcast.subscribers == left
        broadcast.send(left)
        assert [drain(each) for each in subscriptions.values()] == [[left]] * left
    assert broadcast.subscribers == 0


def test_a_broadcast_may_go_before_its_subscriptions_are_drained():
    broadcast = Broadcast(2)
    subscription = broadcast.subscribe()
    broadcast.send(1)
    alive = weakref.ref(broadcast)
    del broadcast
    assert alive() is subscription.broadcast
    assert subscription.receive() == 1
    del subscription
    assert alive() is None


def test_they_are_generic_in_annotations():
    assert Broadcast[int].__origin__ is Broadcast
    assert greenio.Subscription[int].__origin__ is greenio.Subscription


# --- everything at once ----------------------------------------------------------------------------------------------


@every_policy
@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_everyone_gets_the_same_in_the_same_order(policy, seed):
    # Every subscription sees a run of the sequence of sends that succeeded: without gaps but for what it lost, and counted.
    chance = random.Random(f"{policy}{seed}")

    def main():
        broadcast = Broadcast(4, policy)
        attempts, sent, runs = iter(range(10**6)), [], []
        original, reference = broadcast.subscribe(), []

        def watcher():
            # Never far behind: it sees every send, in order.
            reference.extend(iter(original.receive, "the end"))

        def sender():
            while True:
                item = next(attempts)
                with greenio.move_on_after(chance.choice([0.5, 3])):
                    broadcast.send(item)
                    sent.append(item)
                chance.choice([greenio.yield_now, lambda: greenio.sleep(1)])()

        def listener():
            found = []
            with broadcast.subscribe() as subscription:
                runs.append((subscription, found))
                for _ in range(chance.randrange(20)):
                    with suppress(ChannelClosed), greenio.move_on_after(chance.choice([0.5, 3])):
                        found.append(subscription.receive())
                    chance.choice([greenio.yield_now, lambda: greenio.sleep(1)])()

        watching = greenio.spawn(watcher)
        senders = [greenio.spawn(sender) for _ in range(3)]
        listeners = []
        for _ in range(40):
            listeners.append(greenio.spawn(listener))
            greenio.sleep(0.75)
            if chance.random() < 0.2:
                chance.choice(listeners).cancel()
        for fiber in senders + listeners:
            fiber.cancel()
        wait_all_parked()
        broadcast.send("the end")
        watching.join()
        assert not original.disconnected and original.dropped == 0
        assert sorted(reference) == sorted(sent)
        position = {item: index for index, item in enumerate(reference)}
        for subscription, found in runs:
            seen = [position[item] for item in found]
            assert seen == sorted(set(seen))
            if seen and not subscription.dropped:
                assert seen == list(range(seen[0], seen[0] + len(seen))), "a gap"
        if policy == "drop_oldest":
            assert any(subscription.dropped for subscription, _ in runs)
        if policy == "disconnect":
            assert any(subscription.disconnected for subscription, _ in runs)

    run_virtually(main)
