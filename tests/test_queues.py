"""_queues.pyx: Queue, LifoQueue, PriorityQueue, SimpleQueue."""

import copy
import gc
import inspect
import os
import pickle
import queue as standard
import random
import signal
import sys
import threading
import weakref
from collections import Counter
from concurrent.futures import Future

import pytest
from child import run_child

import greenio
from greenio import LifoQueue, PriorityQueue, Queue, ShutDown, SimpleQueue
from greenio._select import seed_select
from greenio.testing import VirtualClock, wait_all_parked

BOUNDED = [Queue, LifoQueue, PriorityQueue]
KINDS = [*BOUNDED, SimpleQueue]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_bounded_kind = pytest.mark.parametrize("kind", BOUNDED)


class HookedQueue(Queue):
    """A subclass as they are written for queue.Queue."""

    def _init(self, maxsize):
        self.items = []

    def _qsize(self):
        return len(self.items)

    def _put(self, item):
        self.items.append(item)

    def _get(self):
        return self.items.pop(0)


every_kind_and_hooked = pytest.mark.parametrize("kind", [*KINDS, HookedQueue])
every_bounded_kind_and_hooked = pytest.mark.parametrize("kind", [*BOUNDED, HookedQueue])


def run_virtually(main, *args):
    return greenio.run(main, *args, clock=VirtualClock())


def drain(queue):
    return [queue.get_nowait() for _ in range(queue.qsize())]


def parked(fn, *args, **keywords):
    """A fiber that has come to where it waits in fn."""
    fiber = greenio.spawn(lambda: fn(*args, **keywords))
    wait_all_parked()
    assert fiber.state == "parked"
    return fiber


def outcome(fiber):
    if not fiber.done():
        return fiber.state
    if fiber.cancelled():
        return "cancelled"
    error = fiber.exception()
    return fiber.result() if error is None else type(error)


# --- working ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Queue, [2, 3, 1]),
        (LifoQueue, [1, 3, 2]),
        (PriorityQueue, [1, 2, 3]),
        (SimpleQueue, [2, 3, 1]),
        (HookedQueue, [2, 3, 1]),
    ],
)
@pytest.mark.parametrize("inside", [True, False], ids=["fiber", "thread"])
def test_items_come_out_in_the_order_of_their_kind(kind, expected, inside):
    def main():
        queue = kind()
        assert queue.empty()
        for item in (2, 3, 1):
            queue.put(item)
        assert queue.qsize() == 3 and not queue.empty()
        return [queue.get() for _ in range(3)]

    assert (greenio.run(main) if inside else main()) == expected


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_puts_and_gets_agrees_with_the_standard_library(seed):
    chance = random.Random(seed)
    for kind in KINDS:
        ours, theirs = kind(), getattr(standard, kind.__name__)()
        for _ in range(400):
            if theirs.empty() or chance.random() < 0.55:
                item = chance.randrange(1000)
                ours.put(item)
                theirs.put(item)
            else:
                assert ours.get() == theirs.get()
            assert ours.qsize() == theirs.qsize()
        assert drain(ours) == drain(theirs)


@every_kind
def test_signatures_are_the_standard_librarys(kind):
    theirs = getattr(standard, kind.__name__)
    for name in [name for name in vars(theirs if kind is SimpleQueue else standard.Queue) if not name.startswith("_")]:
        if not callable(getattr(theirs, name)):
            continue
        parameters = [
            [(each.name, each.default) for each in inspect.signature(getattr(of, name)).parameters.values()]
            for of in (kind, theirs)
        ]
        assert parameters[0] == parameters[1], name
    assert hasattr(Queue, "shutdown")


def test_shutdown_is_the_standard_class_where_there_is_one():
    assert getattr(standard, "ShutDown", ShutDown) is ShutDown
    assert issubclass(ShutDown, Exception)


@every_bounded_kind_and_hooked
def test_a_full_queue_refuses_and_an_empty_one_has_nothing(kind):
    queue = kind(2)
    assert queue.maxsize == 2
    for refused in (queue.get_nowait, lambda: queue.get(False), lambda: queue.get(timeout=0)):
        with pytest.raises(standard.Empty):
            refused()
    queue.put(1)
    assert not queue.full()
    queue.put_nowait(2)
    assert queue.full()
    for refused in (lambda: queue.put_nowait(3), lambda: queue.put(3, False), lambda: queue.put(3, timeout=0)):
        with pytest.raises(standard.Full):
            refused()
    assert sorted(drain(queue)) == [1, 2]


@every_kind
def test_many_items_come_and_go(kind):
    queue = kind()
    for count in (1, 7, 8, 9, 1000, 3):
        for item in range(count):
            queue.put(item)
        assert sorted(queue.get() for _ in range(count)) == list(range(count))


def test_a_ring_that_goes_round_keeps_its_order():
    queue = Queue()
    for item in range(5):
        queue.put(item)
    for item in range(5, 200):
        queue.put(item)
        queue.put(item + 0.5)
        queue.get()
    found = drain(queue)
    assert found == sorted(found) and len(found) == 200


@every_kind_and_hooked
@pytest.mark.parametrize("wrong", [-1, float("nan"), "1"])
def test_a_wrong_timeout_is_refused_and_nothing_changes(kind, wrong):
    queue = kind() if kind is SimpleQueue else kind(2)
    queue.put(1)
    with pytest.raises((ValueError, TypeError)):
        queue.get(timeout=wrong)
    if kind is not SimpleQueue:
        with pytest.raises((ValueError, TypeError)):
            queue.put(2, timeout=wrong)
    assert drain(queue) == [1]


