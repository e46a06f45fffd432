"""Channels and select against a model in plain Python: random sends, receives, selects, timeouts, cancellations, closings.

The model says for each operation what must have come of it, at once: that a fiber which was served, or cancelled, has not run
yet makes no difference to anybody else. Only which one of several ready cases a select draws is left open.
"""

from collections import deque

import pytest

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
