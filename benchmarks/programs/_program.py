"""What the measured Python programs share: command line, stopwatch, memory, the nested callers.

A program is called as `WORKLOAD name=integer ...` and prints one JSON object, metric by metric.
The workloads, the same ones in each program that offers them:

- switch(fibers, depth, yields): all fibers yield in a ring, each from inside `depth` nested C callbacks;
- spawn(count): one fiber after the other is spawned, runs and is joined;
- sleep(fibers, sleeps): CPU time of a sleep while many fibers sleep;
- lateness(count): how late one lone sleep of 1 ms ends;
- memory(fibers): what a parked fiber costs, three Python calls deep;
- sleepers(fibers): CPU time of fibers that are spawned, wait for moments scattered over one second, and end; how late they are;
- channel(capacity, items): items from one fiber to another, handed over directly if the capacity is 0;
- timeout(count): a timeout around something that does not wait;
- lock(count): a lock that nobody else wants.

Nothing is subtracted from a figure: the `for` loop around a switch is part of it, for everybody.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable

Figures = dict[str, float]
"""Metric to value; the unit is the end of the metric's name."""

SHORT_SLEEP = 0.001  # seconds


def run_program(*workloads: Callable[..., Figures]) -> None:
    """Run the workload that the command line names, and print its figures."""
    name, *assignments = sys.argv[1:]
    workload = {function.__name__: function for function in workloads}[name]
    parameters = {key: int(value) for key, value in (text.split("=") for text in assignments)}
    print(json.dumps(workload(**parameters)), flush=True)


def nested(depth: int, fn: Callable[[], None]) -> int:
    """Call *fn* from inside *depth* C calls, each with a Python callback; the result is what `max` asks for."""
    if depth == 0:
        fn()
        return 0
    return max((depth - 1,), key=lambda rest: nested(rest, fn))


class Lap:
    """Times the ring from its first member: what lies between two marks is `yields` full rounds."""

    def __init__(self) -> None:
        self.marks_ns: list[int] = []

    def mark(self) -> None:
        self.marks_ns.append(time.perf_counter_ns())

    def figures(self, switches: int) -> Figures:
        """The ring's figure, once the first member has marked its start and its end."""
        start, end = self.marks_ns
        return {"ns": (end - start) / switches}


def ring_member(yield_now: Callable[[], object], yields: int, depth: int, lap: Lap | None) -> None:
    """Yield *yields* times; with a *lap*, this is the first member of the ring, which is timed."""

    def loop() -> None:
        yield_now()  # Every other member starts and comes to this line.
        if lap is not None:
            lap.mark()
        for _ in range(yields):
            yield_now()
        if lap is not None:
            lap.mark()

    nested(depth, loop)


def timed(count: int, start_ns: int) -> Figures:
    """The figure of *count* operations that began at *start_ns* and end now."""
    return {"ns": (time.perf_counter_ns() - start_ns) / count}


def sleep_seconds(fiber: int, turn: int) -> float:
    """How long a fiber sleeps: 10 to 49 ms, scattered; at first 0.3 s more, while the others start."""
    return (10 + (fiber * 7919 + turn * 104729) % 40) / 1000 + (0.3 if turn == 0 else 0.0)


def sleeper(sleep: Callable[[float], object], fiber: int, sleeps: int, started: list[int]) -> None:
    """Sleep *sleeps* times, as one of many."""
    started.append(fiber)
    for turn in range(sleeps):
        sleep(sleep_seconds(fiber, turn))


def cpu_figures(start: float, sleeps: int) -> Figures:
    """CPU time of each of *sleeps* since `time.process_time()` was *start*."""
    return {"cpu_us": (time.process_time() - start) / sleeps * 1e6}


def lateness_figures(late: list[float]) -> Figures:
    """The middle one of many latenesses, given in seconds."""
    return {"late_us": statistics.median(late) * 1e6}


def lateness_of(sleep: Callable[[float], object], count: int) -> Figures:
    """How late `sleep(0.001)` returns."""
    late = []
    for _ in range(count):
        start = time.perf_counter()
        sleep(SHORT_SLEEP)
        late.append(time.perf_counter() - start - SHORT_SLEEP)
    return lateness_figures(late)


SETTLE_SECONDS = 4.0  # until the first of the sleepers wakes: all have been spawned and wait


def wake_up_seconds(fiber: int) -> float:
    """When a sleeper wakes, in seconds from the start: scattered over the second after SETTLE_SECONDS."""
    return SETTLE_SECONDS + (fiber * 7919) % 100_003 / 100_003


class Sleepers:
    """The stopwatches of many fibers that each sleep until a moment of their own."""

    def __init__(self, fibers: int) -> None:
        self.fibers = fibers
        self.late: list[float] = []
        self._start = time.perf_counter()
        self._cpu_start = time.process_time()

    def seconds_left(self, fiber: int) -> float:
        return self._start + wake_up_seconds(fiber) - time.perf_counter()

    def woke_up(self, fiber: int) -> None:
        self.late.append(-self.seconds_left(fiber))

    def figures(self) -> Figures:
        """The figures, once all have woken up.

        Raises:
            RuntimeError: some fiber did not wake up, or some were still being spawned when the first did.
        """
        cpu_seconds = time.process_time() - self._cpu_start
        if len(self.late) != self.fibers:
            raise RuntimeError(f"{len(self.late)} of {self.fibers} fibers woke up")
        self.late.sort()
        return {
            "cpu_us": cpu_seconds / self.fibers * 1e6,
            "late_p99_us": self.late[self.fibers * 99 // 100] * 1e6,
        }


class Census:
    """Counts fibers as they park and as they unwind, and weighs the process in between."""

    def __init__(self, fibers: int) -> None:
        self.fibers = fibers
        self.started = 0
        self.unwound = 0
        gc.collect()
        self._before = _resident_bytes()
        self._start = time.perf_counter()

    @property
    def complete(self) -> bool:
        """Whether every fiber has started; each then parks without another step."""
        return self.started == self.fibers

    def weigh(self) -> None:
        """All fibers are parked now: take the memory and the time that this cost."""
        assert self.complete, "not every fiber is parked"
        assert self.unwound == 0, "a fiber has ended already"
        self._created = time.perf_counter()
        self._after = _resident_bytes()

    def figures(self) -> Figures:
        """The figures, once all fibers have ended.

        Raises:
            RuntimeError: some fiber did not run its `finally` block.
        """
        if self.unwound != self.fibers:
            raise RuntimeError(f"{self.unwound} of {self.fibers} fibers were unwound")
        rss, page_tables = (
            (after - before) / self.fibers for before, after in zip(self._before, self._after, strict=True)
        )
        return {
            "rss_bytes": rss,
            "pte_bytes": page_tables,
            "create_s": self._created - self._start,
            "unwind_s": time.perf_counter() - self._created,
        }


def park_three_deep(census: Census, wait: Callable[[], object]) -> None:
    """Call *wait* from the third of three Python functions."""
    census.started += 1
    try:
        _second(wait)
    finally:
        census.unwound += 1


def _second(wait: Callable[[], object]) -> None:
    _third(wait)


def _third(wait: Callable[[], object]) -> None:
    wait()


def _resident_bytes() -> tuple[int, int]:
    """This process's memory: resident (VmRSS) and, beside it, page tables (VmPTE)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        sizes = dict(line.split(":", 1) for line in status)
    rss, page_tables = (int(sizes[key].split()[0]) * 1024 for key in ("VmRSS", "VmPTE"))
    return rss, page_tables