@every_kind_and_hooked
@pytest.mark.parametrize("timeout", [-1, "1"])
def test_put_does_not_look_at_the_timeout_where_it_cannot_wait(kind, timeout):
    for queue in (kind(), standard.Queue()):
        queue.put("item", timeout=timeout)
        assert drain(queue) == ["item"]


def test_the_repr_says_what_is_there_and_who_waits():
    def main():
        queue = Queue(1)
        queue.put(1)
        fiber = parked(queue.put, 2)
        assert "1 of 1 items, 0 getters and 1 putters wait" in repr(queue)
        assert queue.statistics() == (1, 0, 1, 1, 1)
        queue.get()
        fiber.join()
        queue.shutdown()
        assert "shut down" in repr(queue)
        assert "0 items, 0 getters wait" in repr(SimpleQueue())

    greenio.run(main)


def test_a_parked_getter_and_putter_say_so():
    def main():
        empty, full = Queue(), Queue(1)
        full.put(1)
        getter, putter, joiner = parked(empty.get), parked(full.put, 2), parked(full.join)
        assert getter.waits_for[:2] == ("queue get", empty)
        assert putter.waits_for[:2] == ("queue put", full)
        assert joiner.waits_for[:2] == ("queue join", full)

    greenio.run(main)


# --- order -----------------------------------------------------------------------------------------------------------


@every_kind_and_hooked
def test_getters_are_served_first_come_first_served(kind):
    def main():
        queue = kind()
        getters = [parked(queue.get) for _ in range(4)]
        for item in range(4):
            queue.put(item)
        return [getter.result() for getter in getters]

    assert greenio.run(main) == [0, 1, 2, 3]


@every_bounded_kind_and_hooked
def test_putters_are_served_first_come_first_served(kind):
    def main():
        queue = kind(1)
        queue.put(0)
        order = []
        putters = [parked(lambda item: (queue.put(item), order.append(item)), item) for item in (3, 1, 2)]
        found = []
        for _ in range(4):
            found.append(queue.get())
            wait_all_parked()
        assert all(putter.done() for putter in putters)
        return order, found

    assert greenio.run(main) == ([3, 1, 2], [0, 3, 1, 2])


@every_kind_and_hooked
def test_a_later_get_does_not_overtake_a_parked_getter(kind):
    def main():
        queue = kind()
        getter = parked(queue.get)
        queue.put("item")
        assert getter.state == "ready"
        with pytest.raises(standard.Empty):
            queue.get_nowait()
        return getter.result()

    assert greenio.run(main) == "item"


@every_bounded_kind_and_hooked
def test_a_later_put_does_not_overtake_a_parked_putter(kind):
    def main():
        queue = kind(1)
        queue.put(0)
        putter = parked(queue.put, 1)
        assert queue.get() == 0
        assert putter.state == "ready"
        with pytest.raises(standard.Full):
            queue.put_nowait(2)
        assert queue.full()
        putter.join()
        return drain(queue)

    assert greenio.run(main) == [1]


def test_operations_that_need_not_wait_give_the_others_their_turn():
    ran = []

    def main():
        queue = Queue()
        greenio.spawn(ran.append, "other")
        for count in range(10_000):
            queue.put(count)
            queue.get()
            if ran:
                return count
        return None

    assert greenio.run(main) is not None


def lets_others_run(poll, *errors):
    """Whether another fiber gets its turn while one calls *poll* all the time, which raises one of *errors*."""

    def main():
        other = greenio.spawn(int)
        for _ in range(10_000):
            with pytest.raises(errors):
                poll()
            if other.done():
                return True
        return False

    return greenio.run(main)


@every_kind_and_hooked
def test_polling_an_empty_queue_gives_the_others_their_turn(kind):
    queue = kind()
    assert lets_others_run(queue.get_nowait, standard.Empty)
    assert lets_others_run(lambda: queue.get(block=False), standard.Empty)
    assert lets_others_run(lambda: queue.get(timeout=0), standard.Empty)


@every_bounded_kind_and_hooked
def test_polling_a_full_queue_gives_the_others_their_turn(kind):
    queue = kind(1)
    queue.put(1)
    assert lets_others_run(lambda: queue.put_nowait(2), standard.Full)
    assert lets_others_run(lambda: queue.put(2, block=False), standard.Full)
    assert lets_others_run(lambda: queue.put(2, timeout=0), standard.Full)


@every_bounded_kind_and_hooked
def test_polling_a_queue_that_was_shut_down_gives_the_others_their_turn(kind):
    queue = kind()
    queue.shutdown()
    assert lets_others_run(queue.get, ShutDown)
    assert lets_others_run(lambda: queue.put(1), ShutDown)


# --- cancelled, timed out --------------------------------------------------------------------------------------------


@every_kind_and_hooked
def test_a_cancelled_getter_has_taken_nothing_and_the_next_gets_it(kind):
    def main():
        queue = kind()
        first, second = parked(queue.get), parked(queue.get)
        first.cancel()
        queue.put("item")
        assert second.result() == "item"
        first.join()
        assert first.cancelled()
        third = parked(queue.get)
        third.cancel()
        third.join()
        queue.put("another")
        assert drain(queue) == ["another"]

    greenio.run(main)


