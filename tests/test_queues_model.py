"""_queues.pyx against a plain model: whatever is done, in whatever order, who waits and who gets what is the same."""

import math
import queue as standard
from collections import Counter

import pytest

import greenio
from greenio import LifoQueue, PriorityQueue, Queue, ShutDown
from greenio.testing import VirtualClock, wait_all_parked

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

TAKE = {
    Queue: lambda items: items.pop(0),
    LifoQueue: lambda items: items.pop(),
    PriorityQueue: lambda items: items.pop(items.index(min(items))),
}


class Hooked(Queue):
    """The same as Queue, by way of the hooks."""

    def _put(self, item):
        super()._put(item)

    def _get(self):
        return super()._get()


class Model:
    """What a queue is, with every waiting operation spelled out. Each operation has a number; `ended` has how it ended."""

    def __init__(self, take, maxsize):
        self.take = take
        self.maxsize = maxsize
        self.now = 0
        self.items = []
        self.getters = []  # [(operation, deadline)]
        self.putters = []  # [(operation, deadline, item)]
        self.joiners = []
        self.unfinished = 0
        self.down = False
        self.ended = {}

    def full(self):
        return 0 < self.maxsize <= len(self.items)

    def add(self, item):
        self.unfinished += 1
        if self.getters:
            self.ended[self.getters.pop(0)[0]] = item
        else:
            self.items.append(item)

    def put(self, operation, item, timeout):
        if self.down:
            self.ended[operation] = ShutDown
        elif not self.getters and self.full():
            if timeout == 0:
                self.ended[operation] = standard.Full
            else:
                self.putters.append((operation, self.now + timeout, item))
        else:
            self.add(item)
            self.ended[operation] = None

    def get(self, operation, timeout):
        if self.items:
            self.ended[operation] = self.take(self.items)
            self.admit()
        elif self.down:
            self.ended[operation] = ShutDown
        elif timeout == 0:
            self.ended[operation] = standard.Empty
        else:
            self.getters.append((operation, self.now + timeout))

    def admit(self):
        while self.putters and not self.full():
            operation, _, item = self.putters.pop(0)
            self.add(item)
            self.ended[operation] = None

    def resize(self, maxsize):
        self.maxsize = maxsize
        self.admit()

    def cancel(self, operation):
        for waiting in (self.getters, self.putters, self.joiners):
            for each in [each for each in waiting if each[0] == operation]:
                waiting.remove(each)
                self.ended[operation] = "cancelled"

    def advance(self, seconds):
        self.now += seconds
        for waiting, error in ((self.getters, standard.Empty), (self.putters, standard.Full)):
            for each in [each for each in waiting if each[1] <= self.now]:
                waiting.remove(each)
                self.ended[each[0]] = error

    def task_done(self):
        if self.unfinished == 0:
            return ValueError
        self.unfinished -= 1
        self.release()
        return None

    def join(self, operation):
        self.joiners.append((operation,))
        self.release()

    def release(self):
        if self.unfinished == 0:
            self.ended.update((operation, None) for (operation,) in self.joiners)
            self.joiners.clear()

    def shutdown(self, immediate):
        self.down = True
        if immediate:
            self.unfinished = max(self.unfinished - len(self.items), 0)
            self.items.clear()
        for operation, *_ in self.getters + self.putters:
            self.ended[operation] = ShutDown
        self.getters.clear()
        self.putters.clear()
        self.release()


timeouts = st.sampled_from([0, 1.5, 3.5, math.inf])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), timeouts),
        st.tuples(st.just("put"), st.integers(0, 9), timeouts),
        st.tuples(st.just("get"), timeouts),
        st.tuples(st.just("get"), timeouts),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("advance"), st.sampled_from([1, 2])),
        st.tuples(st.just("task_done")),
        st.tuples(st.just("join")),
        st.tuples(st.just("resize"), st.integers(0, 3)),
        st.tuples(st.just("shutdown"), st.booleans()),
    ),
    max_size=40,
)


def how_it_ended(fiber):
    if fiber.cancelled():
        return "cancelled"
    error = fiber.exception()
    return fiber.result() if error is None else type(error)


def compare(kind, maxsize, script):
    model = Model(TAKE.get(kind, TAKE[Queue]), maxsize)

    def main():
        queue = kind(maxsize)
        fibers = {}
        for number, (what, *arguments) in enumerate(script):
            if what in ("put", "get", "join"):
                fibers[number] = greenio.spawn(getattr(queue, what), *spread(what, arguments))
                getattr(model, what)(number, *arguments)
            elif what == "cancel":
                if arguments[0] in fibers:
                    fibers[arguments[0]].cancel()
                model.cancel(arguments[0])
            elif what == "advance":
                greenio.sleep(arguments[0])
                model.advance(arguments[0])
            elif what == "resize":
                queue.maxsize = arguments[0]
                model.resize(arguments[0])
            elif what == "task_done":
                try:
                    found = queue.task_done()
                except ValueError:
                    found = ValueError
                assert found == model.task_done()
            else:
                queue.shutdown(*arguments)
                model.shutdown(*arguments)
            wait_all_parked()
            assert {n: how_it_ended(fiber) for n, fiber in fibers.items() if fiber.done()} == model.ended
            assert queue.qsize() == len(model.items)
            assert queue.full() == model.full()
            assert queue.unfinished_tasks == model.unfinished
            assert queue.statistics()[1:3] == (len(model.getters), len(model.putters))
        for fiber in fibers.values():
            fiber.cancel()
        wait_all_parked()
        left = [queue.get_nowait() for _ in range(queue.qsize())]
        assert Counter(left) == Counter(model.items)

    greenio.run(main, clock=VirtualClock())


def spread(what, arguments):
    """The arguments of the queue's method for a step's."""
    if what == "join":
        return ()
    *item, timeout = arguments
    return (*item, True, None if timeout == math.inf else timeout)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([Queue, LifoQueue, PriorityQueue, Hooked]), st.integers(0, 3), steps)
def test_a_queue_does_what_the_model_does(kind, maxsize, script):
    compare(kind, maxsize, script)


def test_the_model_does_what_the_standard_library_does_where_nobody_waits():
    # The judge is judged: a queue and the model, without waiting.
    for kind in (Queue, LifoQueue, PriorityQueue):
        model, queue = Model(TAKE[kind], 2), getattr(standard, kind.__name__)(2)
        for number, item in enumerate((3, 1, None, 2, 5, None, None, None)):
            try:
                expected = queue.get_nowait() if item is None else queue.put_nowait(item)
            except (standard.Empty, standard.Full) as error:
                expected = type(error)
            if item is None:
                model.get(number, 0)
            else:
                model.put(number, item, 0)
            assert model.ended[number] == expected
