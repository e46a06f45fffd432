"""Cycles of garbage through whatever fibers are parked on, collected at every allocation: what is parked stays, the rest goes.

garbage.py SEED ROUNDS
"""

import gc
import random
import sys
import weakref
from collections.abc import Callable

import greenio
from greenio import (
    Broadcast,
    Channel,
    Condition,
    Event,
    Lock,
    Queue,
    Semaphore,
    TaskGroup,
    move_on_after,
    select,
    sending,
)
from greenio.testing import VirtualClock, wait_all_parked

watched: list[weakref.ref["Knot"]] = []


class Knot:
    """A cycle: it holds what is waited on, the fiber that waits, and itself; the fiber's frames hold it."""

    def __init__(self) -> None:
        self.channel: Channel[object] = Channel(1)
        self.full: Channel[object] = Channel(1)
        self.full.send(self)
        self.event, self.lock, self.semaphore, self.queue = Event(), Lock(), Semaphore(0), Queue()
        self.broadcast: Broadcast[object] = Broadcast(1)
        self.subscription = self.broadcast.subscribe()
        self.condition = Condition()
        self.me = self
        self.fiber: greenio.Fiber | None = None
        watched.append(weakref.ref(self))

    def hold(self) -> None:
        self.lock.acquire()
        self.event.wait()

    def in_group(self) -> None:
        with TaskGroup() as group:
            group.spawn(self.channel.receive)
            group.spawn(self.semaphore.acquire)
            self.event.wait()

    def in_scope(self) -> None:
        with move_on_after(1000) as self.scope:
            self.queue.get()

    def for_notice(self) -> None:
        with self.condition:
            self.condition.wait()

    def choose(self) -> None:
        select(self.channel, sending(self.full, self), self.event, self.subscription, self.queue)

    def wait(self, rng: random.Random) -> None:
        rng.choice(self.ways())()

    def ways(self) -> list[Callable[[], object]]:
        return [
            self.channel.receive,
            lambda: self.full.send(self),
            self.event.wait,
            self.hold,
            self.in_group,
            self.in_scope,
            self.for_notice,
            self.choose,
            self.subscription.receive,
            lambda: greenio.sleep(1000),
        ]


def main(seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    gc.set_threshold(1)
    for _ in range(rounds):
        knots = [Knot() for _ in range(5)]
        for knot in knots:
            knot.fiber = greenio.spawn(knot.wait, rng)
        wait_all_parked()
        some = [weakref.ref(knot) for knot in knots]
        fibers = [knot.fiber for knot in knots]
        del knots, knot
        gc.collect()
        assert all(fiber.state == "parked" for fiber in fibers), "a collection must not touch what is parked"
        assert all(knot() is not None for knot in some), "their frames hold them"
        for fiber in fibers:
            rng.choice((fiber.cancel, lambda: None))()
        greenio.yield_now()
        gc.collect()
        for fiber in fibers:
            fiber.cancel()
        for fiber in fibers:
            fiber.join()
        del fibers, fiber
        # Never waited for and never run: as garbage.
        lost = Knot()
        lost.fiber = greenio.spawn(lost.choose)
        lost.fiber.cancel()
        del lost
    wait_all_parked()
    gc.set_threshold(700, 10, 10)
    for _ in range(3):
        greenio.yield_now()
        gc.collect()
    left = [knot() for knot in watched if knot() is not None]
    assert not left, (len(left), left[0].fiber)


greenio.run(main, int(sys.argv[1]), int(sys.argv[2]), clock=VirtualClock())