@every_bounded_kind_and_hooked
def test_a_cancelled_putter_has_put_nothing_and_the_next_gets_the_room(kind):
    def main():
        queue = kind(1)
        queue.put(0)
        first, second = parked(queue.put, 1), parked(queue.put, 2)
        first.cancel()
        assert queue.get() == 0
        second.join()
        first.join()
        assert first.cancelled() and second.done()
        return drain(queue)

    assert greenio.run(main) == [2]


@every_kind_and_hooked
def test_cancelling_a_getter_that_was_served_comes_too_late_to_lose_the_item(kind):
    def main():
        queue = kind()
        found = []
        getter = parked(lambda: found.append(queue.get()))
        queue.put("item")
        getter.cancel()
        getter.join()
        # The hooked one takes in its own fiber, and if it must not, another one will.
        return found + drain(queue)

    assert greenio.run(main) == ["item"]


@every_kind_and_hooked
def test_an_operation_of_a_cancelled_fiber_does_nothing(kind):
    def main():
        queue = kind()
        queue.put(1)

        def worker():
            operations = [queue.get, queue.get_nowait]
            if kind is not SimpleQueue:
                operations += [lambda: queue.put(2), lambda: queue.put_nowait(2), queue.join]
            for operation in operations:
                with pytest.raises(greenio.Cancelled):
                    operation()

        fiber = greenio.spawn(worker)
        fiber.cancel()
        fiber.join()
        assert not fiber.exception() if not fiber.cancelled() else True
        return drain(queue)

    assert greenio.run(main) == [1]


def test_put_of_a_simple_queue_works_in_a_cancelled_fiber():
    queue = SimpleQueue()

    def main():
        fiber = greenio.spawn(queue.put, "clean-up")
        fiber.cancel()
        wait_all_parked()

    greenio.run(main)
    # Cancelled before it began, it never ran; so once more, from inside.

    def worker():
        try:
            greenio.sleep(100)
        finally:
            queue.put("clean-up")

    def second():
        fiber = parked(worker)
        fiber.cancel()
        fiber.join()

    greenio.run(second)
    assert "clean-up" in drain(queue)


@every_kind_and_hooked
def test_a_get_times_out_with_empty(kind):
    def main():
        queue = kind()
        with pytest.raises(standard.Empty):
            queue.get(timeout=2.5)
        assert greenio.current_time() == 2.5
        queue.put(1)
        return drain(queue)

    assert run_virtually(main) == [1]


@every_bounded_kind_and_hooked
def test_a_put_times_out_with_full(kind):
    def main():
        queue = kind(1)
        queue.put(0)
        with pytest.raises(standard.Full):
            queue.put(1, timeout=2.5)
        assert greenio.current_time() == 2.5
        assert queue.statistics().waiting_putters == 0
        assert queue.unfinished_tasks == 1
        return drain(queue)

    assert run_virtually(main) == [0]


@every_kind_and_hooked
def test_an_item_that_comes_with_the_deadline_is_taken(kind):
    def main():
        def put():
            greenio.sleep(1)
            found.append(getter.state)
            queue.put("item")

        queue, found = kind(), []
        # Its timer is the first of two for one moment: the getter's deadline has come, and it has not run, when the item comes.
        greenio.spawn(put)
        wait_all_parked()
        getter = parked(queue.get, timeout=1)
        item = getter.result()
        assert found == ["ready"]
        return item

    assert run_virtually(main) == "item"


@every_bounded_kind_and_hooked
def test_room_that_comes_with_the_deadline_is_taken(kind):
    def main():
        def get():
            greenio.sleep(1)
            found.append(putter.state)
            assert queue.get() == 1

        queue, found = kind(1), []
        queue.put(1)
        getter = greenio.spawn(get)
        wait_all_parked()
        putter = parked(queue.put, 2, timeout=1)
        putter.result()
        getter.result()
        assert found == ["ready"]
        return drain(queue)

    assert run_virtually(main) == [2]


def test_a_timeout_scope_around_get_takes_nothing():
    def main():
        queue = Queue()
        with pytest.raises(TimeoutError), greenio.timeout(1):
            queue.get()
        queue.put(1)
        return drain(queue)

    assert run_virtually(main) == [1]


# --- task_done and join ----------------------------------------------------------------------------------------------


@every_bounded_kind_and_hooked
def test_join_waits_until_every_item_is_done(kind):
    def main():
        queue = kind()
        queue.join()
        queue.put(1)
        queue.put(2)
        joiners = [parked(queue.join), parked(queue.join)]
        queue.get()
        queue.task_done()
        wait_all_parked()
        assert [joiner.state for joiner in joiners] == ["parked"] * 2
        queue.get()
        wait_all_parked()
        assert [joiner.state for joiner in joiners] == ["parked"] * 2
        queue.task_done()
        wait_all_parked()
        assert all(joiner.done() for joiner in joiners)

    greenio.run(main)


@every_bounded_kind_and_hooked
def test_an_item_handed_over_counts_as_unfinished(kind):
    def main():
        queue = kind(1)
        getter = parked(queue.get)
        queue.put(1)
        assert queue.unfinished_tasks == 1
        getter.join()
        queue.put(2)
        putter = parked(queue.put, 3)
        assert queue.unfinished_tasks == 2
        queue.get()
        putter.join()
        return queue.unfinished_tasks

    assert greenio.run(main) == 3


@every_bounded_kind
def test_task_done_too_often_is_refused(kind):
    queue = kind()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()
    queue.put(1)
    queue.task_done()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()
    assert queue.unfinished_tasks == 0


