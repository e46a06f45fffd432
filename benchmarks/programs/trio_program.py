"""The workloads on trio."""

import time

import trio

from ._program import (
    SHORT_SLEEP,
    Census,
    Figures,
    Lap,
    cpu_figures,
    lateness_figures,
    run_program,
    sleep_seconds,
    timed,
)


def switch(fibers: int, depth: int, yields: int) -> Figures:
    assert depth == 0, "a coroutine cannot await from inside a C callback"
    lap = Lap()

    async def member(lap: Lap | None) -> None:
        checkpoint = trio.lowlevel.checkpoint
        await checkpoint()
        if lap is not None:
            lap.mark()
        for _ in range(yields):
            await checkpoint()
        if lap is not None:
            lap.mark()

    async def main() -> None:
        async with trio.open_nursery() as ring:
            for i in range(fibers):
                ring.start_soon(member, lap if i == 0 else None)

    trio.run(main)
    return lap.figures(fibers * yields)


def spawn(count: int) -> Figures:
    async def nothing() -> None:
        pass

    async def main() -> Figures:
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nothing)
        return timed(count, start_ns)

    return trio.run(main)


def sleep(fibers: int, sleeps: int) -> Figures:
    started: list[int] = []

    async def sleeper(fiber: int) -> None:
        started.append(fiber)
        for turn in range(sleeps):
            await trio.sleep(sleep_seconds(fiber, turn))

    async def main() -> Figures:
        async with trio.open_nursery() as nursery:
            for i in range(fibers):
                nursery.start_soon(sleeper, i)
            while len(started) < fibers:
                await trio.lowlevel.checkpoint()
            start = time.process_time()
        return cpu_figures(start, fibers * sleeps)

    return trio.run(main)


def lateness(count: int) -> Figures:
    async def main() -> Figures:
        late = []
        for _ in range(count):
            start = time.perf_counter()
            await trio.sleep(SHORT_SLEEP)
            late.append(time.perf_counter() - start - SHORT_SLEEP)
        return lateness_figures(late)

    return trio.run(main)


def memory(fibers: int) -> Figures:
    async def first(census: Census, gate: trio.Event) -> None:
        census.started += 1
        try:
            await second(gate)
        finally:
            census.unwound += 1

    async def second(gate: trio.Event) -> None:
        await third(gate)

    async def third(gate: trio.Event) -> None:
        await gate.wait()

    async def main() -> Figures:
        gate = trio.Event()
        census = Census(fibers)
        async with trio.open_nursery() as parked:
            for _ in range(fibers):
                parked.start_soon(first, census, gate)
            while not census.complete:
                await trio.lowlevel.checkpoint()
            census.weigh()
            gate.set()
        return census.figures()

    return trio.run(main)


def channel(capacity: int, items: int) -> Figures:
    async def main() -> Figures:
        sender, receiver = trio.open_memory_channel[int](capacity)

        async def produce() -> None:
            for item in range(items):
                await sender.send(item)

        start_ns = time.perf_counter_ns()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            for _ in range(items):
                await receiver.receive()
            return timed(items, start_ns)

    return trio.run(main)


def timeout(count: int) -> Figures:
    async def main() -> Figures:
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            with trio.fail_after(5):
                pass
        return timed(count, start_ns)

    return trio.run(main)


if __name__ == "__main__":
    run_program(switch, spawn, sleep, lateness, memory, channel, timeout)
