"""The workloads on greenio."""

import time

import greenio

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

    def main() -> None:
        ring = [
            greenio.spawn(ring_member, greenio.yield_now, yields, depth, lap if i == 0 else None) for i in range(fibers)
        ]
        for fiber in ring:
            fiber.join()

    greenio.run(main)
    return lap.figures(fibers * yields)


def spawn(count: int) -> Figures:
    def nothing() -> None:
        pass

    def main() -> Figures:
        spawn = greenio.spawn
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            spawn(nothing).join()
        return timed(count, start_ns)

    return greenio.run(main)


def sleep(fibers: int, sleeps: int) -> Figures:
    started: list[int] = []

    def main() -> Figures:
        sleeping = [greenio.spawn(sleeper, greenio.sleep, i, sleeps, started) for i in range(fibers)]
        while len(started) < fibers:
            greenio.yield_now()
        start = time.process_time()
        for fiber in sleeping:
            fiber.join()
        return cpu_figures(start, fibers * sleeps)

    return greenio.run(main)


def lateness(count: int) -> Figures:
    return greenio.run(lateness_of, greenio.sleep, count)


def memory(fibers: int) -> Figures:
    def main() -> Figures:
        # Parked in the join of a fiber that sleeps: no timer or socket adds to what is weighed.
        gate = greenio.spawn(greenio.sleep, 3600)
        census = Census(fibers)
        parked = [greenio.spawn(park_three_deep, census, gate.join) for _ in range(fibers)]
        while not census.complete:
            greenio.yield_now()
        census.weigh()
        gate.cancel()
        for fiber in parked:
            fiber.join()
        return census.figures()

    return greenio.run(main)


def sleepers(fibers: int) -> Figures:
    def main() -> Figures:
        watches = Sleepers(fibers)

        def sleeper(fiber: int) -> None:
            greenio.sleep(watches.seconds_left(fiber))
            watches.woke_up(fiber)

        for fiber in [greenio.spawn(sleeper, i) for i in range(fibers)]:
            fiber.join()
        return watches.figures()

    return greenio.run(main)


def channel(capacity: int, items: int) -> Figures:
    def main() -> Figures:
        channel: greenio.Channel[int] = greenio.Channel(capacity)

        def produce() -> None:
            for item in range(items):
                channel.send(item)

        start_ns = time.perf_counter_ns()
        greenio.spawn(produce)
        for _ in range(items):
            channel.receive()
        return timed(items, start_ns)

    return greenio.run(main)


def timeout(count: int) -> Figures:
    def main() -> Figures:
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            with greenio.timeout(5):
                pass
        return timed(count, start_ns)

    return greenio.run(main)


def lock(count: int) -> Figures:
    def main() -> Figures:
        lock = greenio.Lock()
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            lock.acquire()
            lock.release()
        return timed(count, start_ns)

    return greenio.run(main)


if __name__ == "__main__":
    run_program(switch, spawn, sleep, lateness, memory, sleepers, channel, timeout, lock)