def test_a_cancelled_join_leaves_the_queue_alone():
    def main():
        queue = Queue()
        queue.put(1)
        first, second = parked(queue.join), parked(queue.join)
        first.cancel()
        first.join()
        queue.task_done()
        second.join()
        return first.cancelled(), second.cancelled()

    assert greenio.run(main) == (True, False)


# --- shutdown --------------------------------------------------------------------------------------------------------


@every_bounded_kind_and_hooked
def test_shutdown_lets_getters_drain_and_refuses_putters(kind):
    queue = kind()
    queue.put(1)
    queue.shutdown()
    queue.shutdown()
    assert queue.is_shutdown
    with pytest.raises(ShutDown):
        queue.put(2)
    with pytest.raises(ShutDown):
        queue.put_nowait(2)
    assert queue.get() == 1
    for get in (queue.get, queue.get_nowait):
        with pytest.raises(ShutDown):
            get()


@every_bounded_kind_and_hooked
@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_who_waits(kind, immediate):
    def main():
        empty, full = kind(), kind(1)
        full.put(0)
        waiting = [parked(empty.get), parked(empty.get), parked(full.put, 1), parked(full.put, 2)]
        empty.shutdown(immediate)
        full.shutdown(immediate)
        wait_all_parked()
        assert [outcome(fiber) for fiber in waiting] == [ShutDown] * 4
        return full.qsize(), full.unfinished_tasks

    assert greenio.run(main) == ((0, 0) if immediate else (1, 1))


@every_bounded_kind_and_hooked
def test_immediate_shutdown_drops_the_items_and_ends_join(kind):
    def main():
        queue = kind()
        for item in range(3):
            queue.put(item)
        joiner = parked(queue.join)
        queue.get()
        queue.shutdown(immediate=True)
        assert queue.qsize() == 0 and queue.unfinished_tasks == 1
        wait_all_parked()
        assert joiner.state == "parked", "one item is still being worked on"
        queue.task_done()
        joiner.join()
        with pytest.raises(ShutDown):
            queue.get()

    greenio.run(main)


def test_a_destructor_of_a_dropped_item_finds_a_queue_in_order():
    queue = Queue()
    seen = []

    class Item:
        def __del__(self):
            seen.append((queue.qsize(), queue.is_shutdown))

    queue.put(Item())
    queue.put(Item())
    queue.shutdown(immediate=True)
    assert seen == [(0, True), (0, True)]


@every_bounded_kind_and_hooked
def test_a_putter_that_was_served_and_has_not_run_at_shutdown_puts_nothing_or_everything(kind):
    def main():
        queue = kind(1)
        queue.put(0)
        putter = parked(queue.put, 1)
        queue.get()
        queue.shutdown()
        wait_all_parked()
        return outcome(putter), drain(queue)

    assert greenio.run(main) in [(None, [1]), (ShutDown, [])]


# --- maxsize ---------------------------------------------------------------------------------------------------------


@every_bounded_kind_and_hooked
def test_a_larger_maxsize_lets_waiting_putters_in(kind):
    def main():
        queue = kind(1)
        queue.put(0)
        putters = [parked(queue.put, item) for item in (1, 2, 3)]
        queue.maxsize = 3
        wait_all_parked()
        assert [outcome(putter) for putter in putters] == [None, None, "parked"]
        queue.maxsize = 0
        putters[2].join()
        return sorted(drain(queue))

    assert greenio.run(main) == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", ["1", None, 1.5, 1 << 100])
def test_a_wrong_maxsize_is_refused(wrong):
    with pytest.raises((TypeError, OverflowError)):
        Queue(wrong)
    queue = Queue(3)
    with pytest.raises((TypeError, OverflowError)):
        queue.maxsize = wrong
    assert queue.maxsize == 3


# --- comparing -------------------------------------------------------------------------------------------------------


class Touchy:
    """An item that fails to be compared, on demand, or does something first."""

    def __init__(self, rank, before=None):
        self.rank = rank
        self.before = before

    def __lt__(self, other):
        for each in (self, other):
            if each.before is not None:
                each.before()
        return self.rank < other.rank


def fail():
    raise ZeroDivisionError("cannot be compared")


def test_a_put_whose_comparison_fails_has_not_happened():
    queue = PriorityQueue()
    for rank in (3, 1, 2):
        queue.put(Touchy(rank))
    with pytest.raises(ZeroDivisionError):
        queue.put(Touchy(0, fail))
    with pytest.raises(TypeError):
        queue.put("a string")
    assert queue.unfinished_tasks == 3
    assert [item.rank for item in drain(queue)] == [1, 2, 3]


def test_a_get_whose_comparison_fails_has_not_happened():
    queue = PriorityQueue()
    items = [Touchy(rank) for rank in (1, 4, 2, 5, 3)]
    for item in items:
        queue.put(item)
    items[1].before = fail
    with pytest.raises(ZeroDivisionError):
        for _ in range(5):
            queue.get()
    left = queue.qsize()
    assert left > 0
    items[1].before = None
    found = [item.rank for item in drain(queue)]
    assert found == sorted(found) and len(found) == left and 4 in found


def test_a_served_putter_whose_comparison_fails_passes_the_room_on():
    def main():
        queue = PriorityQueue(2)
        queue.put(Touchy(1))
        queue.put(Touchy(2))
        bad, good = parked(queue.put, Touchy(0, fail)), parked(queue.put, Touchy(3))
        assert queue.get().rank == 1
        wait_all_parked()
        assert outcome(bad) is ZeroDivisionError
        assert outcome(good) is None
        return [item.rank for item in drain(queue)]

    assert greenio.run(main) == [2, 3]


