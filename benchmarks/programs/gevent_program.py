"""The workloads on gevent."""

import time

import gevent
from gevent.event import Event
from gevent.queue import Channel, Queue

from ._program import (
    Census,
    Figures,
    Lap,
    Sleepers,
    cpu_figures,
    lateness_of,
    park_three_deep,
    ring_member,
    run_program,
    sleeper,
    timed,
)


def switch(fibers: int, depth: int, yields: int) -> Figures:
    lap = Lap()
    gevent.joinall(
        [gevent.spawn(ring_member, gevent.sleep, yields, depth, lap if i == 0 else None) for i in range(fibers)]
    )
    return lap.figures(fibers * yields)


def spawn(count: int) -> Figures:
    def nothing() -> None:
        pass

    start_ns = time.perf_counter_ns()
    for _ in range(count):
        gevent.spawn(nothing).join()
    return timed(count, start_ns)


def sleep(fibers: int, sleeps: int) -> Figures:
    started: list[int] = []
    sleeping = [gevent.spawn(sleeper, gevent.sleep, i, sleeps, started) for i in range(fibers)]
    while len(started) < fibers:
        gevent.sleep()
    start = time.process_time()
    gevent.joinall(sleeping)
    return cpu_figures(start, fibers * sleeps)


def lateness(count: int) -> Figures:
    return lateness_of(gevent.sleep, count)


def memory(fibers: int) -> Figures:
    gate = Event()
    census = Census(fibers)
    parked = [gevent.spawn(park_three_deep, census, gate.wait) for _ in range(fibers)]
    while not census.complete:
        gevent.sleep()
    census.weigh()
    gate.set()
    gevent.joinall(parked)
    return census.figures()


def sleepers(fibers: int) -> Figures:
    watches = Sleepers(fibers)

    def sleeper(fiber: int) -> None:
        gevent.sleep(watches.seconds_left(fiber))
        watches.woke_up(fiber)

    gevent.joinall([gevent.spawn(sleeper, i) for i in range(fibers)])
    return watches.figures()


def channel(capacity: int, items: int) -> Figures:
    channel = Queue(capacity) if capacity else Channel()

    def produce() -> None:
        for item in range(items):
            channel.put(item)

    start_ns = time.perf_counter_ns()
    gevent.spawn(produce)
    for _ in range(items):
        channel.get()
    return timed(items, start_ns)


def timeout(count: int) -> Figures:
    start_ns = time.perf_counter_ns()
    for _ in range(count):
        with gevent.Timeout(5):
            pass
    return timed(count, start_ns)


if __name__ == "__main__":
    run_program(switch, spawn, sleep, lateness, memory, sleepers, channel, timeout)
