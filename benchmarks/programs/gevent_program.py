"""The workloads on gevent."""

import time

import gevent
from gevent.event import Event

from ._program import (
    Census,
    Figures,
    Lap,
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


if __name__ == "__main__":
    run_program(switch, spawn, sleep, lateness, memory)