def test_a_comparison_may_use_the_same_queue():
    queue = PriorityQueue()
    queue.put(Touchy(5))
    extra = [Touchy(rank) for rank in (1, 9, 4)]

    def meddle():
        if extra:
            queue.put(extra.pop())

    queue.put(Touchy(3, meddle))
    assert not extra
    assert [item.rank for item in drain(queue)] == [1, 3, 4, 5, 9]


def test_a_comparison_may_take_the_item_that_it_is_about():
    queue = PriorityQueue()
    queue.put(Touchy(5))
    taken = []

    def meddle():
        if not taken:
            taken.append(queue.get().rank)
            gc.collect()

    queue.put(Touchy(3, meddle))
    assert taken == [5]
    assert [item.rank for item in drain(queue)] == [3]


@pytest.mark.parametrize("seed", range(10))
def test_comparisons_that_park_lose_and_double_nothing(seed):
    chance = random.Random(seed)

    def before():
        if chance.random() < 0.3:
            greenio.yield_now()

    def main():
        queue = PriorityQueue(5)
        found = []

        def producer(ranks):
            for rank in ranks:
                queue.put(Touchy(rank, before))

        def consumer():
            while True:
                try:
                    found.append(queue.get().rank)
                except ShutDown:
                    return

        producers = [greenio.spawn(producer, range(base, base + 10)) for base in (0, 10, 20)]
        consumers = [greenio.spawn(consumer) for _ in range(2)]
        for fiber in producers:
            fiber.join()
        queue.shutdown()
        for fiber in consumers:
            fiber.join()
        return sorted(found)

    assert greenio.run(main) == list(range(30))


def test_a_put_that_compares_during_shutdown_finds_it_shut_down():
    class Slow:
        def __lt__(self, other):
            greenio.sleep(1)
            return False

    def main():
        queue = PriorityQueue()
        queue.put(Slow())
        putter = parked(queue.put, Slow())
        queue.shutdown()
        with pytest.raises(ShutDown):
            putter.result()
        return queue.qsize(), queue.unfinished_tasks

    assert run_virtually(main) == (1, 1)


# --- subclasses ------------------------------------------------------------------------------------------------------


class Filled(HookedQueue):
    """One that is not empty from the start, and whose items go by another way too."""

    def _init(self, maxsize):
        self.items = ["seed"]

    def drop(self):
        self.items.clear()


def test_a_subclass_may_begin_with_items():
    queue = Filled(1)
    assert queue.qsize() == 1 and not queue.empty() and queue.full()
    assert queue.statistics().size == 1
    with pytest.raises(standard.Full):
        Filled(1).put_nowait(1)
    assert Filled(1).get_nowait() == "seed"
    assert greenio.run(lambda: greenio.select(Filled(1), timeout=0)) == (0, "seed")


def test_a_subclass_may_have_its_items_made_after_init():
    class Late(HookedQueue):
        def __init__(self):
            super().__init__()
            self.items = [1]

        def _init(self, maxsize):
            pass

    assert drain(Late()) == [1]


def test_what_a_subclass_method_does_to_the_items_is_seen():
    def main():
        queue = Filled(2)
        queue.put(1)
        queue.drop()
        assert queue.qsize() == 0 and queue.empty() and not queue.full()
        queue.items += [1, 2]
        queue.drop()
        with pytest.raises(standard.Empty):
            queue.get(timeout=1)
        queue.items += [1, 2]
        putter = parked(queue.put, 3)
        queue.drop()
        assert queue.empty()  # it asks, and so whoever waits for room gets it
        putter.join()
        getter = greenio.spawn(drain, queue)
        return getter.result()

    assert run_virtually(main) == [3]


def test_a_served_getter_whose_item_was_dropped_waits_again():
    def main():
        queue = Filled()
        queue.drop()
        waiters = [parked(queue.get), parked(greenio.select, queue)]
        queue.put(1)
        queue.put(2)
        queue.drop()
        wait_all_parked()
        assert [waiter.state for waiter in waiters] == ["parked", "parked"]
        queue.put("first")
        queue.put("second")
        return sorted([waiters[0].result(), waiters[1].result().value])

    assert run_virtually(main) == ["first", "second"]


def test_a_hook_may_ask_for_the_size():
    class Curious(HookedQueue):
        def _put(self, item):
            assert self.qsize() == len(self.items)
            super()._put(item)

    queue = Curious()
    queue.put(1)
    queue.put(2)
    assert queue.qsize() == 2
    assert greenio.run(queue.qsize) == 2


def test_a_subclass_may_keep_its_items_as_it_likes():
    class SetQueue(Queue):
        def _init(self, maxsize):
            self.items = set()

        def _qsize(self):
            return len(self.items)

        def _put(self, item):
            self.items.add(item)

        def _get(self):
            return self.items.pop()

    def main():
        queue = SetQueue(2)
        for item in (1, 1, 1, 2):
            queue.put(item)
        assert queue.qsize() == 2 and queue.full()
        assert queue.unfinished_tasks == 4
        putter = parked(queue.put, 3)
        first = queue.get()
        putter.join()
        return sorted([first, *drain(queue)])

    assert greenio.run(main) == [1, 2, 3]


