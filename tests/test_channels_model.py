"""Channels and select against a model in plain Python: random sends, receives, selects, timeouts, cancellations, closings.

The model says for each operation what must have come of it, at once: that a fiber which was served, or cancelled, has not run
yet makes no difference to anybody else. Only which one of several ready cases a select draws is left open.
"""

from collections import deque

import pytest
from child import run_child

import greenio
from greenio import Cancelled, Channel, ChannelClosed, WouldBlock, receiving, select, sending
from greenio.testing import VirtualClock, wait_all_parked

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as some  # noqa: E402

SEND, RECEIVE = "send", "receive"


class Modelled:
    """A channel as it should be: a deque, and who waits, first come first."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.closed = False
        self.buffer = deque()
        self.lines = {SEND: [], RECEIVE: []}  # (operation, number of its case)


class Operation:
    """A fiber that sends, receives, or selects; `cases` are (SEND or RECEIVE, channel's number, item)."""

    def __init__(self, cases, timeout, plain):
        self.cases = cases
        self.timeout = timeout
        self.plain = plain  # by Channel.send or receive
        self.deadline = None
        self.expected = None  # as outcome, once the model has it; None: it waits
        self.outcome = None
        self.fiber = None

    def run(self, channels):
        try:
            self.outcome = self.take(channels)
        except ChannelClosed as error:
            self.outcome = ("closed", 0 if self.plain else error.index)
        except TimeoutError:
            self.outcome = "timed out"
        except Cancelled:
            self.outcome = "cancelled"
            raise

    def take(self, channels):
        if not self.plain:
            made = [
                sending(channels[number], item) if kind == SEND else receiving(channels[number])
                for kind, number, item in self.cases
            ]
            return tuple(select(*made, timeout=self.timeout))
        ((kind, number, item),) = self.cases
        with greenio.timeout(self.timeout):
            if kind == SEND:
                return (0, channels[number].send(item))
            return (0, channels[number].receive())


class World:
    def __init__(self, capacities):
        self.real = [Channel(capacity) for capacity in capacities]
        self.model = [Modelled(capacity) for capacity in capacities]
        self.operations = []
        self.items = 0

    # --- the model

    def ready(self, case):
        kind, number, _ = case
        channel = self.model[number]
        if kind == SEND:
            return channel.closed or channel.lines[RECEIVE] or len(channel.buffer) < channel.capacity
        return channel.buffer or channel.lines[SEND] or channel.closed

    def do(self, case):
        """What comes of a case that is ready: what it returns, or ChannelClosed."""
        kind, number, item = case
        channel = self.model[number]
        if kind == SEND:
            if channel.closed:
                return ChannelClosed
            if channel.lines[RECEIVE]:
                self.finish(*channel.lines[RECEIVE][0], item)
            else:
                channel.buffer.append(item)
            return None
        if not channel.buffer and not channel.lines[SEND]:
            return ChannelClosed
        if channel.lines[SEND]:
            operation, index = channel.lines[SEND][0]
            channel.buffer.append(operation.cases[index][2])
            self.finish(operation, index, None)
        return channel.buffer.popleft()

    def finish(self, operation, index, result):
        operation.expected = ("closed", index) if result is ChannelClosed else (index, result)
        self.leave(operation)

    def leave(self, operation):
        for channel in self.model:
            for kind, line in channel.lines.items():
                channel.lines[kind] = [place for place in line if place[0] is not operation]

    # --- commands

    def start(self, wanted, timeout, plain):
        cases = [(kind, number % len(self.real), self.new_item()) for kind, number in wanted]
        operation = Operation(cases, timeout, plain and len(cases) == 1)
        self.operations.append(operation)
        before = greenio.current_time()
        operation.fiber = greenio.spawn(operation.run, self.real)
        wait_all_parked()
        ready = [index for index, case in enumerate(cases) if self.ready(case)]
        if ready and not (operation.plain and timeout == 0):  # greenio.timeout(0) interrupts the first checkpoint
            assert operation.outcome is not None
            index = operation.outcome[1] if operation.outcome[0] == "closed" else operation.outcome[0]
            assert index in ready
            self.finish(operation, index, self.do(cases[index]))
        elif timeout == 0:
            operation.expected = "timed out"
        else:
            operation.deadline = None if timeout is None else before + timeout
            for index, (kind, number, _) in enumerate(cases):
                self.model[number].lines[kind].append((operation, index))

    def new_item(self):
        self.items += 1
        return self.items

    def now(self, kind, number, by_select):
        """Without waiting, and without letting anybody run."""
        number %= len(self.real)
        case = (kind, number, self.new_item())
        channel = self.real[number]
        expected = self.do(case) if self.ready(case) else WouldBlock
        try:
            if by_select:
                made = sending(channel, case[2]) if kind == SEND else channel
                index, found = select(made, default=WouldBlock)
                assert index == (-1 if found is WouldBlock else 0)
            else:
                found = channel.send_nowait(case[2]) if kind == SEND else channel.receive_nowait()
        except (WouldBlock, ChannelClosed) as error:
            found = type(error)
        assert found == expected

    def close(self, number):
        number %= len(self.real)
        self.real[number].close()
        channel = self.model[number]
        channel.closed = True
        for kind in (RECEIVE, SEND):
            while channel.lines[kind]:
                self.finish(*channel.lines[kind][0], ChannelClosed)

    def cancel(self, number):
        if self.operations:
            operation = self.operations[number % len(self.operations)]
            operation.fiber.cancel()
            if operation.expected is None:
                operation.expected = "cancelled"
                self.leave(operation)

    def sleep(self, seconds):
        greenio.sleep(seconds)
        for operation in self.operations:
            late = operation.deadline is not None and operation.deadline <= greenio.current_time()
            if late and operation.expected is None:
                operation.expected = "timed out"
                self.leave(operation)

    def check(self):
        wait_all_parked()
        for operation in self.operations:
            assert operation.outcome == operation.expected, (operation.cases, operation.fiber)
        for real, model in zip(self.real, self.model, strict=True):
            assert len(real) == len(model.buffer) <= real.capacity
            assert real.closed == model.closed
            assert real.statistics()[:2] == (len(model.lines[SEND]), len(model.lines[RECEIVE]))

    def end(self):
        """Every item that was sent was received once, or is still there."""
        sent, received = set(), []
        for operation in self.operations:
            operation.fiber.cancel()
            operation.fiber.join()
            if isinstance(operation.outcome, tuple) and operation.outcome[0] != "closed":
                kind, _, item = operation.cases[operation.outcome[0]]
                if kind == SEND:
                    sent.add(item)
                else:
                    received.append(operation.outcome[1])
        assert len(received) == len(set(received))
        for real in self.real:
            real.close()
            assert real.statistics()[:2] == (0, 0)


kinds = some.sampled_from([SEND, RECEIVE])
numbers = some.integers(0, 5)
commands = some.one_of(
    some.tuples(
        some.just("start"),
        some.lists(some.tuples(kinds, numbers), min_size=1, max_size=4),
        some.sampled_from([None, None, None, 0, 1, 3]),
        some.booleans(),
    ),
    some.tuples(some.just("now"), kinds, numbers, some.booleans()),
    some.tuples(some.just("close"), numbers),
    some.tuples(some.just("cancel"), some.integers(0, 50)),
    some.tuples(some.just("sleep"), some.sampled_from([1, 2])),
    some.tuples(some.just("check")),
)
histories = some.tuples(
    some.lists(some.sampled_from([0, 0, 1, 2, 5]), min_size=1, max_size=4), some.lists(commands, max_size=40)
)


def play(history):
    capacities, moves = history

    def main():
        world = World(capacities)
        for name, *arguments in moves:
            getattr(world, name)(*arguments)
        world.check()
        world.end()

    greenio.run(main, clock=VirtualClock())


@given(histories)
@settings(max_examples=30, deadline=None, database=None)
def test_channels_and_select_do_as_the_model(history):
    play(history)


@pytest.mark.slow
@given(histories)
@settings(max_examples=3000, deadline=None, database=None)
def test_channels_and_select_do_as_the_model_in_many_histories(history):
    play(history)


STRESS = """
    import random
    import sys
    import threading
    import greenio
    from greenio import CancelScope, Channel, ChannelClosed, receiving, select, sending

    SEED, OPERATIONS, THREADS = map(int, sys.argv[1:])
    WORKERS = 40

    class World:
        def __init__(self):
            self.channels = [self.new_channel(capacity) for capacity in (0, 0, 1, 2, 10, 300)]
            self.retired = []
            self.left = OPERATIONS
            self.sent = []
            self.received = []       # (receiver, item)
            self.interrupted = 0

        def new_channel(self, capacity):
            return Channel(capacity)

    world = World()

    def case(rng, worker, counter):
        number = rng.randrange(len(world.channels))
        channel = world.channels[number]
        if rng.random() < 0.5:
            counter[0] += 1
            return True, (id(channel), worker, counter[0]), channel
        return False, None, channel

    def work(worker, scopes, rng):
        counter = [0]
        me = worker % WORKERS
        while world.left > 0:
            world.left -= 1
            wanted = [case(rng, worker, counter) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            with CancelScope() as scope:
                scopes[me] = scope
                if rng.random() < 0.1:
                    scope.deadline = greenio.current_time() + rng.random() * 1e-4
                result = None
                try:
                    if len(wanted) == 1 and rng.random() < 0.7:
                        ((sends, item, channel),) = wanted
                        result = 0, channel.send(item) if sends else channel.receive()
                    else:
                        made = [sending(channel, item) if sends else receiving(channel) for sends, item, channel in wanted]
                        result = select(*made, timeout=rng.choice((None, None, 0, 1e-5)))
                except (ChannelClosed, TimeoutError):
                    pass
                if result is not None:
                    index, value = result
                    sends, item, channel = wanted[index]
                    if sends:
                        assert value is None
                        world.sent.append(item)
                    else:
                        world.received.append((worker, value))
            world.interrupted += scope.cancelled_caught
            scopes[me] = None

    def disturb(scopes, rng):
        # Cancels somebody all the time, closes a channel now and then; also what keeps everybody from waiting for ever.
        while world.left > 0:
            for scope in rng.sample(scopes, 5):
                if scope is not None:
                    scope.cancel()
            if rng.random() < 0.02:
                number = rng.randrange(len(world.channels))
                old = world.channels[number]
                world.channels[number] = world.new_channel(old.capacity)
                world.retired.append(old)
                old.close()
            greenio.yield_now()
        for channel in world.channels:
            channel.close()

    def main(seed):
        rng = random.Random(seed)
        scopes = [None] * WORKERS
        workers = [greenio.spawn(work, seed * WORKERS + me, scopes, random.Random(rng.random())) for me in range(WORKERS)]
        greenio.spawn(disturb, scopes, rng).join()
        for worker in workers:
            worker.result()

    greenio._select.seed_select(SEED)
    threads = [threading.Thread(target=greenio.run, args=(main, SEED + 1 + n)) for n in range(THREADS - 1)]
    for thread in threads:
        thread.start()
    greenio.run(main, SEED)
    for thread in threads:
        thread.join()

    received = [item for _, item in world.received]
    for channel in world.channels + world.retired:
        assert channel.statistics()[:2] == (0, 0), channel
        received.extend(channel)
    assert len(world.sent) == len(set(world.sent))
    assert len(received) == len(set(received)), "an item came twice"
    assert set(received) == set(world.sent), "an item was lost, or came from a send that did not happen"
    last = {}
    for receiver, (channel, sender, count) in world.received:
        before = last.get((channel, sender, receiver), 0)
        assert before < count, "items of one sender came in another order"
        last[channel, sender, receiver] = count
    assert world.interrupted > OPERATIONS / 100
    print(len(world.sent), "items,", world.interrupted, "interrupted,", len(world.retired), "channels closed")
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_no_item_is_lost_or_doubled(threads):
    run_child(STRESS, "1", "3000", str(threads))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_no_item_is_lost_or_doubled_in_a_million_operations(threads):
    run_child(STRESS, "7", "1000000", str(threads))
