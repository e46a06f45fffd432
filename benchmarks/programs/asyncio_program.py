"""The workloads on asyncio tasks; with `uvloop` as the first argument, on uvloop's event loop."""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine

from ._program import (
    SHORT_SLEEP,
    Census,
    Figures,
    Lap,
    Sleepers,
    cpu_figures,
    lateness_figures,
    run_program,
    sleep_seconds,
    timed,
)

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


def run(main: Coroutine[None, None, Figures]) -> Figures:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def switch(fibers: int, depth: int, yields: int) -> Figures:
    assert depth == 0, "a coroutine cannot await from inside a C callback"

    async def member(lap: Lap | None) -> None:
        await asyncio.sleep(0)
        if lap is not None:
            lap.mark()
        for _ in range(yields):
            await asyncio.sleep(0)
        if lap is not None:
            lap.mark()

    async def main() -> Figures:
        lap = Lap()
        ring = [asyncio.create_task(member(lap if i == 0 else None)) for i in range(fibers)]
        await asyncio.gather(*ring)
        return lap.figures(fibers * yields)

    return run(main())


def spawn(count: int) -> Figures:
    async def nothing() -> None:
        pass

    async def main() -> Figures:
        create_task = asyncio.create_task
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            await create_task(nothing())
        return timed(count, start_ns)

    return run(main())


def sleep(fibers: int, sleeps: int) -> Figures:
    started: list[int] = []

    async def sleeper(fiber: int) -> None:
        started.append(fiber)
        for turn in range(sleeps):
            await asyncio.sleep(sleep_seconds(fiber, turn))

    async def main() -> Figures:
        sleeping = [asyncio.create_task(sleeper(i)) for i in range(fibers)]
        while len(started) < fibers:
            await asyncio.sleep(0)
        start = time.process_time()
        await asyncio.gather(*sleeping)
        return cpu_figures(start, fibers * sleeps)

    return run(main())


def lateness(count: int) -> Figures:
    async def main() -> Figures:
        late = []
        for _ in range(count):
            start = time.perf_counter()
            await asyncio.sleep(SHORT_SLEEP)
            late.append(time.perf_counter() - start - SHORT_SLEEP)
        return lateness_figures(late)

    return run(main())


def memory(fibers: int) -> Figures:
    async def first(census: Census, gate: asyncio.Future[None]) -> None:
        census.started += 1
        try:
            await second(gate)
        finally:
            census.unwound += 1

    async def second(gate: asyncio.Future[None]) -> None:
        await third(gate)

    async def third(gate: asyncio.Future[None]) -> None:
        await gate

    async def main() -> Figures:
        gate = asyncio.get_running_loop().create_future()
        census = Census(fibers)
        parked = [asyncio.create_task(first(census, gate)) for _ in range(fibers)]
        while not census.complete:
            await asyncio.sleep(0)
        census.weigh()
        gate.set_result(None)
        await asyncio.wait(parked)
        return census.figures()

    return run(main())


def sleepers(fibers: int) -> Figures:
    async def main() -> Figures:
        watches = Sleepers(fibers)

        async def sleeper(fiber: int) -> None:
            await asyncio.sleep(watches.seconds_left(fiber))
            watches.woke_up(fiber)

        await asyncio.gather(*(sleeper(i) for i in range(fibers)))
        return watches.figures()

    return run(main())


def channel(capacity: int, items: int) -> Figures:
    async def main() -> Figures:
        channel: asyncio.Queue[int] = asyncio.Queue(capacity or 1)  # one item is as near as a queue comes to none

        async def produce() -> None:
            for item in range(items):
                await channel.put(item)

        start_ns = time.perf_counter_ns()
        producer = asyncio.create_task(produce())
        for _ in range(items):
            await channel.get()
        figures = timed(items, start_ns)
        await producer
        return figures

    return run(main())


def timeout(count: int) -> Figures:
    async def main() -> Figures:
        start_ns = time.perf_counter_ns()
        for _ in range(count):
            async with asyncio.timeout(5):
                pass
        return timed(count, start_ns)

    return run(main())


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        new_event_loop = uvloop.new_event_loop
        del sys.argv[1]
    run_program(switch, spawn, sleep, lateness, memory, sleepers, channel, timeout)