@every_bounded_kind
def test_a_subclass_may_extend_what_is_there(kind):
    class Logged(kind):
        def __init__(self, maxsize=0):
            super().__init__(maxsize)
            self.log = []

        def _put(self, item):
            self.log.append(item)
            super()._put(item)

    queue = Logged(5)
    for item in (2, 1, 3):
        queue.put(item)
    assert queue.log == [2, 1, 3]
    plain = kind()
    for item in (2, 1, 3):
        plain.put(item)
    assert drain(queue) == drain(plain)


def test_the_nowait_twins_go_through_an_overridden_put_and_get():
    class Doubled(Queue):
        def put(self, item, block=True, timeout=None):
            super().put(item * 2, block, timeout)

        def get(self, block=True, timeout=None):
            return super().get(block, timeout) + 1

    queue = Doubled()
    queue.put_nowait(5)
    assert queue.get_nowait() == 11


def test_a_hook_that_fails_leaves_the_queue_usable():
    class Picky(HookedQueue):
        def _put(self, item):
            if item is None:
                raise ValueError("None is no item")
            super()._put(item)

    def main():
        queue = Picky(1)
        with pytest.raises(ValueError):
            queue.put(None)
        assert queue.unfinished_tasks == 0
        queue.put(0)
        bad, good = parked(queue.put, None), parked(queue.put, 1)
        queue.get()
        wait_all_parked()
        assert outcome(bad) is ValueError and outcome(good) is None
        return drain(queue)

    assert greenio.run(main) == [1]


def test_a_served_getter_whose_hook_fails_passes_the_item_on():
    class Failing(HookedQueue):
        fails = True

        def _get(self):
            if self.fails:
                self.fails = False
                raise ZeroDivisionError
            return super()._get()

    def main():
        queue = Failing()
        first, second = parked(queue.get), parked(queue.get)
        queue.put("item")
        wait_all_parked()
        return outcome(first), outcome(second)

    assert greenio.run(main) == (ZeroDivisionError, "item")


def test_hooks_run_one_at_a_time_even_if_they_park():
    inside = []

    class Slow(HookedQueue):
        def _put(self, item):
            assert not inside
            inside.append(item)
            greenio.sleep(1)
            super()._put(item)
            inside.pop()

        def _get(self):
            assert not inside
            inside.append("get")
            greenio.sleep(1)
            inside.pop()
            return super()._get()

    def main():
        queue = Slow(2)
        putters = [greenio.spawn(queue.put, item) for item in range(5)]
        getters = [greenio.spawn(queue.get) for _ in range(5)]
        for putter in putters:
            putter.result()
        return [getter.result() for getter in getters]

    assert run_virtually(main) == [0, 1, 2, 3, 4]


def test_a_hook_that_uses_its_own_queue_is_told_so():
    class Loop(HookedQueue):
        def _put(self, item):
            self.put(item)

    def main():
        queue = Loop()
        with pytest.raises(RuntimeError, match="uses the queue that called it"):
            queue.put(1)
        return queue.qsize()

    assert greenio.run(main) == 0
    assert main() == 0


# --- select ----------------------------------------------------------------------------------------------------------

needs_select = pytest.mark.skipif(not hasattr(greenio, "select"), reason="greenio has no select yet")


@needs_select
@every_kind_and_hooked
def test_select_gets_an_item_that_is_there(kind):
    def main():
        empty, ready = kind(), kind()
        ready.put("item")
        assert tuple(greenio.select(empty, ready)) == (1, "item")
        assert ready.empty()
        assert tuple(greenio.select(empty, ready, default="none")) == (-1, "none")

    greenio.run(main)


@needs_select
@every_kind_and_hooked
def test_a_select_that_waits_is_served_in_line_and_leaves_no_trace(kind):
    def main():
        one, other = kind(), kind()
        choice = parked(greenio.select, one, other)
        behind = parked(other.get)
        other.put("first")
        other.put("second")
        assert tuple(choice.result()) == (1, "first")
        assert behind.result() == "second"
        one.put("stays")
        return drain(one)

    assert greenio.run(main) == ["stays"]


@needs_select
@every_bounded_kind_and_hooked
def test_shutdown_wakes_a_select(kind):
    def main():
        one, other = kind(), kind()
        choice = parked(greenio.select, one, other)
        one.shutdown()
        wait_all_parked()
        return outcome(choice)

    assert greenio.run(main) is ShutDown


class SlowToGive(HookedQueue):
    def _get(self):
        greenio.sleep(1)
        return super()._get()


@needs_select
@pytest.mark.parametrize("seed", range(4))
def test_a_select_that_parked_for_a_hook_looks_at_the_others_again(seed):
    def main():
        seed_select(seed)
        queue, channel = SlowToGive(), greenio.Channel(1)
        queue.put("taken by the getter")
        getter = parked(queue.get)
        chooser = parked(greenio.select, channel, queue, timeout=60)  # waits for the getter, if not in line
        channel.send_nowait("item")
        assert getter.result() == "taken by the getter"
        return chooser.result(), greenio.current_time() < 10

    assert run_virtually(main) == ((0, "item"), True)


@needs_select
@pytest.mark.parametrize("seed", range(4))
def test_a_select_that_parked_for_a_comparison_looks_at_the_others_again(seed):
    class Slow:
        def __lt__(self, other):
            if greenio.current_fiber() is chooser:
                greenio.sleep(1)
            return False

    chooser = None

    def main():
        nonlocal chooser
        seed_select(seed)
        queue, channel = PriorityQueue(), greenio.Channel(1)
        for _ in range(3):
            queue.put(Slow())
        chooser = greenio.spawn(lambda: greenio.select(channel, queue, timeout=60))
        wait_all_parked()
        drain(queue)
        channel.send_nowait("item")
        return chooser.result(), greenio.current_time() < 10

    assert run_virtually(main) == ((0, "item"), True)


@needs_select
@pytest.mark.parametrize("seed", range(4))
def test_a_select_that_parked_in_a_later_round_looks_at_the_others_again(seed):
    class Slow:
        def __lt__(self, other):
            if prepared and greenio.current_fiber() is chooser:
                greenio.sleep(1)
            return False

    class Filling(Future):
        def add_done_callback(self, callback):
            for item in items:
                queue.put(item)
            prepared.append(True)
            super().add_done_callback(callback)

    chooser, queue, prepared = None, PriorityQueue(), []
    items = [Slow() for _ in range(3)]

    def main():
        nonlocal chooser
        seed_select(seed)
        channel = greenio.Channel(1)
        chooser = greenio.spawn(lambda: greenio.select(channel, queue, Filling(), timeout=60))
        wait_all_parked()
        drain(queue)
        channel.send_nowait("item")
        return chooser.result(), greenio.current_time() < 10

    assert run_virtually(main) == ((0, "item"), True)


@needs_select
def test_a_select_that_may_not_wait_does_not_wait_for_others_hooks():
    def main():
        queue = SlowToGive()
        queue.put(1)
        getter = parked(queue.get)
        before = greenio.current_time()
        assert greenio.select(queue, default="nothing") == (-1, "nothing")
        with pytest.raises(TimeoutError):
            greenio.select(queue, timeout=0)
        assert greenio.current_time() == before
        return getter.result()

    assert run_virtually(main) == 1


@needs_select
def test_a_select_that_timed_out_has_taken_nothing():
    def main():
        queue = Queue()
        with pytest.raises(TimeoutError):
            greenio.select(queue, timeout=1)
        queue.put(1)
        return drain(queue)

    assert run_virtually(main) == [1]


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


@every_kind_and_hooked
def test_items_go_from_a_thread_to_a_fiber_and_back(kind):
    there, back = kind(), kind()

    def thread():
        for _ in range(100):
            back.put(there.get() + 1)

    def main():
        for number in range(100):
            there.put(number)
            assert back.get() == number + 1

    in_threads(thread, lambda: greenio.run(main))


@every_bounded_kind_and_hooked
def test_nothing_is_lost_between_schedulers_and_threads(kind):
    queue, found = kind(2), []

    def put_all(base):
        for item in range(base, base + 50):
            queue.put(item)

    def get_all():
        while True:
            try:
                found.append(queue.get())
            except ShutDown:
                return
            queue.task_done()

    def in_fibers(function, *argument_lists):
        def main():
            for fiber in [greenio.spawn(function, *arguments) for arguments in argument_lists]:
                fiber.result()

        return lambda: greenio.run(main)

    def producers():
        in_threads(in_fibers(put_all, (0,), (50,)), in_fibers(put_all, (100,)), lambda: put_all(150))
        queue.join()
        queue.shutdown()

    in_threads(in_fibers(get_all, (), ()), get_all, producers)
    assert sorted(found) == list(range(200))


@every_kind_and_hooked
def test_a_plain_threads_get_times_out(kind):
    queue = kind()
    with pytest.raises(standard.Empty):
        queue.get(timeout=0.01)
    queue.put(1)
    assert queue.get(timeout=0.01) == 1


@every_bounded_kind_and_hooked
def test_a_plain_threads_put_times_out(kind):
    queue = kind(1)
    queue.put(1)
    with pytest.raises(standard.Full):
        queue.put(2, timeout=0.01)
    assert drain(queue) == [1]


@pytest.fixture
def handle_sigusr1():
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def get_signalled(queue):
    """queue.get() in a main fiber, whose OS thread gets SIGUSR1 once it is parked and hosts the idle loop."""

    def main():
        me = greenio.current_fiber()

        def kill():
            while me.state != "parked":
                os.sched_yield()
            os.kill(os.getpid(), signal.SIGUSR1)

        killer = threading.Thread(target=kill)
        killer.start()
        item = queue.get()
        killer.join()
        return item

    return greenio.run(main)


@every_kind_and_hooked
def test_a_signal_handler_may_put_while_every_fiber_waits(kind, handle_sigusr1):
    queue = kind()
    handle_sigusr1(lambda *_: queue.put("from the handler"))
    assert get_signalled(queue) == "from the handler"


def test_a_signal_handler_that_would_have_to_wait_is_told_so(handle_sigusr1):
    queue, told = Queue(), SimpleQueue()

    def handler(*_):
        try:
            queue.get()
        except RuntimeError as error:
            told.put(str(error))

    handle_sigusr1(handler)
    assert "a signal handler cannot wait (queue get)" in get_signalled(told)
    queue.put(1)
    assert drain(queue) == [1]


def test_a_forked_child_finds_nobody_waiting_and_nothing_kept():
    run_child(
        """
        import os
        import greenio
        from greenio.testing import wait_all_parked

        def main():
            empty, full, kept = greenio.Queue(), greenio.Queue(1), greenio.PriorityQueue(1)
            full.put(0)
            kept.put(0)
            for fn, *args in (empty.get,), (full.put, 1), (kept.put, 1):
                greenio.spawn(fn, *args)
            wait_all_parked()
            assert kept.get() == 0      # the place is kept for the putter, who has not run yet
            pid = os.fork()
            if pid == 0:
                status = 99
                try:
                    empty.put("item")
                    assert empty.qsize() == 1 and empty.get() == "item"
                    assert full.get() == 0 and full.empty()
                    assert not kept.full()
                    kept.put_nowait(5)
                    assert kept.get() == 5
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert full.get() == 0 and full.get() == 1
            assert kept.get() == 1

        greenio.run(main)
        """
    )


# --- nothing is left behind ------------------------------------------------------------------------------------------


class Thing:
    def __lt__(self, other):
        return id(self) < id(other)


@every_kind_and_hooked
def test_no_reference_to_an_item_is_left(kind):
    def main():
        queue = kind(2) if kind is not SimpleQueue else kind()
        item = Thing()
        before = sys.getrefcount(item)
        queue.put(item)
        queue.get()
        getter = parked(queue.get)
        queue.put(item)
        getter.result()
        del getter
        if kind is not SimpleQueue:
            queue.put(item)
            queue.put(item)
            with pytest.raises(standard.Full):
                queue.put(item, timeout=1)
            putter = parked(queue.put, item)
            cancelled = parked(queue.put, item)
            cancelled.cancel()
            for _ in range(3):
                queue.get()
            wait_all_parked()
            assert putter.done() and cancelled.done()
            del putter, cancelled
        assert queue.empty()
        gc.collect()
        assert sys.getrefcount(item) == before

    run_virtually(main)


@every_kind_and_hooked
def test_a_queue_lets_go_of_its_items_when_it_is_freed(kind):
    queue, item = kind(), Thing()
    queue.put(item)
    alive = weakref.ref(item)
    del item
    assert alive() is not None
    del queue
    assert alive() is None


@every_kind_and_hooked
def test_a_queue_in_a_reference_cycle_is_collected(kind):
    queue, item = kind(), Thing()
    item.queue = queue
    queue.put(item)
    alive = weakref.ref(queue)
    del queue, item
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("way", ["freed", "collected", "shut down"])
@every_kind
def test_queues_within_queues_are_freed_on_a_small_stack(kind, way):
    if kind is SimpleQueue and way == "shut down":
        pytest.skip("it cannot be")
    child = run_child(
        """
        import gc, sys, greenio

        def nest(kind, way):
            innermost = outer = kind()
            for _ in range(100_000):
                inner, outer = outer, kind()
                outer.put(inner)
                inner = None
            if way == "collected":
                innermost.put(outer)
            innermost = None
            if way == "collected":
                outer = None
                gc.collect()
            elif way == "shut down":
                outer.shutdown(immediate=True)
            else:
                outer = None
            return sum(isinstance(each, kind) for each in gc.get_objects())

        gc.disable()
        kind = getattr(greenio, sys.argv[1])
        print(greenio.run(lambda: greenio.spawn(nest, kind, sys.argv[2], stack_size=256 << 10).result()))
        """,
        kind.__name__,
        way,
    )
    assert child.stdout == ("1\n" if way == "shut down" else "0\n")


@every_kind
def test_a_queue_lets_go_of_the_oldest_item_first(kind):
    class Item:
        def __init__(self, number):
            self.number = number

        def __lt__(self, other):
            return self.number < other.number

        def __del__(self):
            gone.append(self.number)

    gone = []
    queue = kind()
    for number in range(20):
        queue.put(Item(number))
    del queue
    assert gone == list(range(20))


@every_kind
def test_a_queue_shows_the_collector_its_items(kind):
    queue, items = kind(), [Thing() for _ in range(20)]
    for item in items:
        queue.put(item)
    assert Counter(map(id, gc.get_referents(queue))) >= Counter(map(id, items))


def test_a_destructor_may_put_into_a_simple_queue():
    queue = SimpleQueue()

    class Item:
        def __del__(self):
            queue.put("dying")

    def main():
        first = Item()
        first.self = first
        del first
        gc.collect()
        return queue.get()

    assert greenio.run(main) == "dying"


@every_kind_and_hooked
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_queue_cannot_be_copied(kind, duplicate):
    with pytest.raises(TypeError):
        duplicate(kind())


def test_queues_are_generic_in_annotations():
    for kind in KINDS:
        assert kind[int].__origin__ is kind


# --- everything at once ----------------------------------------------------------------------------------------------


@every_bounded_kind_and_hooked
@pytest.mark.parametrize("seed", range(8))
def test_random_timeouts_and_cancellations_lose_and_double_nothing(kind, seed):
    chance = random.Random(f"{kind.__name__}{seed}")

    def main():
        queue = kind(3)
        put, found = [], []
        number = iter(range(10**6))

        def worker():
            while True:
                timeout = chance.choice([None, 0, 1, 2])
                try:
                    if chance.random() < 0.5:
                        item = next(number)
                        queue.put(item, timeout=timeout)
                        put.append(item)
                    else:
                        found.append(queue.get(timeout=timeout))
                except (standard.Empty, standard.Full):
                    pass
                chance.choice([greenio.yield_now, lambda: greenio.sleep(1), int])()

        workers = [greenio.spawn(worker) for _ in range(12)]
        for _ in range(40):
            greenio.sleep(0.75)
            victim = chance.randrange(len(workers))
            workers[victim].cancel()
            workers[victim] = greenio.spawn(worker)
        for each in workers:
            each.cancel()
        wait_all_parked()
        assert queue.statistics()[1:3] == (0, 0)
        assert len(found) > 50
        assert queue.unfinished_tasks == len(put)
        assert Counter(found + drain(queue)) == Counter(put)

    run_virtually(main)
